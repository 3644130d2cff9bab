# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe a boot as one row: changes before it, questions to it, and the result that it must have.

README.md says how to add one. Each expectation checks everything that such a boot must show, in one place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pytest

from bootseal import verdicts
from vm.harness import guest, parse, signed
from vm.harness.ask import ask
from vm.harness.changes import Change, changed
from vm.harness.jobs import Job

# The exit status of the unit by verdict, as bootseal.service(8) lists it. `interrupted` has no status.
EXIT_STATUS = {
    "verified": 0, "bad-command-line": 64, "no-deployment": 66, "no-image": 66, "no-digest": 66, "no-signature": 66,
    "bad-image": 65, "bad-digest": 65, "bad-signature": 65, "untrusted-signer": 77, "wrong-signature": 77,
    "image-unsealed": 77, "image-mismatch": 77, "no-keys": 78, "bad-config": 78, "unsupported": 69, "io-error": 74,
    "enroll-failed": 71, "mount-failed": 71, "changed": 71, "internal": 70,
}  # fmt: skip
UNREAD_DISK = "fsck.mode=skip"
MINUTE = 60.0

# Report, from the initrd's emergency environment, the boot that ended there.
WITNESS = ask(
    unit="systemctl show -p ActiveState,Result,ExecMainStatus,StatusText bootseal.service",
    targets="systemctl show -p Id,ActiveState initrd-root-fs.target initrd-switch-root.target initrd-switch-root.service",
    switch="systemctl show -p ActiveState,Result initrd-switch-root.service",
    sysroot="systemctl show -p ActiveState,ActiveEnterTimestampMonotonic sysroot.mount",
    times="systemctl show -P InactiveExitTimestampMonotonic bootseal.service; cat /proc/uptime",
    journal="journalctl --quiet --boot --output=json SYSLOG_IDENTIFIER=bootseal",
    run="ls -A /run /run/bootseal",
)

Files = Mapping[str, guest.Content]
Script = str | Callable[[], str]


# --- boots


@dataclass(frozen=True)
class Outcome(parse.Said):
    """The result of a boot, with all facts from its disk; the disk itself may be gone."""

    image: guest.Image
    written: int


def boot(
    change: Change | None = None,
    *,
    suite: str = "forky",
    image: guest.Image | None = None,
    initrd: Path | None = None,
    **options: Any,
) -> Outcome:
    """Boot a disk with a change; its copy is removed afterwards."""
    image = image or signed.image(suite)
    disk = changed(image, change)
    try:
        result = guest.boot(image, initrd or signed.initrd(suite), disk=disk, **options)
        return Outcome(result, image, result.bytes_written())
    finally:
        if change is not None:
            disk.unlink()


class Expectation(Protocol):
    """The result that a boot must have."""

    def check(self, outcome: Outcome) -> None:
        """Fail unless it did."""


@dataclass(frozen=True)
class Scenario:
    """One boot. `initrd` are files put into the initrd. A function makes what needs the disk or a key."""

    id: str
    expect: Expectation
    disk: Change | None = None
    initrd: Files | Callable[[], Files] = dict
    cmdline: str = ""  # more of it
    ostree: str | None = None  # in the place of the argument ostree=
    script: Script = ""  # for the booted system
    waiting: Script = ""  # for the initrd: the physical root is mounted when it ends
    pause: bool = False  # the machine, when that script says `guest: pause` on the console
    emergency: Script = WITNESS  # for the emergency environment of the initrd
    suite: str = "forky"
    fsck: bool = False  # it may write to the disk
    rw: bool = False
    readonly: bool = False  # the medium
    built: Callable[[], Path] | None = None  # another initrd
    image: Callable[[], guest.Image] | None = None  # another disk
    whole: bool = False  # never resumed from a saved state
    idle: bool = False  # it mostly sleeps
    nightly: bool = False  # 'make test' boots another one much like it

    def files(self) -> Files:
        """Make the files for the initrd."""
        return self.initrd() if callable(self.initrd) else self.initrd

    def run(self) -> Outcome:
        """Boot it."""
        return boot(
            self.disk,
            suite=self.suite,
            image=self.image and self.image(),
            initrd=self.built and self.built(),
            append=self.cmdline if self.fsck else f"{UNREAD_DISK} {self.cmdline}",
            karg=self.ostree,
            extra_initrd_files=self.files(),
            script=_text(self.script),
            emergency_script=_text(self.emergency),
            waiting_script=_text(self.waiting),
            pause=self.pause,
            rw=self.rw,
            readonly=self.readonly,
            whole=self.whole or self.built is not None,
            title=f"{type(self.expect).__name__.lower()}: {self.id}",
        )

    @cached_property
    def job(self) -> Job[Outcome]:
        """Boot it in the background, once for all tests."""
        return Job(self.run, idle=self.idle)

    def row(self, *more: object) -> pytest.ParameterSet:
        """Make a test's parameters: `more`, then the boot."""
        return pytest.param(*more, self.job, id=self.id, marks=nightly(self.nightly))


def nightly(chosen: bool) -> list[pytest.MarkDecorator]:  # noqa: FBT001
    """Mark a row that `make test` leaves out, if it is `chosen`."""
    return [pytest.mark.nightly] if chosen else []


def _text(script: Script) -> str:
    return script() if callable(script) else script


def rows(scenarios: Iterable[Scenario]) -> pytest.MarkDecorator:
    """Parametrize a test with scenarios and their boots."""
    return pytest.mark.parametrize(("scenario", "job"), [scenario.row(scenario) for scenario in scenarios])


def runs(*scenarios: Scenario) -> pytest.MarkDecorator:
    """Parametrize a test with the boots of scenarios."""
    return pytest.mark.parametrize("job", [scenario.row() for scenario in scenarios])


# --- the results that a boot must have


@dataclass(frozen=True)
class Passed:
    """The test's script ran to its end: in the booted system, or with the status of a refusal in the initrd."""

    status: int = guest.PASSED
    unwritten: bool = False

    def check(self, outcome: Outcome) -> None:
        """Fail unless it did."""
        outcome.must_end(self.status)
        assert not self.unwritten or outcome.written == 0


@dataclass(frozen=True)
class Refused:
    """A verdict of the service. `what` is a regular expression for all after the verdict."""

    verdict: str
    what: str
    unwritten: bool = True  # not where enrolling is attempted, or the kernel notes an error on the disk
    mounted: bool | None = None  # the physical root; of course, if the service has waited for it
    hint: str = ""  # if it is not the verdict's
    details: tuple[str, ...] = ()  # their names, if they are not the verdict's

    def check(self, outcome: Outcome) -> None:
        """Check console, greeting, record, unit, journal and disk; and that nothing is mounted."""
        outcome.must_end(guest.REFUSED)
        hint = self.hint or _verdict(self.verdict).hint
        message = _check_console(outcome, self.verdict, self.what, hint)
        _check_record(outcome, self.verdict, message, hint, self.details)
        _check_unit(outcome, self.verdict, message)
        _check_journal(outcome, self.verdict, message)
        waited = "wait" in outcome.record["milliseconds"]
        _check_nothing_mounted(outcome, mounted=waited or self.mounted)
        assert not self.unwritten or outcome.written == 0


@dataclass(frozen=True)
class Interrupted:
    """A service that was killed or never ran: the boot ends within a minute, and everything is as before."""

    what: str
    verdict: str = "interrupted"
    unit: str = "bootseal.service"  # that the message names
    mounted: bool | None = True  # the physical root; None: it may be or not
    unwritten: bool = False

    def check(self, outcome: Outcome) -> None:
        """Check console, greeting, record and time; and that nothing is mounted."""
        outcome.must_end(guest.REFUSED)
        lines = [line for line in outcome.console if line.startswith("bootseal: ")]
        assert re.fullmatch(rf"bootseal: refused \({self.verdict}\): {self.what}: {re.escape(self.unit)}", lines[0]), lines
        assert lines[1].startswith("bootseal: hint: ")
        _check_greeting(outcome, lines[0].removeprefix("bootseal: "))
        assert outcome.record["verdict"] == self.verdict
        _check_nothing_mounted(outcome, mounted=self.mounted)
        assert _seconds(outcome) < MINUTE
        assert not self.unwritten or outcome.written == 0


@dataclass(frozen=True)
class Changed:
    """The refusal of the last look: a hook mounted or unmounted something after the service had attached the root."""

    what: str

    def check(self, outcome: Outcome) -> None:
        """Check console, record, journal and the switch of roots."""
        outcome.must_end(guest.REFUSED)
        said = [line for line in outcome.console if line.startswith("bootseal: ")]
        assert said[0].startswith("bootseal: verified ")
        what = f"other mounts than bootseal.service attached: {self.what}"
        assert re.fullmatch(rf"bootseal: refused \(changed\): {what}: /sysroot", said[1]), said
        assert said[2].startswith("bootseal: hint: ")
        assert (outcome.record["verdict"], outcome.record["message"]) == ("changed", said[1].removeprefix("bootseal: "))
        assert outcome.record["image"]["digest"] == signed.image_digest(outcome.image.deployment.cfs).hex()
        assert "ActiveState=failed" in outcome["switch"]
        assert [entry["BOOTSEAL_VERDICT"] for entry in _entries(outcome)] == ["verified", "changed"]
        assert "bootseal: this boot was refused" in outcome.console


@dataclass(frozen=True)
class Ended:
    """A refusal that ends the machine, as OnRefusal= says: no status of a script, and no emergency environment."""

    verdict: str
    said: str

    def check(self, outcome: Outcome) -> None:
        """Fail unless it did."""
        assert outcome.result.ended == "exit"
        assert outcome.result.status not in (guest.PASSED, guest.REFUSED, guest.FAILED)
        assert f"bootseal: refused ({self.verdict})" in outcome.result.console
        assert self.said in outcome.result.console
        assert "emergency environment" not in outcome.result.console


def _check_console(outcome: Outcome, verdict: str, what: str, hint: str) -> str:
    lines = [line for line in outcome.console if "bootseal: refused" in line or "bootseal: hint:" in line]
    assert len(lines) == 2, lines
    assert re.fullmatch(rf"bootseal: refused \({verdict}\): {what}", lines[0]), lines[0]
    assert lines[1] == f"bootseal: hint: {hint}"
    assert outcome.console.index(lines[1]) > outcome.console.index(lines[0])
    message = lines[0].removeprefix("bootseal: ")
    _check_greeting(outcome, message)
    return message


def _check_greeting(outcome: Outcome, message: str) -> None:
    """Check the text above the emergency shell's prompt, and its details on the console before."""
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


def _check_record(outcome: Outcome, verdict: str, message: str, hint: str, details: tuple[str, ...]) -> None:
    record = outcome.record
    assert (record["version"], record["verdict"], record["message"]) == (1, verdict, message)
    assert record["hint"] == hint
    assert "mount" not in record
    expected = [*details] or _DETAILS.get(verdict, _signer(record))
    assert [detail["name"] for detail in record.get("details", ())] == expected


_DETAILS = {
    "untrusted-signer": ["digest file says", "signer", "trusted"],
    "wrong-signature": ["digest file says", "signer", "trusted"],
    "image-mismatch": ["image has", "signed is", "signer", "trusted"],
}


def _signer(record: dict[str, Any]) -> list[str]:
    return ["signer"] if "signature" in record else []


def _check_unit(outcome: Outcome, verdict: str, message: str) -> None:
    unit = outcome.unit()
    assert unit["ActiveState"] == "failed"
    assert unit["StatusText"] == message
    if verdict in EXIT_STATUS:
        assert (unit["Result"], unit["ExecMainStatus"]) == ("exit-code", str(EXIT_STATUS[verdict]))


def _check_journal(outcome: Outcome, verdict: str, message: str) -> None:
    assert [(e["BOOTSEAL_VERDICT"], e["MESSAGE"], e["MESSAGE_ID"]) for e in _entries(outcome)] == [
        (verdict, message, _verdict(verdict).message_id)
    ]


def _entries(outcome: Outcome) -> list[dict[str, Any]]:
    return [entry for entry in parse.json_lines(outcome["journal"]) if "BOOTSEAL_VERDICT" in entry]


def _check_nothing_mounted(outcome: Outcome, *, mounted: bool | None) -> None:
    """Fail unless at most the physical root is mounted, read-only, and nothing went on. None: it may be mounted or not."""
    mounts = outcome.mounts("mountinfo")
    at_sysroot = [m for m in mounts if f"{m.target}/".startswith("/sysroot/")]
    assert mounted is None or bool(at_sysroot) == mounted, at_sysroot
    for mount in at_sysroot:
        assert (mount.target, mount.source, mount.fstype) == ("/sysroot", "/dev/vda", outcome.image.fs)
        assert {*mount.options, *mount.super_options} & {"ro", "rw"} == {"ro"}
    assert len(at_sysroot) < 2
    assert not [m for m in mounts if m.fstype in ("erofs", "overlay") or "bootseal" in m.target]
    targets = outcome["targets"]
    assert targets.count("ActiveState=inactive") == targets.count("Id=") == 3, targets
    run = outcome["run"].split()
    assert not {"ostree-booted", "ostree", "superblock-was-read-only"} & set(run), run
    assert not [line for line in outcome.console if "Switching root" in line or "Switch Root" in line]


def _seconds(outcome: Outcome) -> float:
    """Measure from the mount of the physical root, or else the service's start, to the emergency environment's script."""
    started, uptime, *_ = outcome["times"].split()
    since = int(outcome.unit("sysroot")["ActiveEnterTimestampMonotonic"]) or int(started)
    return float(uptime) - since / 1e6
