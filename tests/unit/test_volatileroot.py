# SPDX-License-Identifier: LGPL-2.1-or-later
"""volatileroot.py: the link to the disk behind the physical root."""

import errno
import os
from pathlib import Path

import pytest

from bootseal import paths
from bootseal.linux import blockdev
from bootseal.stages import volatileroot
from unit.support import oserror

DEVICES = [(os.makedev(252, 3), ["/dev/block/252:3"]), (oserror(errno.ENODEV), [])]


@pytest.mark.parametrize(("device", "links"), DEVICES, ids=["one-device", "several-devices"])
def test_link_and_unlink(device: int | OSError, links: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "volatile-root"
    monkeypatch.setattr(volatileroot, "_LINK", str(link))
    monkeypatch.setattr(paths, "SYSROOT", str(tmp_path))
    asked: list[str] = []

    def number(fd: int) -> int:
        asked.append(os.readlink(f"/proc/self/fd/{fd}"))
        if isinstance(device, OSError):
            raise device
        return device

    monkeypatch.setattr(blockdev, "number", number)
    volatileroot.link()
    assert asked == [str(tmp_path)]
    assert [os.readlink(path) for path in tmp_path.iterdir()] == links
    volatileroot.unlink()
    assert os.listdir(tmp_path) == []
    volatileroot.unlink()


def test_what_cannot_be_linked_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has made the link already, and nothing of ours needs it."""
    link = tmp_path / "volatile-root"
    link.symlink_to("/dev/other")
    monkeypatch.setattr(volatileroot, "_LINK", str(link))
    monkeypatch.setattr(paths, "SYSROOT", str(tmp_path))
    monkeypatch.setattr(blockdev, "number", lambda _: os.makedev(1, 2))
    volatileroot.link()
    assert os.readlink(link) == "/dev/other"
