# SPDX-License-Identifier: LGPL-2.1-or-later
"""failure.py: each $SERVICE_RESULT of systemd.exec(5)."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from bootseal import failure, report, verdicts
from bootseal.linux import journal
from bootseal.record import Trail, as_json, of
from bootseal.stages import enable, lastlook, mount, physicalroot
from unit.support import oserror, verified


class World:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.undone: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.path = directory / "run/boot.json"
        self.lines: list[str] = []
        monkeypatch.setattr(mount, "detach", lambda: self._undo("detach"))
        monkeypatch.setattr(enable, "restore_read_only", lambda: self._undo("restore"))
        monkeypatch.setattr(report, "RUN", str(self.path.parent))
        monkeypatch.setattr(report, "PATH", str(self.path))
        monkeypatch.setattr(report, "console", self.lines.append)
        monkeypatch.setattr(journal, "_JOURNAL", str(directory / "journal"))
        for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS", "NOTIFY_SOCKET"):
            monkeypatch.delenv(name, raising=False)
        self._monkeypatch = monkeypatch

    def _undo(self, name: str) -> None:
        self.undone.append(name)
        if name in self.fails:
            raise self.fails[name]

    def ended(self, result: str, code: str = "", status: str = "") -> None:
        for name, value in (("SERVICE_RESULT", result), ("EXIT_CODE", code), ("EXIT_STATUS", status)):
            self._monkeypatch.setenv(name, value)

    def reported_before(self, verdict: str = "wrong-signature") -> None:
        self.path.parent.mkdir()
        self.path.write_text(json.dumps({"version": 1, "verdict": verdict, "kernel": "kept"}))

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.path.read_text())
        return record


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_success_leaves_everything(world: World) -> None:
    world.ended("success", "exited", "0")
    world.reported_before("verified")
    assert failure.cleanup() == 0
    assert world.undone == world.lines == []


RESULTS = {
    "timeout": "out of time",
    "watchdog": "out of time",
    "signal": "killed",
    "core-dump": "ended early (core-dump)",
    "oom-kill": "out of memory",
    "resources": "ended early (resources)",
    "protocol": "ended early (protocol)",
    "start-limit-hit": "ended early (start-limit-hit)",
    "": "ended early ()",
}


@pytest.mark.parametrize(("result", "what"), RESULTS.items())
@pytest.mark.parametrize("before", ["", "verified", "wrong-signature"])
def test_interrupted(result: str, what: str, before: str, world: World) -> None:
    """Report an interruption even if an earlier start left a record."""
    world.ended(result, "killed", "KILL")
    if before:
        world.reported_before(before)
    assert failure.cleanup() == 0
    assert world.undone == ["detach", "restore"]
    assert world.record()["verdict"] == "interrupted"
    assert world.lines[0] == f"bootseal: refused (interrupted): {what}: bootseal.service"
    assert world.lines[1].startswith("bootseal: hint: ")


STATUSES = sorted({v.exit_status for v in verdicts.VERDICTS} - {0, 1})


@pytest.mark.parametrize("status", STATUSES)
def test_a_refusal_that_was_reported(status: int, world: World) -> None:
    world.ended("exit-code", "exited", str(status))
    world.reported_before()
    failure.cleanup()
    assert world.undone == ["detach", "restore"]
    assert world.lines == []
    assert world.record()["verdict"] == "wrong-signature"


@pytest.mark.parametrize("status", ["1", "2", "127", "203", "226", "255", ""])
def test_python_or_systemd_failed(status: str, world: World) -> None:
    """No verdict's own status: an import that failed, an exec that failed. A record would be of an earlier start."""
    world.ended("exit-code", "exited", status)
    world.reported_before()
    failure.cleanup()
    assert world.record()["verdict"] == "internal"
    what = f"it ended with status {status} and left no verdict"
    assert world.lines[0] == f"bootseal: refused (internal): {what}: bootseal.service"


def test_a_verdict_s_status_without_a_record(world: World) -> None:
    world.ended("exit-code", "exited", "77")
    failure.cleanup()
    assert world.record()["verdict"] == "internal"


@pytest.mark.parametrize("name", ["detach", "restore"])
def test_an_undoing_that_fails_is_said_and_stops_nothing(name: str, world: World) -> None:
    world.ended("timeout", "killed", "TERM")
    world.fails[name] = oserror(errno.EBUSY)
    assert failure.cleanup() == 0
    assert world.undone == ["detach", "restore"]
    assert any("could not put back what was begun: Device or resource busy (EBUSY)" in line for line in world.lines)


@pytest.mark.parametrize("error", [ValueError("x"), LookupError("x"), UnicodeError("x")], ids=lambda e: type(e).__name__)
def test_a_bug_while_undoing_still_gives_a_verdict(error: Exception, world: World) -> None:
    world.ended("timeout", "killed", "TERM")
    world.fails["detach"] = error
    assert failure.cleanup() == 0
    assert world.undone == ["detach", "restore"]
    assert world.record()["verdict"] == "interrupted"


@pytest.mark.parametrize(
    ("mounted", "what", "hint"),
    [
        (True, "it never ran: masked or missing: bootseal.service", verdicts.INTERRUPTED.hint),
        (False, "the physical root could not be mounted: sysroot.mount", failure._MOUNT_HINT),
    ],
    ids=["mounted", "not mounted"],
)
def test_guard(*, mounted: bool, what: str, hint: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(physicalroot, "is_mounted", lambda: mounted)
    assert failure.guard() != 0
    assert world.record()["verdict"] == "interrupted"
    assert world.record()["milliseconds"] == {}  # it ran no stage
    assert world.lines[:2] == [f"bootseal: refused (interrupted): {what}", f"bootseal: hint: {hint}"]


def test_guard_lets_a_verified_root_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount, "attached_digest", lambda: "00" * 32)
    assert failure.guard() == 0
    assert world.lines == []


def test_a_root_that_was_changed_keeps_what_was_verified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastlook, "difference", lambda: "/sysroot/usr is ext4 from /dev/vda")
    world.reported_before("verified")
    assert failure.changed() == 71
    assert (world.record()["verdict"], world.record()["kernel"]) == ("changed", "kept")
    what = "other mounts than bootseal.service attached: /sysroot/usr is ext4 from /dev/vda"
    assert world.lines[0] == f"bootseal: refused (changed): {what}: /sysroot"


def test_a_root_that_was_changed_names_its_signer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastlook, "difference", lambda: "/sysroot/usr is ext4 from /dev/vda")
    made = as_json(of(Trail(verified())))
    world.path.parent.mkdir()
    world.path.write_text(json.dumps(made | {"verdict": "verified"}))
    failure.changed()
    text = f"{made['signature']['subject']}, serial {made['signature']['serial']}"
    assert world.record()["details"] == [{"name": "signer", "value": text}]
    assert world.lines[2] == f"bootseal: signer: {text}"


def test_a_change_without_a_record_says_which_boot_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastlook, "difference", lambda: "/sysroot/usr is ext4 from /dev/vda")
    failure.changed()
    assert {"boot_id", "kernel", "bootseal"} < set(world.record())


def test_a_change_that_was_undone_meanwhile_is_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastlook, "difference", lambda: "")
    assert failure.changed() == 71
    assert "while they were compared" in world.lines[0]


@pytest.mark.parametrize("error", [FileNotFoundError(), ValueError("x")], ids=["missing", "damaged"])
def test_a_switch_without_an_attached_root(error: Exception, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def difference() -> str:
        raise error

    monkeypatch.setattr(lastlook, "difference", difference)
    assert failure.changed() != 0
    assert world.lines[0] == "bootseal: refused (interrupted): no verified root is attached: /sysroot"


# --- above the prompt of the emergency shell


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
    assert failure.greeting() == 0
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
    assert failure.greeting() == 0
    assert [line.split() for line in said if line.startswith("  then ")] == [["then", "reboot"]]


def test_after_a_failed_mount_no_restart_is_needed(said: list[str]) -> None:
    """The service waits for the mount."""
    write({"verdict": "interrupted", "message": "refused (interrupted): x: sysroot.mount", "hint": failure._MOUNT_HINT})
    assert failure.greeting() == 0
    assert not [line for line in said if "restart" in line]
    assert [line.split()[:3] for line in said if line.startswith("  then ")] == [["then", "or", "reboot"]]


def test_notes_on_certificates(said: list[str]) -> None:
    notes = ["certificate skipped: /k/old.crt: an RSA key of 1024 bits", "certificate not in the kernel: ab12: ENOPKG"]
    write({"verdict": "untrusted-signer", "message": "refused (untrusted-signer): x: /p", "hint": "do this", "notes": notes})
    assert failure.greeting() == 0
    assert [line.split(maxsplit=1)[1].strip() for line in said if line.startswith("  note ")] == notes


@pytest.mark.parametrize("record", [{"verdict": "verified", "message": "verified"}, {}])
def test_nothing_to_say(record: dict[str, Any], said: list[str]) -> None:
    write(record)
    assert failure.greeting() == 0
    assert said == []


def test_without_a_record(said: list[str]) -> None:
    assert failure.greeting() == 0
    assert said == []
