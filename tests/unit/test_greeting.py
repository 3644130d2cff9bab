# SPDX-License-Identifier: LGPL-2.1-or-later
"""greeting.py: what stands above the prompt of the emergency shell."""

import json
from pathlib import Path
from typing import Any

import pytest

from bootseal import greeting, report


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(report, "console", lines.append)
    monkeypatch.setattr(report, "PATH", str(tmp_path / "boot.json"))
    return lines


def write(record: dict[str, Any]) -> None:
    Path(report.PATH).write_text(json.dumps({"version": 1} | record))


def test_a_refused_boot(said: list[str]) -> None:
    details = [{"name": "image has", "value": "sha256:00"}, {"name": "signed is", "value": "sha256:11"}]
    write({"verdict": "image-mismatch", "message": "refused (image-mismatch): x: /p", "hint": "do this", "details": details})
    assert greeting.main() == 0
    assert (said[0], said[-1]) == ("", "")
    assert said[1:5] == [
        "bootseal: this boot was refused",
        "  refused (image-mismatch): x: /p",
        "  image has         sha256:00",
        "  signed is         sha256:11",
    ]
    assert said[5].split("  ")[-1].strip() == "do this"
    assert "systemctl restart bootseal.service" in said[6]


def test_after_a_change_only_a_reboot_helps(said: list[str]) -> None:
    write({"verdict": "changed", "message": "refused (changed): x: /sysroot", "hint": "do this"})
    assert greeting.main() == 0
    assert [line.split() for line in said if line.startswith("  then ")] == [["then", "reboot"]]


def test_notes_on_certificates(said: list[str]) -> None:
    notes = ["certificate skipped: /k/old.crt: an RSA key of 1024 bits", "certificate not in the kernel: ab12: ENOPKG"]
    write({"verdict": "untrusted-signer", "message": "refused (untrusted-signer): x: /p", "hint": "do this", "notes": notes})
    assert greeting.main() == 0
    assert [line.split(maxsplit=1)[1].strip() for line in said if line.startswith("  note ")] == notes


@pytest.mark.parametrize("record", [{"verdict": "verified", "message": "verified"}, {}])
def test_nothing_to_say(record: dict[str, Any], said: list[str]) -> None:
    write(record)
    assert greeting.main() == 0
    assert said == []


def test_without_a_record(said: list[str]) -> None:
    assert greeting.main() == 0
    assert said == []
