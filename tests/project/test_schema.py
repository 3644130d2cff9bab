# SPDX-License-Identifier: LGPL-2.1-or-later
"""packaging/boot.schema.json: what the program writes passes, anything else does not, and the manual has it all."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from bootseal import verdicts
from bootseal.record import Ending, Trail, as_json, of
from unit.host.running import recorded
from unit.host.schema import SCHEMA, errors
from unit.support import TREE


def test_schema_has_every_verdict() -> None:
    assert SCHEMA["properties"]["verdict"]["enum"] == [verdict.name for verdict in verdicts.VERDICTS]


@pytest.mark.parametrize("verdict", verdicts.VERDICTS, ids=lambda v: v.name)
def test_schema_takes_a_record_of_each_verdict(verdict: verdicts.Verdict) -> None:
    if verdict is not verdicts.VERIFIED:
        record = of(Trail(), Ending(verdict, f"refused ({verdict.name}): x: y", verdict.hint))
        assert errors(json.loads(json.dumps(as_json(record)))) == []
    assert errors(recorded()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"verdict": "fine"},
        {"boot_id": "x"},
        {"other": 1},
        {"not_covered": "/etc"},
        {"not_covered": [1]},
        {"mount": {}},
        {"deployment": recorded()["deployment"] | {"stateroot": "a b"}},
        {"image": recorded()["image"] | {"id": "a b"}},
        {"image": recorded()["image"] | {"version": "x" * 65}},
        {"keyring": {"certificates": 0, "skipped": []}},
        {"milliseconds": {"x": -1}},
        {"image": {"path": "x"}},
    ],
    ids=str,
)
def test_schema_refuses(change: dict[str, Any]) -> None:
    assert errors(recorded() | change)


@pytest.mark.parametrize(
    "member", ["deployment", "image", "signature", "enrollment", "keyring", "mount", "not_covered", "message"]
)
def test_schema_asks_for_all_of_a_verified_boot(member: str) -> None:
    record = recorded()
    del record[member]
    assert errors(record)


def test_manual_page_has_every_member_of_the_schema() -> None:
    page = (TREE / "packaging/man/bootseal.json.5").read_text().replace("\\-", "-")

    def members(schema: Any) -> Iterator[str]:
        for name, member in schema.get("properties", {}).items():
            yield name
            yield from member.get("enum", ()) if name not in ("verdict", "name") else ()
            yield from members(member)
            yield from members(member.get("items", {}))

    words = set(re.findall(r"[\w.-]+", page))
    assert set(members(SCHEMA)) - words == set()
