# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd.py: the unit's state over D-Bus, with pydbus played by an object."""

import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bootseal.host.live import systemd


class Bus:
    """A bus with a manager and a unit on it; `missing` names properties that are not there."""

    def __init__(self, *missing: str) -> None:
        self.loaded: list[str] = []
        names = {"LoadState": "loaded", "ActiveState": "active", "SubState": "exited", "Result": "success"}
        values = {**names, "StatusText": "verified\x1b[2J", "ExecMainStatus": 0}
        self.unit = SimpleNamespace(**{k: v for k, v in values.items() if k not in missing})
        self.manager = SimpleNamespace(LoadUnit=self._load, SoftRebootsCount=3)
        if "SoftRebootsCount" in missing:
            del self.manager.SoftRebootsCount

    def _load(self, name: str, timeout: int) -> str:
        assert timeout
        self.loaded.append(name)
        return "/unit"

    def get(self, service: str, path: str, timeout: int) -> Any:
        assert (service, bool(timeout)) == ("org.freedesktop.systemd1", True)
        return {"/org/freedesktop/systemd1": self.manager, "/unit": self.unit}[path]


@pytest.fixture
def pydbus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("pydbus")
    monkeypatch.setitem(sys.modules, "pydbus", module)
    return module


def test_systemd_is_asked(pydbus: ModuleType) -> None:
    bus = Bus()
    setattr(pydbus, "SystemBus", lambda: bus)  # noqa: B010
    answer = systemd.ask()
    assert bus.loaded == ["bootseal.service"]
    assert answer == (("loaded", "active", "exited", "success", "verified\\x1b[2J", 0), 3)


def test_systemd_that_does_not_count(pydbus: ModuleType) -> None:
    assert systemd.ask(Bus("SoftRebootsCount")).soft_reboots is None


def test_property_that_is_missing(pydbus: ModuleType) -> None:
    with pytest.raises(systemd.Unavailable, match=r"no answer over D-Bus: .*Result"):
        systemd.ask(Bus("Result"))


def test_no_bus(pydbus: ModuleType) -> None:
    class GLibError(Exception):
        message = "Could not connect: No such file or directory\nmore"

    def fail() -> None:
        raise GLibError

    setattr(pydbus, "SystemBus", fail)  # noqa: B010
    with pytest.raises(systemd.Unavailable) as caught:
        systemd.ask()
    assert str(caught.value) == "systemd gives no answer over D-Bus: Could not connect: No such file or directory"


def test_bus_that_says_nothing(pydbus: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_TIMEOUT", 0.05)
    end = threading.Event()
    setattr(pydbus, "SystemBus", end.wait)  # noqa: B010
    with pytest.raises(systemd.Unavailable, match="gives no answer over D-Bus: timed out after"):
        systemd.ask()
    end.set()


def test_pydbus_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydbus", None)
    with pytest.raises(systemd.Unavailable, match="install python3-pydbus"):
        systemd.ask()
