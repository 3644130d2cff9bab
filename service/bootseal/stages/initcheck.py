# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 7: reads init and its loader through the finished overlay, every block of them.

A damaged object is refused here, with a verdict. After the switch it would be a PID 1 that cannot start.
"""

import errno
import os

from .. import verdicts
from ..errors import Refusal, failed, reason
from ..linux import files

# What 'systemctl switch-root' tries, see its own source; a name on the kernel command line (init=) comes first.
_INITS = ("/usr/lib/systemd/systemd", "/sbin/init", "/etc/init", "/bin/init", "/bin/sh")
_CHUNK = 1 << 20
_UNREADABLE = "init or its loader cannot be read"
_PT_INTERP = 3


def check(root_fd: int, init: str, image_path: str) -> None:
    """Raises Refusal `mount-failed` if there is no init, or it or its loader cannot be read; `io-error` for a failed disk."""
    for path in ([init] if init else []) + list(_INITS):
        try:
            if not _exists(root_fd, path):
                continue
            if interpreter := _read_through(root_fd, path):
                _read_through(root_fd, interpreter)
            return
        except files.NotRegular as error:
            raise Refusal(verdicts.MOUNT_FAILED, f"{_UNREADABLE}: not a regular file", path) from error
        except OSError as error:
            raise _unreadable(error, path) from error
    raise Refusal(verdicts.MOUNT_FAILED, "no init in the image", image_path)


def _unreadable(error: OSError, path: str) -> Refusal:
    """Return the Refusal. EIO does not blame the disk: overlay and fs-verity also say it of an object that was changed."""
    if error.errno == errno.EIO:
        return Refusal(verdicts.MOUNT_FAILED, f"{_UNREADABLE}: {reason(error)}", path)
    return failed(error, verdicts.MOUNT_FAILED, _UNREADABLE, path)


def _exists(root_fd: int, path: str) -> bool:
    """Whether the image has it. Opening it may still fail, with ENOENT, too: when its object is missing."""
    try:
        os.close(files.openat2(root_fd, path, os.O_PATH, files.CONFINED))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _read_through(root_fd: int, path: str) -> str:
    """Reads a whole file; returns the name of its ELF interpreter, or nothing."""
    fd = files.open_regular(root_fd, path, follow=True)
    try:
        head = os.pread(fd, 4096, 0)
        offset = 0
        while size := len(os.pread(fd, _CHUNK, offset)):
            offset += size
        return _interpreter(fd, head)
    finally:
        os.close(fd)


def _interpreter(fd: int, head: bytes) -> str:
    """PT_INTERP of a 64-bit ELF file in this machine's byte order, see elf(5). The file is a verified one."""
    if head[:5] != b"\x7fELF\x02":
        return ""
    order = "little" if head[5] == 1 else "big"

    def number(data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    table, entry_size, count = number(head, 32, 8), number(head, 54, 2), number(head, 56, 2)
    for index in range(count):
        entry = os.pread(fd, entry_size, table + index * entry_size)
        if number(entry, 0, 4) == _PT_INTERP:
            return os.pread(fd, number(entry, 32, 8), number(entry, 8, 8)).rstrip(b"\0").decode()
    return ""
