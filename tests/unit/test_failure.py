# SPDX-License-Identifier: LGPL-2.1-or-later
"""cleanup.py: each $SERVICE_RESULT of systemd.exec(5)."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from bootseal import failure, report, verdicts
from bootseal.linux import journal
from bootseal.stages import enable, lastlook, mount
from unit.support import oserror


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
        self.path.write_text(json.dumps({"version": 1, "verdict": verdict, "stage": "kept"}))

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.path.read_text())
        return record


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_success_leaves_everything(world: World) -> None:
    world.ended("success", "exited", "0")
    world.reported_before("verified")
    assert failure.main() == 0
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
    """Also when an earlier start left a record: that was another one."""
    world.ended(result, "killed", "KILL")
    if before:
        world.reported_before(before)
    assert failure.main() == 0
    assert world.undone == ["detach", "restore"]
    assert world.record()["verdict"] == "interrupted"
    assert world.lines[0] == f"bootseal: refused (interrupted): {what}: bootseal.service"
    assert world.lines[1].startswith("bootseal: hint: ")


STATUSES = sorted({v.exit_status for v in verdicts.VERDICTS} - {0, 1})


@pytest.mark.parametrize("status", STATUSES)
def test_a_refusal_that_was_reported(status: int, world: World) -> None:
    world.ended("exit-code", "exited", str(status))
    world.reported_before()
    failure.main()
    assert world.undone == ["detach", "restore"]
    assert world.lines == []
    assert world.record()["verdict"] == "wrong-signature"


@pytest.mark.parametrize("status", ["1", "2", "127", "203", "226", "255", ""])
def test_python_or_systemd_failed(status: str, world: World) -> None:
    """No verdict's own status: an import that failed, an exec that failed. A record would be of an earlier start."""
    world.ended("exit-code", "exited", status)
    world.reported_before()
    failure.main()
    assert world.record()["verdict"] == "internal"
    what = f"it ended with status {status} and left no verdict"
    assert world.lines[0] == f"bootseal: refused (internal): {what}: bootseal.service"


def test_a_verdict_s_status_without_a_record(world: World) -> None:
    world.ended("exit-code", "exited", "77")
    failure.main()
    assert world.record()["verdict"] == "internal"


@pytest.mark.parametrize("name", ["detach", "restore"])
def test_an_undoing_that_fails_is_said_and_stops_nothing(name: str, world: World) -> None:
    world.ended("timeout", "killed", "TERM")
    world.fails[name] = oserror(errno.EBUSY)
    assert failure.main() == 0
    assert world.undone == ["detach", "restore"]
    assert any("could not put back what was begun: Device or resource busy (EBUSY)" in line for line in world.lines)


@pytest.mark.parametrize("error", [ValueError("x"), LookupError("x"), UnicodeError("x")], ids=lambda e: type(e).__name__)
def test_a_bug_while_undoing_still_gives_a_verdict(error: Exception, world: World) -> None:
    world.ended("timeout", "killed", "TERM")
    world.fails["detach"] = error
    assert failure.main() == 0
    assert world.undone == ["detach", "restore"]
    assert world.record()["verdict"] == "interrupted"


def test_guard(world: World) -> None:
    assert failure.guard() != 0
    assert world.record()["verdict"] == "interrupted"
    what = "it never ran: masked, missing, or the physical root could not be mounted"
    assert world.lines[0] == f"bootseal: refused (interrupted): {what}: bootseal.service"


def test_guard_lets_a_verified_root_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount, "attached_digest", lambda: "00" * 32)
    assert failure.guard() == 0
    assert world.lines == []


def test_a_root_that_was_changed_keeps_what_was_verified(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastlook, "difference", lambda: "/sysroot/usr is ext4 from /dev/vda")
    world.reported_before("verified")
    assert failure.changed() == 71
    assert (world.record()["verdict"], world.record()["stage"]) == ("changed", "kept")
    what = "other mounts than bootseal.service attached: /sysroot/usr is ext4 from /dev/vda"
    assert world.lines[0] == f"bootseal: refused (changed): {what}: /sysroot"


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
