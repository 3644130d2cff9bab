# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test verdicts.py: the verdicts and exit statuses that users rely on, and the catalog."""

import re

import pytest

from bootseal import verdicts
from unit.support import TREE

# As in bootseal.service(8).
EXIT_STATUSES = {
    "verified": 0, "bad-command-line": 64, "no-deployment": 66, "no-image": 66, "no-digest": 66, "no-signature": 66,
    "bad-image": 65, "bad-digest": 65, "bad-signature": 65,
    "untrusted-signer": 77, "wrong-signature": 77, "image-unsealed": 77, "image-mismatch": 77,
    "no-keys": 78, "bad-config": 78, "unsupported": 69, "io-error": 74, "enroll-failed": 71, "mount-failed": 71, "changed": 71,
    "internal": 70,
}  # fmt: skip


def test_exit_statuses_are_stable() -> None:
    statuses = {v.name: v.exit_status for v in verdicts.VERDICTS}
    assert statuses.pop("interrupted") == 1  # of the guard; the service itself was killed
    assert statuses == EXIT_STATUSES


def test_only_verified_is_success() -> None:
    assert [v.name for v in verdicts.VERDICTS if v.exit_status == 0] == ["verified"]


def test_every_verdict_is_listed() -> None:
    defined = {value for value in vars(verdicts).values() if isinstance(value, verdicts.Verdict)}
    assert defined == set(verdicts.VERDICTS)
    assert len(verdicts.VERDICTS) == len({v.name for v in verdicts.VERDICTS})


@pytest.mark.parametrize("verdict", verdicts.VERDICTS, ids=lambda v: v.name)
def test_message_id_is_a_journal_id(verdict: verdicts.Verdict) -> None:
    assert re.fullmatch("[0-9a-f]{32}", verdict.message_id)


def test_message_ids_are_unique() -> None:
    assert len({v.message_id for v in verdicts.VERDICTS}) == len(verdicts.VERDICTS)


def test_catalog_has_every_message_id() -> None:
    catalog = (TREE / "packaging/bootseal.catalog").read_text()
    ids = re.findall(r"^-- ([0-9a-f]+)(?: \w+)?$", catalog, re.MULTILINE)
    assert sorted(set(ids)) == sorted([v.message_id for v in verdicts.VERDICTS] + [n.message_id for n in verdicts.NOTES])
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("verdict", [v for v in verdicts.VERDICTS if v is not verdicts.VERIFIED], ids=lambda v: v.name)
def test_hint_is_one_printable_line(verdict: verdicts.Verdict) -> None:
    """Consoles show a hint in one line. It has no full stop."""
    assert verdict.hint
    assert all(" " <= c <= "~" for c in verdict.hint)
    assert not verdict.hint.endswith(".")
