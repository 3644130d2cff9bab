# SPDX-License-Identifier: LGPL-2.1-or-later
"""Link /run/systemd/volatile-root to the root's disk, as ostree does, and bootc if /dev/gpt-auto-root exists.

systemd-gpt-auto-generator(8) then finds the ESP, but also swap, /home and /srv on the same disk.
"""

import os

from .. import paths
from ..linux import blockdev

_LINK = "/run/systemd/volatile-root"


def link() -> None:
    """Make the link while the physical root is at /sysroot, if that is possible: nothing of ours needs it."""
    try:
        fd = os.open(paths.SYSROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            device = blockdev.number(fd)
        finally:
            os.close(fd)
        os.symlink(f"/dev/block/{os.major(device)}:{os.minor(device)}", _LINK)
    except OSError:
        pass


def unlink() -> None:
    """Remove the link if it exists. Raises OSError."""
    try:
        os.unlink(_LINK)
    except FileNotFoundError:
        pass
