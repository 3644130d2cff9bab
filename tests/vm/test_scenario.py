# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checks of a refusal fail for every fact that a refusal lacks. No guest is booted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootseal import verdicts
from vm.harness import guest
from vm.scenario import Outcome, Refused

VERDICT = verdicts.NO_SIGNATURE
MESSAGE = "refused (no-signature): missing: /sysroot/image.sig"
EXPECTED = Refused("no-signature", r"missing: /sysroot/image\.sig")
TIMES = {"wait": 1.0, "locate": 1.0}
RECORD = {"version": 1, "verdict": "no-signature", "message": MESSAGE, "hint": VERDICT.hint, "milliseconds": TIMES}
ENTRY = {"BOOTSEAL_VERDICT": "no-signature", "MESSAGE": MESSAGE, "MESSAGE_ID": VERDICT.message_id}
CONSOLE = f"""\
bootseal: {MESSAGE}
bootseal: hint: {VERDICT.hint}
\x1b[0mbootseal: this boot was refused
  {MESSAGE}
  what to do        {VERDICT.hint}
"""
REPORT = f"""\
guest: boot.json
{json.dumps(RECORD, indent=1)}
guest: mountinfo
2 1 0:3 / / rw shared:1 - rootfs rootfs rw
40 2 254:0 / /sysroot ro,relatime shared:28 - ext4 /dev/vda ro
guest: emergency script

=== unit
ActiveState=failed
StatusText={MESSAGE}
Result=exit-code
ExecMainStatus=66

=== targets
Id=initrd-root-fs.target
ActiveState=inactive

Id=initrd-switch-root.target
ActiveState=inactive

Id=initrd-switch-root.service
ActiveState=inactive

=== journal
{json.dumps(ENTRY)}
{{"MESSAGE": "hint"}}

=== run
/run/bootseal:
boot.json
"""


def _refusal(console: str = CONSOLE, report: str = REPORT, *, status: int = guest.REFUSED, written: int = 0) -> Outcome:
    deployment = guest.Deployment("forky", Path("/"), Path("/cfs"), "ostree/deploy", "/ostree")
    result = guest.Result(status, "exit", console, report, Path("/overlay"), 1.0)
    return Outcome(result, guest.Image(Path("/disk"), "ext4", Path("/kernel"), deployment), written)


def _in_report(old: str, new: str) -> Callable[[], Outcome]:
    assert old in REPORT
    return lambda: _refusal(report=REPORT.replace(old, new))


def _in_console(old: str, new: str) -> Callable[[], Outcome]:
    assert old in CONSOLE
    return lambda: _refusal(console=CONSOLE.replace(old, new))


def _mounted(line: str) -> Callable[[], Outcome]:
    return _in_report("guest: emergency script", f"{line}\nguest: emergency script")


LACKING = {
    "status": lambda: _refusal(status=guest.PASSED),
    "disk": lambda: _refusal(written=4096),
    "console-verdict": _in_console("bootseal: refused (no-signature)", "bootseal: refused (no-image)"),
    "console-hint": _in_console("bootseal: hint: ", "bootseal: hint: no "),
    "console-twice": lambda: _refusal(console=CONSOLE + f"bootseal: {MESSAGE}\n"),
    "switch": lambda: _refusal(console=CONSOLE + "Switching root\n"),
    "greeting": _in_console("  what to do  ", "  what to do "),
    "record-verdict": _in_report('"verdict": "no-signature"', '"verdict": "no-image"'),
    "record-mount": _in_report('"version": 1', '"mount": {}, "version": 1'),
    "unit-state": _in_report("ActiveState=failed", "ActiveState=active"),
    "unit-status": _in_report("ExecMainStatus=66", "ExecMainStatus=65"),
    "journal": _in_report('"BOOTSEAL_VERDICT": "no-signature"', '"BOOTSEAL_VERDICT": "no-image"'),
    "journal-id": _in_report(VERDICT.message_id, verdicts.VERIFIED.message_id),
    "mounted": _mounted("41 2 0:9 / /elsewhere ro - erofs composefs ro"),
    "mounted-below": _mounted("41 40 0:9 / /sysroot/etc ro - ext4 /dev/vda ro"),
    "unmounted": _in_report("/sysroot ro", "/elsewhere ro"),
    "writable": _in_report("- ext4 /dev/vda ro", "- ext4 /dev/vda rw"),
    "target": _in_report("Id=initrd-root-fs.target\nActiveState=inactive", "Id=initrd-root-fs.target\nActiveState=active"),
    "leftovers": _in_report("/run/bootseal:", "/run/bootseal:\nostree-booted"),
}  # fmt: skip


def test_refusal_with_everything_passes() -> None:
    EXPECTED.check(_refusal())


@pytest.mark.parametrize("outcome", LACKING.values(), ids=list(LACKING))
def test_refusal_that_lacks_one_fact_fails(outcome: Callable[[], Outcome]) -> None:
    with pytest.raises(AssertionError):
        EXPECTED.check(outcome())


# --- a refusal before the physical root is mounted


@pytest.mark.parametrize(("mounted", "target", "passes"), [
    (None, "/sysroot", True), (None, "/elsewhere", True), (False, "/sysroot", False), (False, "/elsewhere", True),
    (True, "/elsewhere", False),
])  # fmt: skip
def test_early_refusal_may_come_before_the_mount(*, mounted: bool | None, target: str, passes: bool) -> None:
    report = REPORT.replace('"wait"', '"keyring"').replace("/sysroot ro", f"{target} ro")
    expected, outcome = replace(EXPECTED, mounted=mounted), _refusal(report=report)
    if passes:
        expected.check(outcome)
    else:
        with pytest.raises(AssertionError):
            expected.check(outcome)
