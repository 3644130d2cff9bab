# SPDX-License-Identifier: LGPL-2.1-or-later
"""/run/ostree-booted, by which ostree knows the booted deployment: a GVariant of type a{sv}.

Its keys are those of ostree's src/libotcore/otcore.h.
"""

import os
import struct

from ..formats import gvariant
from ..values import Deployment, RootConfig

PATH = "/run/ostree-booted"
_TEMPORARY = PATH + ".new"


def serialize(deployment: Deployment, config: RootConfig, transient_etc: str) -> bytes:
    """Return the file's content. `transient_etc` is the directory of a transient /etc, or empty."""
    status = os.fstat(deployment.pair.fd)
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
    """Write the file atomically. Raises OSError."""
    with open(_TEMPORARY, "wb") as file:
        file.write(content)
    os.replace(_TEMPORARY, PATH)


def remove() -> None:
    """Remove what write() made, or a part of it. Raises OSError."""
    for path in (_TEMPORARY, PATH):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
