# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test linux/blockdev.py: ordinary filesystems, btrfs, and disks with wrong data about their devices."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootseal.linux import blockdev
from unit.support import oserror

FS_INFO, DEV_INFO = 0x8400941F, 0xD000941E
DEVICE = os.makedev(252, 3)


class Os:
    """A stand-in for the os module: every file is on `device`, and one device node exists."""

    def __init__(self, device: int) -> None:
        self.device, self.kind = device, stat.S_IFBLK

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fstat(self, _fd: int) -> Any:
        return SimpleNamespace(st_dev=self.device)

    def stat(self, path: bytes) -> Any:
        return SimpleNamespace(st_mode=self.kind, st_rdev=DEVICE) if path == b"/dev/guest" else os.stat(path)


class Btrfs:
    """Stand-ins for the two ioctls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, ids: tuple[int, ...] = (1,), path: bytes = b"/dev/guest") -> None:
        self.ids, self.path, self.asked, self.fails = ids, path, list[int](), 0
        self.os = Os(os.makedev(0, 40))
        monkeypatch.setattr(fcntl, "ioctl", self.ioctl)
        monkeypatch.setattr(blockdev, "os", self.os)

    def ioctl(self, fd: int, request: int, buffer: bytearray) -> int:
        os.get_inheritable(fd)  # raises if the descriptor is closed
        if self.fails:
            raise oserror(self.fails)
        if request == FS_INFO:
            assert len(buffer) == 1024
            struct.pack_into("=QQ", buffer, 0, max(self.ids), len(self.ids))
            return 0
        assert (request, len(buffer)) == (DEV_INFO, 4096)
        (devid,) = struct.unpack_from("=Q", buffer)
        self.asked.append(devid)
        if devid not in self.ids:
            raise oserror(errno.ENODEV)
        buffer[3072 : 3072 + len(self.path)] = self.path
        return 0


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def test_device_number_of_the_file_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockdev, "os", Os(os.makedev(8, 1)))
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: pytest.fail("asked"))
    with opened(tmp_path) as fd:
        assert blockdev.number(fd) == os.makedev(8, 1)


@pytest.mark.parametrize("devid", [1, 7, 2**64 - 1], ids=["first", "replaced", "largest"])
def test_device_number_on_btrfs_is_that_of_its_device(devid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    btrfs = Btrfs(monkeypatch, ids=(devid,))
    before = len(os.listdir("/proc/self/fd"))
    with opened(tmp_path) as fd:
        assert blockdev.number(fd) == DEVICE
    assert btrfs.asked == [devid], "one question, whatever number the disk has for its device"
    assert len(os.listdir("/proc/self/fd")) == before


def _several(btrfs: Btrfs) -> None:
    btrfs.ids = (1, 2)


def _none(btrfs: Btrfs) -> None:
    btrfs.fails = errno.ENOTTY


def _file(btrfs: Btrfs) -> None:
    btrfs.os.kind = stat.S_IFREG


def _gone(btrfs: Btrfs) -> None:
    btrfs.path = b"/dev/no-such-device"


@pytest.mark.parametrize(
    ("change", "number"),
    [(_several, errno.ENODEV), (_none, errno.ENOTTY), (_file, errno.ENODEV), (_gone, errno.ENOENT)],
    ids=["several-devices", "no-btrfs", "no-device", "gone"],
)
def test_btrfs_without_a_single_device_raises(
    change: Callable[[Btrfs], None], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(Btrfs(monkeypatch))
    with opened(tmp_path) as fd, pytest.raises(OSError) as caught:
        blockdev.number(fd)
    assert caught.value.errno == number


def test_filesystem_in_memory_raises() -> None:
    with opened(Path("/proc")) as fd, pytest.raises(OSError) as caught:
        blockdev.number(fd)
    assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)
