# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open and read untrusted files: confined, regular files only, bounded. Read and set inode flags."""

import fcntl
import os
import stat
import struct

from . import syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10
# A path cannot leave the directory by "..", links, mounts or /proc.
CONFINED = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_EAGAIN_RETRIES = 16

# #define FS_IOC_GETFLAGS _IOR('f', 1, long), FS_IOC_SETFLAGS _IOW('f', 2, long); in spite of that the argument is an int
_GETFLAGS = syscall.ior("f", 1, 8)
_SETFLAGS = syscall.iow("f", 2, 8)
_IMMUTABLE = 0x10  # FS_IMMUTABLE_FL


class NotRegular(Exception):
    """The path names something other than a regular file."""


def openat2(dirfd: int, path: str, flags: int, resolve: int) -> int:
    """Call openat2(2) with O_CLOEXEC. Retries EAGAIN a few times: a rename raced with the lookup.

    Raises OSError: EXDEV and ELOOP for what `resolve` forbids, ENOSYS before Linux 5.6.
    """
    # struct open_how: flags, mode, resolve
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_EAGAIN_RETRIES - 1):
        try:
            return syscall.syscall(syscall.OPENAT2, dirfd, os.fsencode(path), how, len(how))
        except BlockingIOError:
            continue
    return syscall.syscall(syscall.OPENAT2, dirfd, os.fsencode(path), how, len(how))


def open_directory(dirfd: int, path: str, resolve: int = CONFINED | RESOLVE_NO_SYMLINKS) -> int:
    """Open a directory below another one as O_PATH. Raises OSError."""
    return openat2(dirfd, path, os.O_PATH | os.O_DIRECTORY, resolve)


def open_regular(dirfd: int, path: str, *, follow: bool = False) -> int:
    """Open a regular file below a directory to read it. Raises OSError, NotRegular.

    The path must not contain links; `follow` allows those that stay below the directory. The file type is checked before the
    file is opened, because opening a device or a FIFO has effects.
    """
    flags, resolve = (0, CONFINED) if follow else (os.O_NOFOLLOW, CONFINED | RESOLVE_NO_SYMLINKS)
    inode = openat2(dirfd, path, os.O_PATH | flags, resolve)
    try:
        if not stat.S_ISREG(os.fstat(inode).st_mode):
            raise NotRegular
        return os.open(f"/proc/self/fd/{inode}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(inode)


def read_start(path: str, limit: int) -> bytes:
    """Read up to `limit` bytes of a regular file, following links. Raises OSError, NotRegular."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotRegular
        return file.read(limit)


def read_bounded(fd: int, limit: int) -> bytes | None:
    """Read a whole file, or return None if it exceeds `limit` bytes. Raises OSError."""
    if os.fstat(fd).st_size > limit:
        return None
    content, offset = b"", 0
    # Ask for one more byte, because the file may grow after fstat.
    while offset <= limit and (chunk := os.pread(fd, limit + 1 - offset, offset)):
        content += chunk
        offset += len(chunk)
    return content if offset <= limit else None


def lines(content: bytes) -> list[str]:
    r"""Split a text at \n only.

    str.splitlines() and text mode also split at \r, \x85 and others, which names may contain.
    """
    texts = content.decode("utf-8", "surrogateescape").split("\n")
    return texts if texts[-1] else texts[:-1]


def read_lines(path: str) -> list[str]:
    """Read the lines of a file in /proc or /sys. Raises OSError."""
    with open(path, "rb") as file:
        return lines(file.read())


def is_immutable(fd: int) -> bool:
    """Call FS_IOC_GETFLAGS, see ioctl_iflags(2). Raises OSError: ENOTTY if the filesystem has no flags."""
    return bool(_read_flags(fd) & _IMMUTABLE)


def set_immutable(fd: int, *, immutable: bool) -> None:
    """Call FS_IOC_SETFLAGS. Raises OSError: EPERM without CAP_LINUX_IMMUTABLE, EROFS."""
    flags = _read_flags(fd) & ~_IMMUTABLE | (_IMMUTABLE if immutable else 0)
    fcntl.ioctl(fd, _SETFLAGS, struct.pack("=l", flags))


def _read_flags(fd: int) -> int:
    flags: int = struct.unpack("=l", fcntl.ioctl(fd, _GETFLAGS, bytes(4)))[0]
    return flags
