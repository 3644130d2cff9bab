# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read init and its loader through the finished overlay, every block of them.

bootseal refuses a damaged object here, with a verdict. After the switch, PID 1 could not start.
"""

import errno
import os

from .. import verdicts
from ..errors import Refusal, failed, reason
from ..formats import elf
from ..linux import files

# In the order in which 'systemctl switch-root' tries them. A name on the kernel command line (init=) comes first.
_INITS = ("/usr/lib/systemd/systemd", "/sbin/init", "/etc/init", "/bin/init", "/bin/sh")
_CHUNK = 1 << 20
_UNREADABLE = "init or its loader cannot be read"


def check(root_fd: int, init: str, image_path: str) -> None:
    """Read init and its loader.

    Raises Refusal: `mount-failed` if the image has no init, or if init or its loader cannot be read; `io-error`.
    """
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
    """Return the Refusal.

    EIO does not blame the disk: overlay and fs-verity also give it for a changed object.
    """
    if error.errno == errno.EIO:
        return Refusal(verdicts.MOUNT_FAILED, f"{_UNREADABLE}: {reason(error)}", path)
    return failed(error, verdicts.MOUNT_FAILED, _UNREADABLE, path)


def _exists(root_fd: int, path: str) -> bool:
    """Tell whether the image has this name.

    Opening it may still fail, even with ENOENT, because its object may be missing.
    """
    try:
        os.close(files.openat2(root_fd, path, os.O_PATH, files.CONFINED))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _read_through(root_fd: int, path: str) -> str:
    """Read a whole file. Return the name of its ELF interpreter, or an empty text."""
    fd = files.open_regular(root_fd, path, follow=True)
    try:
        offset = 0
        while size := len(os.pread(fd, _CHUNK, offset)):
            offset += size
        return elf.interpreter(lambda size, at: os.pread(fd, size, at))
    finally:
        os.close(fd)
