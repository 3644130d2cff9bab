# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open files of an untrusted disk, without leaving the directory that the user named.

The first step opens a place (a deployment, the objects, /boot, the ESP) below that directory. It follows no link, but the
place may be a mount point. The second step opens a path below the place, and leaves the place neither by "..", nor by a link,
nor by a mount. Both open regular files only, and refuse a directory with more than MAX_NAMES names.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from .. import verdicts
from ..errors import DISK_FAILED
from ..linux import files
from .output import DATA, IO_ERROR, Failure, os_failure

# ostree and boot loaders put a few dozen names into a directory at most.
MAX_NAMES = 1024
_PLACE = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS | files.RESOLVE_NO_SYMLINKS


class File(NamedTuple):
    """`path` below the place of `root`.

    Without a root, the user named the file: it may be anywhere, and may be a device.
    """

    root: str
    place: str
    path: str

    def __str__(self) -> str:
        return os.path.join(self.root, self.place, self.path)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open it for reading; links within the place are followed. Raises OSError, NotRegular."""
        fd = self._open()
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self) -> int:
        if not self.root:
            return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with opened(self.root, self.place) as directory:
            return files.open_regular(directory, self.path, follow=True)


def open_place(root: str, path: str) -> int:
    """Open a place with O_PATH. Raises OSError."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return files.open_directory(top, path, _PLACE)
    finally:
        os.close(top)


@contextmanager
def opened(root: str, path: str) -> Iterator[int]:
    """Open a place with O_PATH for the block. Raises OSError."""
    fd = open_place(root, path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def tolerated(path: str) -> Iterator[None]:
    """Skip what cannot be opened.

    Raises Failure on a failed disk, because the list would lack what boots next.
    """
    try:
        yield
    except OSError as error:
        check_disk(error, path)


def check_disk(error: OSError, path: str) -> None:
    """Raise Failure if the disk failed."""
    if error.errno in DISK_FAILED:
        raise os_failure(IO_ERROR, f"Failed to read {path}", error, verdicts.IO_ERROR.hint) from error


def list_names(directory: int, path: str, suffix: str = "") -> list[str]:
    """List the names in a directory below a place, sorted; empty if it cannot be opened.

    Raises Failure above MAX_NAMES, and on a failed disk.
    """
    names: list[str] = []
    where = os.path.normpath(os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path))
    with tolerated(where):
        fd = files.openat2(directory, path, os.O_RDONLY | os.O_DIRECTORY, files.CONFINED)
        try:
            with os.scandir(fd) as entries:
                names += [entry.name for entry in islice(entries, MAX_NAMES + 1)]
        finally:
            os.close(fd)
    if len(names) > MAX_NAMES:
        hint = "remove the files that neither ostree nor the boot loader put there"
        raise Failure(DATA, f"Failed to list {where}: more than {MAX_NAMES} names", hint)
    return sorted(name for name in names if name.endswith(suffix))


def stamp(path: str) -> tuple[int, int]:
    """Return inode and time of a file or directory; zeros without it."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def read(directory: int, path: str, limit: int) -> bytes:
    """Read up to `limit` bytes from the start of a regular file below a place. Raises OSError, NotRegular."""
    with open(files.open_regular(directory, path, follow=True), "rb") as file:
        return file.read(limit)


def read_named(path: str, what: str, limit: int) -> bytes:
    """Read a whole file that the user named, of `limit` bytes at most; `what` it is, for messages.

    Raises Failure.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read {what} {path}", error) from error
    if len(content) > limit:
        raise Failure(DATA, f"Failed to read {what} {path}: larger than {limit} bytes")
    return content
