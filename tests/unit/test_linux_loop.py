# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test linux/loop.py: the structures, retries, and a real device."""

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from bootseal.linux import loop
from unit.support import descriptors, oserror, run_python


def test_structures_have_the_kernel_s_sizes() -> None:
    assert ctypes.sizeof(loop._LoopInfo64) == 232
    assert ctypes.sizeof(loop._LoopConfig) == 304
    assert loop._LoopInfo64.lo_flags.offset == 52
    assert loop._LoopConfig.info.offset == 8


class Devices:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, busy: int, number: int = errno.EBUSY) -> None:
        self.tried: list[int] = []
        self._busy, self._number = busy, number
        real_open = open
        control = directory / "control"
        control.touch()
        monkeypatch.setattr(
            "builtins.open", lambda path, *a, **k: real_open(control if "loop-control" in str(path) else path, *a, **k)
        )
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)
        monkeypatch.setattr(loop, "_configure", self.configure)

    def ioctl(self, _: Any, request: int) -> int:
        assert request == 0x4C82
        return len(self.tried)

    def configure(self, number: int, _: int) -> tuple[int, str]:
        self.tried.append(number)
        if len(self.tried) <= self._busy:
            raise oserror(self._number)
        return 42, f"/dev/loop{number}"


def test_busy_device_is_retried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices = Devices(monkeypatch, tmp_path, busy=3)
    assert loop.attach(3) == (42, "/dev/loop3")
    assert devices.tried == [0, 1, 2, 3]


def test_busy_device_is_retried_a_few_times_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices = Devices(monkeypatch, tmp_path, busy=100)
    with pytest.raises(OSError, match="busy"):
        loop.attach(3)
    assert len(devices.tried) == 16


def test_other_errors_are_not_retried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices = Devices(monkeypatch, tmp_path, busy=1, number=errno.EPERM)
    with pytest.raises(PermissionError):
        loop.attach(3)
    assert len(devices.tried) == 1


@pytest.mark.root
def test_real_device_is_attached(tmp_path: Path) -> None:
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices")
    (tmp_path / "image").write_bytes(b"x" * 8192)
    code = """
import os, sys
from bootseal.linux import loop
fd = os.open(sys.argv[1], os.O_RDONLY)
device, path = loop.attach(fd)
os.close(fd)
name = os.path.basename(path)
def said(attribute): return open(f"/sys/block/{name}/{attribute}").read().strip()
print(os.pread(device, 4, 0), said("ro"), said("loop/autoclear"))
print(os.path.samefile(said("loop/backing_file"), sys.argv[1]))
os.close(device)
while os.path.exists(f"/sys/block/{name}/loop/backing_file"): os.sched_yield()
print("gone")
"""
    assert run_python(code, str(tmp_path / "image")).splitlines() == ["b'xxxx' 1 1", "True", "gone"]


def test_failed_configuration_closes_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "device").touch()
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: real(tmp_path / "device", flags))
    before = descriptors()
    with pytest.raises(OSError, match="ioctl"):  # the file is not a loop device
        loop._configure(0, 0)
    assert descriptors() == before
