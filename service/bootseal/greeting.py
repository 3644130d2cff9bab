# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands above the prompt of the emergency shell after a refused boot: the record, for people.

ExecStartPre= of the emergency services, see emergency.conf. On every console, for a shell may be on any of them.
"""

from . import report, verdicts
from .report import Record

_INDENT = 18
_GO_ON = "'systemctl restart bootseal.service' and leave this shell, or reboot and choose another boot entry"
_AGAIN = "reboot"


def main() -> int:
    """Returns 0, also where there is nothing to say."""
    record = report.load()
    if record.get("verdict") not in (None, verdicts.VERIFIED.name):
        for line in _lines(record):
            report.console(line)
    return 0


def _lines(record: Record) -> list[str]:
    details = [(detail["name"], detail["value"]) for detail in record.get("details", ())]
    rows = [
        ("", record["message"]),
        *details,
        ("what to do", record.get("hint", "")),
        *(("note", text) for text in record.get("notes", ())),
        ("then", _AGAIN if record["verdict"] == verdicts.CHANGED.name else _GO_ON),
        ("more", "journalctl -b -u bootseal.service; /run/bootseal/boot.json; the manual page bootseal.service(8)"),
    ]
    return [
        "",
        "bootseal: this boot was refused",
        *(f"  {name:{_INDENT}}{value}" if name else f"  {value}" for name, value in rows),
        "",
    ]
