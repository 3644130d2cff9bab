# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opens what the disk holds, and nothing else: below a directory that the user named, never outside it.

It takes two steps. A place (a deployment, the objects, /boot, the ESP) is opened below that directory, without following a
link; it may be a mount point. A path below the place is then opened without leaving it: not by "..", by a link, nor by a
mount. Only regular files are opened, and a directory with very many names is refused.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from .. import verdicts
from ..errors import DISK_FAILED
from ..linux import files
from .output import DATA, IO_ERROR, NO_INPUT, Failure, os_failure

# ostree and boot loaders have a few dozen names in a directory at most.
MAX_NAMES = 1024
_PLACE = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS | files.RESOLVE_NO_SYMLINKS


class File(NamedTuple):
    """`path` below the place of `root`. Without a root, the user named the file: it may be anywhere, and a device."""

    root: str
    place: str
    path: str

    def __str__(self) -> str:
        return os.path.join(self.root, self.place, self.path)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to read it; links within the place are followed. Raises OSError, NotRegular."""
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


def place(root: str, path: str) -> int:
    """An O_PATH descriptor of a place. Raises OSError."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return files.open_directory(top, path, _PLACE)
    finally:
        os.close(top)


@contextmanager
def opened(root: str, path: str) -> Iterator[int]:
    """The descriptor that place() gives, for a while. Raises OSError."""
    fd = place(root, path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def tolerated(path: str) -> Iterator[None]:
    """Go on without what cannot be opened. Raises Failure on a failed disk: a list would lack what boots next."""
    try:
        yield
    except OSError as error:
        check_disk(error, path)


def check_disk(error: OSError, path: str) -> None:
    """Raises Failure if the disk failed."""
    if error.errno in DISK_FAILED:
        raise os_failure(IO_ERROR, f"Failed to read {path}", error, verdicts.IO_ERROR.hint) from error


def listed(directory: int, path: str, suffix: str = "") -> list[str]:
    """The names in a directory below a place, sorted; none if it cannot be opened.

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
        hint = "remove what neither ostree nor the boot loader put there"
        raise Failure(DATA, f"Failed to list {where}: more than {MAX_NAMES} names", hint)
    return sorted(name for name in names if name.endswith(suffix))


def read(directory: int, path: str, limit: int) -> bytes:
    """Up to `limit` bytes from the start of a regular file below a place. Raises OSError, NotRegular."""
    with open(files.open_regular(directory, path, follow=True), "rb") as file:
        return file.read(limit)


def read_named(path: str, what: str, limit: int) -> bytes:
    """Read a whole file that the user named, of `limit` bytes at most; `what` it is, for messages. Raises Failure."""
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise os_failure(NO_INPUT, f"Failed to read {what} {path}", error) from error
    if len(content) > limit:
        raise Failure(DATA, f"Failed to read {what} {path}: larger than {limit} bytes")
    return content
