# SPDX-License-Identifier: LGPL-2.1-or-later
"""Refused and disturbed boots: changed disks, what a refusal must look like, ends of the service and of the initrd."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootseal import verdicts
from vm.harness import guest, parse, signed
from vm.harness.ask import ask
from vm.harness.changes import Change, changed

# The contract's table: exit status of the unit by verdict. `interrupted` has none of its own.
EXIT_STATUS = {
    "verified": 0, "bad-command-line": 64, "no-deployment": 66, "no-image": 66, "no-digest": 66, "no-signature": 66,
    "bad-image": 65, "bad-digest": 65, "bad-signature": 65, "untrusted-signer": 77, "wrong-signature": 77,
    "image-unsealed": 77, "image-mismatch": 77, "no-keys": 78, "bad-config": 78, "unsupported": 69, "io-error": 74,
    "enroll-failed": 71, "mount-failed": 71, "changed": 71, "internal": 70,
}  # fmt: skip
UNREAD_DISK = "fsck.mode=skip"
MINUTE = 60.0

# What the initrd's emergency environment says about the boot that ended there.
WITNESS = ask(
    unit="systemctl show -p ActiveState,Result,ExecMainStatus,StatusText bootseal.service",
    targets="systemctl show -p Id,ActiveState initrd-root-fs.target initrd-switch-root.target initrd-switch-root.service",
    times="systemctl show -p ActiveEnterTimestampMonotonic sysroot.mount; cat /proc/uptime",
    journal="journalctl --quiet --boot --output=json SYSLOG_IDENTIFIER=bootseal",
    run="ls -A /run /run/bootseal",
)


# --- boots


@dataclass(frozen=True)
class Outcome:
    """A boot, with all that needs its disk; the disk itself may be gone."""

    result: guest.Result
    image: guest.Image
    written: int

    @property
    def console(self) -> list[str]:
        """The console's lines, without the colours and cursor movements of systemd's."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.result.console).splitlines()

    @property
    def sections(self) -> dict[str, str]:
        return parse.sections(self.result.report)

    @property
    def record(self) -> dict[str, Any]:
        """boot.json, as the emergency environment printed it."""
        text = self.result.report.partition("guest: boot.json\n")[2].partition("guest: mountinfo\n")[0]
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    @property
    def mounts(self) -> list[dict[str, str]]:
        """/proc/self/mountinfo, as the emergency environment printed it."""
        text = self.result.report.partition("guest: mountinfo\n")[2].partition("guest: emergency script\n")[0]
        return [_mount(line) for line in text.splitlines()]


def _mount(line: str) -> dict[str, str]:
    before, _, after = line.partition(" - ")
    fields, rest = before.split(), after.split()
    return {"at": fields[4], "options": fields[5], "type": rest[0], "source": rest[1], "super": rest[2]}


def boot(change: Change | None = None, *, suite: str = "forky", initrd: Path | None = None, **options: Any) -> Outcome:
    """Boot a disk with a change; its copy is removed afterwards."""
    image = signed.image(suite)
    disk = changed(image, change)
    try:
        result = guest.boot(image, initrd or signed.initrd(suite), disk=disk, **options)
        return Outcome(result, image, result.bytes_written())
    finally:
        if change is not None:
            disk.unlink()


# --- what a refusal looks like


def check_refusal(outcome: Outcome, verdict: str, what: str, *, written: bool = False) -> None:
    """Everything that the contract says of a refusal. `what` is a regular expression for all after the verdict."""
    parse.ended(outcome.result, guest.REFUSED)
    message = _check_console(outcome, verdict, what)
    _check_record(outcome, verdict, message)
    _check_unit(outcome, verdict, message)
    _check_journal(outcome, verdict, message)
    check_nothing_mounted(outcome)
    if not written:
        assert outcome.written == 0


def check_interrupted(outcome: Outcome, what: str, verdict: str = "interrupted") -> None:
    """The end of a service that was not its own: within a minute, and everything as it was before."""
    parse.ended(outcome.result, guest.REFUSED)
    lines = [line for line in outcome.console if line.startswith("bootseal: ")]
    assert re.fullmatch(rf"bootseal: refused \({verdict}\): {what}: bootseal\.service", lines[0]), lines
    assert lines[1].startswith("bootseal: hint: ")
    _check_greeting(outcome, lines[0].removeprefix("bootseal: "))
    assert outcome.record["verdict"] == verdict
    check_nothing_mounted(outcome)
    assert seconds_after_sysroot(outcome) < MINUTE


def _check_console(outcome: Outcome, verdict: str, what: str) -> str:
    lines = [line for line in outcome.console if "bootseal: refused" in line or "bootseal: hint:" in line]
    assert len(lines) == 2, lines
    assert re.fullmatch(rf"bootseal: refused \({verdict}\): {what}", lines[0]), lines[0]
    assert lines[1] == f"bootseal: hint: {_verdict(verdict).hint}"
    assert outcome.console.index(lines[1]) > outcome.console.index(lines[0])
    message = lines[0].removeprefix("bootseal: ")
    _check_greeting(outcome, message)
    return message


def _check_greeting(outcome: Outcome, message: str) -> None:
    """What stands above the prompt of the emergency shell, and before that, line by line, on the console."""
    start = outcome.console.index("bootseal: this boot was refused")
    greeting = outcome.console[start + 1 : start + 16]
    details = [(detail["name"], detail["value"]) for detail in outcome.record.get("details", ())]
    assert greeting[0] == f"  {message}"
    assert greeting[1 : 1 + len(details)] == [f"  {name:18}{value}" for name, value in details]
    assert greeting[1 + len(details)] == f"  what to do        {outcome.record['hint']}"
    for name, value in details:
        assert outcome.console.index(f"bootseal: {name}: {value}") < start


def _verdict(name: str) -> verdicts.Verdict:
    return next(verdict for verdict in verdicts.VERDICTS if verdict.name == name)


def _check_record(outcome: Outcome, verdict: str, message: str) -> None:
    record = outcome.record
    assert (record["version"], record["verdict"], record["message"]) == (1, verdict, message)
    assert record["hint"] == _verdict(verdict).hint
    assert "mount" not in record
    assert [detail["name"] for detail in record.get("details", ())] == _DETAILS.get(verdict, _signer(record))


_DETAILS = {
    "untrusted-signer": ["digest file says", "signer", "trusted"],
    "wrong-signature": ["digest file says", "signer", "trusted"],
    "image-mismatch": ["image has", "signed is", "signer", "trusted"],
}


def _signer(record: dict[str, Any]) -> list[str]:
    return ["signer"] if "signature" in record else []


def _check_unit(outcome: Outcome, verdict: str, message: str) -> None:
    unit = properties(outcome.sections["unit"])
    assert unit["ActiveState"] == "failed"
    assert unit["StatusText"] == message
    if verdict in EXIT_STATUS:
        assert (unit["Result"], unit["ExecMainStatus"]) == ("exit-code", str(EXIT_STATUS[verdict]))


def _check_journal(outcome: Outcome, verdict: str, message: str) -> None:
    entries = [e for e in parse.json_lines(outcome.sections["journal"]) if "BOOTSEAL_VERDICT" in e]
    assert [(e["BOOTSEAL_VERDICT"], e["MESSAGE"], e["MESSAGE_ID"]) for e in entries] == [
        (verdict, message, _verdict(verdict).message_id)
    ]


def check_nothing_mounted(outcome: Outcome) -> None:
    """/sysroot is the physical root and read-only, nothing of ours is anywhere, and nothing went on."""
    at_sysroot = [m for m in outcome.mounts if (m["at"] + "/").startswith("/sysroot/")]
    assert [(m["at"], m["source"], m["type"]) for m in at_sysroot] == [("/sysroot", "/dev/vda", outcome.image.fs)]
    assert {option for m in at_sysroot for option in (m["options"] + "," + m["super"]).split(",")} & {"ro", "rw"} == {"ro"}
    assert not [m for m in outcome.mounts if m["type"] in ("erofs", "overlay") or "bootseal" in m["at"]]
    targets = outcome.sections["targets"]
    assert targets.count("ActiveState=inactive") == targets.count("Id=") == 3, targets
    run = outcome.sections["run"].split()
    assert not {"ostree-booted", "ostree", "superblock-was-read-only"} & set(run), run
    assert not [line for line in outcome.console if "Switching root" in line or "Switch Root" in line]


def properties(text: str) -> dict[str, str]:
    """What `systemctl show` printed of one unit."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def seconds_after_sysroot(outcome: Outcome) -> float:
    """From the mount of the physical root to the emergency environment's script."""
    lines = outcome.sections["times"].splitlines()
    return float(lines[1].split()[0]) - int(lines[0].partition("=")[2]) / 1e6
