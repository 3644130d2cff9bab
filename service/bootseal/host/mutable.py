# SPDX-License-Identifier: LGPL-2.1-or-later
"""A deployment's directory, immutable as ostree makes it: mutable for a moment, and immutable again whatever happens.

A mark beside the directory says that it was immutable. builtin.py makes marks of the same name at boot, so either completes
what the other left after a kill. The process that makes a directory mutable locks its mark; a kill releases the lock.
"""

import contextlib
import ctypes
import fcntl
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..linux import files, mountapi
from . import inside
from .output import CANNOT_CREATE, Failure, os_failure

_MARK = re.compile(r"\.bootseal-([0-9a-f]{64}\.\d+)\.immutable")


class Writable(NamedTuple):
    """Descriptors through which the physical root can be written, even if others see it read-only."""

    top: int
    parent: int
    deployment: int


@contextlib.contextmanager
def writable(sysroot: str, path: str) -> Iterator[Writable]:
    """Clone the mount and make the clone writable: /sysroot itself stays read-only for everybody else."""
    opened: list[int] = []
    try:
        top = os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(top)
        tree = mountapi.clone(top)
        opened.append(tree)
        mountapi.set_attributes(tree, clear=mountapi.MOUNT_ATTR_RDONLY)
        for place in (os.path.dirname(path), path):
            flags = os.O_RDONLY | os.O_DIRECTORY
            opened.append(files.openat2(tree, place, flags, files.CONFINED | files.RESOLVE_NO_SYMLINKS))
        yield Writable(tree, opened[2], opened[3])
    except PermissionError as error:
        raise os_failure(CANNOT_CREATE, f"Failed to write below {sysroot}", error, "run as root") from error
    finally:
        for fd in opened:
            os.close(fd)


def prefix(path: str) -> str:
    """Return what bootseal's names beside this deployment begin with; builtin.py uses the same."""
    return f".bootseal-{os.path.basename(path)}"


@contextlib.contextmanager
def mutable(where: Writable, base: str) -> Iterator[None]:
    """Keep the directory mutable inside the block. Raises Failure, OSError."""
    if not files.is_immutable(where.deployment):
        yield
        return
    lock = _make_mark(where, base)
    try:
        try:
            files.set_immutable(where.deployment, immutable=False)
            yield
        finally:
            _finish(where, base)
    finally:
        os.close(lock)


def complete(where: Writable, base: str) -> bool:
    """Make the directory immutable again if a mark says so; False without a mark. Raises Failure, OSError."""
    try:
        os.stat(_mark(base), dir_fd=where.parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    lock = _lock_mark(where, base)
    try:
        _finish(where, base)
    finally:
        if lock is not None:
            os.close(lock)
    return True


def marked(sysroot: str) -> list[str]:
    """List the deployments that have a mark, by path below the physical root."""
    found = []
    with contextlib.suppress(OSError), inside.opened(sysroot, "ostree/deploy") as top:
        for stateroot in inside.list_names(top, "."):
            names = (_MARK.fullmatch(name) for name in inside.list_names(top, f"{stateroot}/deploy"))
            found += [f"ostree/deploy/{stateroot}/deploy/{match[1]}" for match in names if match]
    return found


def sync(fd: int) -> None:
    """syncfs(2): an earlier run may have been killed after its last write and before its fsync. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _finish(where: Writable, base: str) -> None:
    """The mark goes when the flag is on the disk, and with it what builtin.py may have left."""
    files.set_immutable(where.deployment, immutable=True)
    os.fsync(where.deployment)
    for name in (f"{base}.new", _mark(base)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=where.parent)
    os.fsync(where.parent)


def _make_mark(where: Writable, base: str) -> int:
    """The mark is on the disk before the flag goes. Unprivileged users cannot open it, so they cannot hold its lock."""
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_mark(base), flags, 0o600, dir_fd=where.parent)
    except FileExistsError as error:
        raise _busy(base) from error
    _lock(fd, base)
    os.fsync(where.parent)
    return fd


def _lock_mark(where: Writable, base: str) -> int | None:
    """None for builtin.py's mark, which fs-verity keeps from being opened for writing, and for one that is no mark of ours."""
    try:
        fd = _opened_mark(where, base)
    except (OSError, files.NotRegular):
        return None
    _lock(fd, base)
    return fd


def _opened_mark(where: Writable, base: str) -> int:
    found = files.open_regular(where.parent, _mark(base))
    try:
        return os.open(f"/proc/self/fd/{found}", os.O_WRONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _lock(fd: int, base: str) -> None:
    """Whoever had the lock until now may have removed the mark."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = os.fstat(fd).st_nlink > 0
    except BlockingIOError:
        free = False
    if not free:
        os.close(fd)
        raise _busy(base)


def _busy(base: str) -> Failure:
    what = f"Failed to change the deployment {base.removeprefix('.bootseal-')}: another 'bootseal deploy' is at work"
    return Failure(CANNOT_CREATE, what, "run it again when the other one has ended")


def _mark(base: str) -> str:
    return base + ".immutable"
