# SPDX-License-Identifier: LGPL-2.1-or-later
"""In the guest, `enrolled state SYSROOT DEPLOYMENT`: what is at and beside the digest file, as a line of JSON.

`enrolled keep|reset ...`: the file as it is now gets a second name, or gets back its own. No code of the project, and only
modules that an initrd has.
"""

import errno
import fcntl
import json
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
IMMUTABLE, VERITY = 0x10, 0x100000
_, verb, sysroot, deployment = sys.argv
top = f"{sysroot}/{deployment}"
digest, kept = f"{top}/.ostree.cfs.digest", f"{sysroot}/guest-kept"


def flags(path: str) -> int:
    fd = os.open(path, os.O_RDONLY)
    value: int = struct.unpack("i", fcntl.ioctl(fd, GETFLAGS, bytes(4)))[0]
    os.close(fd)
    return value


def set_immutable(*, immutable: bool) -> None:
    value = flags(top) & ~IMMUTABLE | (IMMUTABLE if immutable else 0)
    fd = os.open(top, os.O_RDONLY)
    fcntl.ioctl(fd, SETFLAGS, struct.pack("i", value))
    os.close(fd)


def digest_file() -> "dict[str, Any]":
    try:
        with open(digest, "rb") as file:
            size = len(file.read())
    except OSError as error:
        return {"opens": errno.errorcode[error.errno or 0]}
    return {"opens": True, "size": size, "verity": bool(flags(digest) & VERITY)}


def superblock() -> str:
    """Of the mount at SYSROOT: "ro" or "rw"."""
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        mounts = [line for line in lines if line.split()[4] == sysroot]
    return mounts[-1].split(" - ")[1].split()[2].split(",")[0]


def state() -> "dict[str, Any]":
    names = [name for name in os.listdir(f"{top}/..") if name.startswith(".bootseal")]
    leftovers = sorted(name.split(".", 3)[3] for name in names)  # .bootseal-CHECKSUM.SERIAL.WHAT
    inside = sorted(name for name in os.listdir(top) if name.startswith(".ostree.cfs"))
    immutable = bool(flags(top) & IMMUTABLE)
    return {"immutable": immutable, **digest_file(), "leftovers": leftovers, "files": inside, "superblock": superblock()}


if verb == "keep":
    os.link(digest, kept)
elif verb == "reset":
    set_immutable(immutable=False)
    os.unlink(digest)
    os.link(kept, digest)
    set_immutable(immutable=True)
else:
    print(json.dumps(state()))
