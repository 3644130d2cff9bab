# SPDX-License-Identifier: LGPL-2.1-or-later
"""writable.py with a model of inode flags: the order in which it writes to the disk, and its lock.

test_enable.py and host/test_command_deploy.py kill whole runs at every step.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootseal import paths
from bootseal.linux import files, mountapi
from bootseal.stages import writable
from bootseal.stages.writable import Writable
from unit.support import CHECKSUM, descriptors

NAME = f"{CHECKSUM}.0"
NEW, MARK = paths.new_of(NAME), paths.mark_of(NAME)


class Directory:
    """A deployment's directory, the one above it, and a log of what reaches the disk."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parent, self.path = top / "deploy", top / "deploy" / NAME
        self.path.mkdir(parents=True)
        self.where = Writable(-1, *(os.open(path, os.O_RDONLY) for path in (self.parent, self.path)))
        self.immutable = True
        self.log: list[str] = []
        monkeypatch.setattr(files, "is_immutable", lambda _: self.immutable)
        monkeypatch.setattr(files, "set_immutable", self.set_immutable)
        monkeypatch.setattr(os, "fsync", lambda fd: self.log.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}"))
        self._unlink = os.unlink
        monkeypatch.setattr(os, "unlink", self.unlink)

    def set_immutable(self, fd: int, *, immutable: bool) -> None:
        assert fd == self.where.deployment
        self.immutable = immutable
        self.log.append("set" if immutable else "clear")

    def unlink(self, name: str, *, dir_fd: int | None = None) -> None:
        self._unlink(name, dir_fd=dir_fd)
        self.log.append(f"unlink {name}")

    def leave(self, *names: str) -> None:
        for name in names:
            (self.parent / name).touch()

    def left(self) -> set[str]:
        return set(os.listdir(self.parent)) - {NAME}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    made = Directory(tmp_path, monkeypatch)
    yield made
    os.close(made.where.parent)
    os.close(made.where.deployment)


# --- what is on the disk before what


def test_the_mark_is_on_the_disk_while_the_flag_is_off(directory: Directory) -> None:
    with writable.mutable(directory.where, NAME):
        assert (directory.log, directory.immutable) == (["sync deploy", "clear"], False)
        assert (directory.parent / MARK).stat().st_mode & 0o777 == 0o600, "unprivileged users cannot hold the lock"
    assert directory.log[2:] == ["set", f"sync {NAME}", f"unlink {MARK}", "sync deploy"]
    assert (directory.immutable, directory.left()) == (True, set())


def test_an_error_leaves_the_directory_immutable(directory: Directory) -> None:
    with pytest.raises(ZeroDivisionError), writable.mutable(directory.where, NAME):
        raise ZeroDivisionError
    assert (directory.immutable, directory.left()) == (True, set())


def test_a_directory_that_is_not_immutable_gets_no_mark(directory: Directory) -> None:
    directory.immutable = False
    with writable.mutable(directory.where, NAME):
        assert directory.left() == set()
    assert directory.log == []


SET_AND_SYNC = ["set", f"sync {NAME}", f"unlink {NEW}", f"unlink {MARK}", "sync deploy"]
FINISHED = {
    "deploy": ({"restore": True, "sync": True}, SET_AND_SYNC),
    "boot": ({"restore": True, "sync": False}, ["set", f"unlink {NEW}", f"unlink {MARK}"]),
    "boot, never cleared": ({"restore": False, "sync": False}, [f"unlink {NEW}", f"unlink {MARK}"]),
}


@pytest.mark.parametrize(("how", "log"), FINISHED.values(), ids=FINISHED)
def test_finish(directory: Directory, how: dict[str, bool], log: list[str]) -> None:
    directory.immutable = False
    directory.leave(NEW, MARK)
    writable.finish(directory.where, NAME, **how)
    assert (directory.log, directory.left()) == (log, set())


# --- what a killed process left


def test_complete_without_a_mark_changes_nothing(directory: Directory) -> None:
    directory.immutable = False
    directory.leave(NEW)
    assert writable.complete(directory.where, NAME) is False
    assert (directory.log, directory.left()) == ([], {NEW})


@pytest.mark.parametrize("kind", ["file", "fifo", "link"])
def test_complete(directory: Directory, kind: str) -> None:
    """Never open a mark that is not a regular file, because a FIFO would block."""
    directory.immutable = False
    directory.leave(NEW)
    mark = directory.parent / MARK
    if kind == "link":
        mark.symlink_to("/nowhere")
    else:
        mark.touch() if kind == "file" else os.mkfifo(mark)
    assert writable.complete(directory.where, NAME) is True
    assert directory.log == SET_AND_SYNC
    assert directory.left() == set()


def test_complete_takes_the_mark_of_the_boot(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """fs-verity keeps it from being opened for writing."""
    directory.immutable = False
    directory.leave(NEW)
    (directory.parent / MARK).hardlink_to(directory.parent / NEW)
    real = os.open

    def open_(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_WRONLY:
            raise PermissionError
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", open_)
    assert writable.complete(directory.where, NAME) is True
    assert (directory.immutable, directory.left()) == (True, set())


# --- locks


def test_a_process_at_work_is_left_alone(directory: Directory) -> None:
    with writable.mutable(directory.where, NAME):
        with pytest.raises(writable.Busy):
            writable.complete(directory.where, NAME)
        assert (directory.immutable, directory.left()) == (False, {MARK})


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_a_mark_that_is_there_is_not_opened(directory: Directory, kind: str) -> None:
    mark = directory.parent / MARK
    mark.touch() if kind == "file" else os.mkfifo(mark)
    with pytest.raises(writable.Busy), writable.mutable(directory.where, NAME):
        pytest.fail("not locked")
    assert (directory.immutable, directory.left()) == (True, {MARK})


@pytest.mark.parametrize("moment", ["made", "locked"])
def test_a_mark_that_another_process_took_first(directory: Directory, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Between making the mark and locking it, another process completes what it takes for left behind."""
    real, mark = fcntl.flock, directory.parent / MARK
    held: list[int] = []

    def flock(fd: int, operation: int) -> None:
        if moment == "made":
            mark.unlink()
        elif not held:
            held.append(os.open(mark, os.O_WRONLY))
            real(held[0], fcntl.LOCK_EX)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(writable.Busy), writable.mutable(directory.where, NAME):
        pytest.fail("not locked")
    assert directory.immutable
    for fd in held:
        os.close(fd)


# --- descriptors


@pytest.fixture
def cleared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for a clone of the mount: which descriptors lost their read-only attribute."""
    found: list[int] = []

    def set_attributes(fd: int, *, clear: int) -> None:
        assert clear == mountapi.MOUNT_ATTR_RDONLY
        found.append(fd)

    monkeypatch.setattr(mountapi, "clone", os.dup)
    monkeypatch.setattr(mountapi, "set_attributes", set_attributes)
    return found


def test_opened(directory: Directory, cleared: list[int], tmp_path: Path) -> None:
    before = descriptors()
    with writable.opened_below(str(tmp_path), f"deploy/{NAME}") as where:
        assert cleared == [where.top]
        opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in where]
        assert opened == [str(path) for path in (tmp_path, directory.parent, directory.path)]
    assert descriptors() == before


def test_a_link_in_place_of_the_deployment_is_not_followed(directory: Directory, cleared: list[int], tmp_path: Path) -> None:
    directory.path.rmdir()
    directory.path.symlink_to("/")
    before = descriptors()
    with pytest.raises(OSError, match="symbolic links"), writable.opened_below(str(tmp_path), f"deploy/{NAME}"):
        pytest.fail("followed")
    assert len(cleared) == 1
    assert descriptors() == before
