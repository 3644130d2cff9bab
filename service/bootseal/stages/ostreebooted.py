# SPDX-License-Identifier: LGPL-2.1-or-later
"""/run/ostree-booted, by which ostree knows the booted deployment: a GVariant of type a{sv}.

Its keys are those of ostree's src/libotcore/otcore.h.
"""

import os
import struct

from .. import paths
from ..formats import gvariant
from ..linux import blockdev
from ..values import Deployment, RootConfig

PATH = "/run/ostree-booted"
_TEMPORARY = PATH + ".new"
_VOLATILE_ROOT = "/run/systemd/volatile-root"


def serialize(deployment: Deployment, config: RootConfig, transient_etc: str) -> bytes:
    """Return the file's content. `transient_etc` is the directory of a transient /etc, or empty."""
    status = os.fstat(deployment.fd)
    values: dict[str, tuple[str, bytes]] = {
        "backing-root-device-inode": ("(tt)", struct.pack("=QQ", status.st_dev, status.st_ino)),
        "root.transient": ("b", bytes([config.root_transient])),
        "root.transient-ro": ("b", bytes([config.root_transient and config.root_readonly])),
        "composefs": ("b", b"\1"),
        "composefs.verity": ("b", b"\1"),
        "sysroot-ro": ("b", bytes([config.sysroot_readonly])),
    }
    if transient_etc:
        values["transient-etc"] = ("s", transient_etc.encode() + b"\0")
    return gvariant.write_vardict(values)


def write(content: bytes) -> None:
    """Write the file atomically, and a link by which systemd finds the root's disk. Raises OSError."""
    with open(_TEMPORARY, "wb") as file:
        file.write(content)
    os.replace(_TEMPORARY, PATH)
    try:
        _link_device()
    except OSError:
        pass


def _link_device() -> None:
    """Link the disk as ostree does.

    systemd-gpt-auto-generator(8) then finds the ESP, but also swap, /home and /srv on the same disk.
    """
    fd = os.open(paths.SYSROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = blockdev.number(fd)
    finally:
        os.close(fd)
    os.symlink(f"/dev/block/{os.major(device)}:{os.minor(device)}", _VOLATILE_ROOT)


def remove() -> None:
    """Remove what write() made, or a part of it. Raises OSError."""
    for path in (_TEMPORARY, PATH, _VOLATILE_ROOT):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
