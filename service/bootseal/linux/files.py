# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening and reading what nobody vouches for: openat2(2), regular files only, bounded; and inode flags."""

import fcntl
import os
import stat
import struct

from . import syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10
# Never leaves the directory, not by "..", by a link, by a mount, nor through /proc.
CONFINED = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_EAGAIN_RETRIES = 16

# #define FS_IOC_GETFLAGS _IOR('f', 1, long), FS_IOC_SETFLAGS _IOW('f', 2, long); the argument is an int all the same
_GETFLAGS = syscall.ior("f", 1, 8)
_SETFLAGS = syscall.iow("f", 2, 8)
_IMMUTABLE = 0x10  # FS_IMMUTABLE_FL


class NotRegular(Exception):
    """The path names something else than a regular file."""


def openat2(dirfd: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2), close-on-exec. Raises OSError: EXDEV and ELOOP for what `resolve` forbids, ENOSYS before Linux 5.6.

    EAGAIN (a rename raced with the lookup) is tried again a few times.
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
    """An O_PATH descriptor of a directory below another one. Raises OSError."""
    return openat2(dirfd, path, os.O_PATH | os.O_DIRECTORY, resolve)


def open_regular(dirfd: int, path: str, *, follow: bool = False) -> int:
    """A descriptor to read a regular file below a directory. Raises OSError, NotRegular.

    No part of the path may be a link, unless `follow` allows those that stay below the directory. The inode is looked at
    before it is opened: a device or a FIFO would do something on open.
    """
    flags, resolve = (0, CONFINED) if follow else (os.O_NOFOLLOW, CONFINED | RESOLVE_NO_SYMLINKS)
    found = openat2(dirfd, path, os.O_PATH | flags, resolve)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise NotRegular
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(found)


def read_start(path: str, limit: int) -> bytes:
    """Up to `limit` bytes from the start of a regular file, links followed. Raises OSError, NotRegular."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotRegular
        return file.read(limit)


def read_bounded(fd: int, limit: int) -> bytes | None:
    """The whole content of a file from its start, or None if that is more than `limit` bytes. Raises OSError."""
    if os.fstat(fd).st_size > limit:
        return None
    content, offset = b"", 0
    # One byte more than allowed: the file may grow after fstat.
    while offset <= limit and (chunk := os.pread(fd, limit + 1 - offset, offset)):
        content += chunk
        offset += len(chunk)
    return content if offset <= limit else None


def lines(content: bytes) -> list[str]:
    r"""Split a text at \n alone.

    str.splitlines() and text mode also split at \r, \x85 and others, which a name may hold.
    """
    found = content.decode("utf-8", "surrogateescape").split("\n")
    return found if found[-1] else found[:-1]


def read_lines(path: str) -> list[str]:
    """Read the lines of a file that the kernel makes, as in /proc. Raises OSError."""
    with open(path, "rb") as file:
        return lines(file.read())


def is_immutable(fd: int) -> bool:
    """FS_IOC_GETFLAGS, see ioctl_iflags(2). Raises OSError: ENOTTY where the filesystem has no flags."""
    return bool(_flags(fd) & _IMMUTABLE)


def set_immutable(fd: int, *, immutable: bool) -> None:
    """FS_IOC_SETFLAGS. Raises OSError: EPERM without CAP_LINUX_IMMUTABLE, EROFS."""
    flags = _flags(fd) & ~_IMMUTABLE | (_IMMUTABLE if immutable else 0)
    fcntl.ioctl(fd, _SETFLAGS, struct.pack("=l", flags))


def _flags(fd: int) -> int:
    flags: int = struct.unpack("=l", fcntl.ioctl(fd, _GETFLAGS, bytes(4)))[0]
    return flags
