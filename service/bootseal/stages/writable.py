# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a deployment's directory writable and mutable for a moment, then immutable again.

ostree makes the directory immutable and may mount the physical root read-only. The boot (enable.py) and 'bootseal deploy'
change files in it. Each makes a mark beside the directory before it clears the flag, so either completes what the other left
after a kill.

'bootseal deploy' locks its mark, and a kill releases the lock. The boot cannot lock its own: that mark is a second name of a
file with fs-verity, which cannot be opened for writing. Nothing else changes deployments while an initrd runs.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .. import paths
from ..linux import files, mountapi
from ..namedtuple import NamedTuple


class Writable(NamedTuple):
    """Descriptors through which the physical root can be written, even if others see it read-only."""

    top: int
    parent: int
    deployment: int


class Busy(Exception):
    """Another process keeps the directory mutable now."""


@contextmanager
def opened(sysroot_fd: int, deployment: str) -> Iterator[Writable]:
    """Open the directory, and the one above it, in a writable clone of the mount.

    The mount itself stays as it is. `deployment` is a path below the physical root. Raises OSError.
    """
    fds: list[int] = []
    try:
        fds.append(mountapi.clone(sysroot_fd))
        mountapi.set_attributes(fds[0], clear=mountapi.MOUNT_ATTR_RDONLY)
        for path in (os.path.dirname(deployment), deployment):
            resolve = files.CONFINED | files.RESOLVE_NO_SYMLINKS
            fds.append(files.openat2(fds[0], path, os.O_RDONLY | os.O_DIRECTORY, resolve))
        yield Writable(*fds)
    finally:
        for fd in fds:
            os.close(fd)


@contextmanager
def opened_below(sysroot: str, deployment: str) -> Iterator[Writable]:
    """Open the directory as opened() does, with the path of the physical root. Raises OSError."""
    sysroot_fd = os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with opened(sysroot_fd, deployment) as where:
            yield where
    finally:
        os.close(sysroot_fd)


@contextmanager
def mutable(where: Writable, deployment: str) -> Iterator[None]:
    """Keep the directory mutable inside the block, with a locked mark. Raises Busy, OSError."""
    if not files.is_immutable(where.deployment):
        yield
        return
    lock = _make_mark(where, paths.mark_of(deployment))
    try:
        try:
            files.set_immutable(where.deployment, immutable=False)
            yield
        finally:
            finish(where, deployment, restore=True, sync=True)
    finally:
        os.close(lock)


def complete(where: Writable, deployment: str) -> bool:
    """Make the directory immutable again. Returns False without a mark. Raises Busy, OSError."""
    mark = paths.mark_of(deployment)
    try:
        os.stat(mark, dir_fd=where.parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    lock = _lock_mark(where, mark)
    try:
        finish(where, deployment, restore=True, sync=True)
    finally:
        if lock is not None:
            os.close(lock)
    return True


def finish(where: Writable, deployment: str, *, restore: bool, sync: bool) -> None:
    """Set the flag (`restore`), then remove the mark and the boot's new digest file. Raises OSError.

    With `sync`, the flag reaches the disk before the mark goes, and the rest at the end. Otherwise the caller writes it out.
    """
    if restore and not files.is_immutable(where.deployment):
        files.set_immutable(where.deployment, immutable=True)
    if sync:
        os.fsync(where.deployment)
    for name in (paths.new_of(deployment), paths.mark_of(deployment)):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=where.parent)
    if sync:
        os.fsync(where.parent)


def _make_mark(where: Writable, mark: str) -> int:
    """Write a locked mark to the disk, before the flag goes. Raises Busy, OSError.

    Unprivileged users cannot open it, so they cannot hold its lock.
    """
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(mark, flags, 0o600, dir_fd=where.parent)
    except FileExistsError as error:
        raise Busy from error
    _lock(fd)
    os.fsync(where.parent)
    return fd


def _lock_mark(where: Writable, mark: str) -> int | None:
    """Lock a mark if that is possible, and return its descriptor. Raises Busy."""
    try:
        fd = _open_mark(where, mark)
    except (OSError, files.NotRegular):
        return None
    _lock(fd)
    return fd


def _open_mark(where: Writable, mark: str) -> int:
    readable = files.open_regular(where.parent, mark)
    try:
        return os.open(f"/proc/self/fd/{readable}", os.O_WRONLY | os.O_CLOEXEC)
    finally:
        os.close(readable)


def _lock(fd: int) -> None:
    """Lock a mark. The process that had the lock until now may have removed the mark."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = os.fstat(fd).st_nlink > 0
    except BlockingIOError:
        free = False
    if not free:
        os.close(fd)
        raise Busy
