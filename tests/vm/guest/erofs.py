# SPDX-License-Identifier: LGPL-2.1-or-later
"""erofs.py TREE OBJECTS MIRROR: put the files of TREE into OBJECTS by their fs-verity digest (SHA-512), and make MIRROR, from
which mkfs.erofs makes a composefs image: all files are empty and name their object for overlayfs.

See the attributes in fs/overlayfs/overlayfs.h of Linux, struct ovl_metacopy, and the documentation of composefs-rs.
"""

import hashlib
import os
import shutil
import stat
import struct
import sys
from collections.abc import Iterator

BLOCK, HASH = 4096, 64
ALGORITHM = 2  # FS_VERITY_HASH_ALG_SHA512


def blocks(content: bytes) -> Iterator[bytes]:
    """Split it; zeros fill the last block."""
    for at in range(0, len(content), BLOCK):
        yield content[at : at + BLOCK].ljust(BLOCK, b"\0")


def digest(content: bytes) -> bytes:
    """Compute the fs-verity digest of a file."""
    root = content
    while len(root) > BLOCK:
        root = b"".join(hashlib.sha512(block).digest() for block in blocks(root))
    value = hashlib.sha512(root.ljust(BLOCK, b"\0")).digest() if content else bytes(HASH)
    descriptor = struct.pack("<BBBBIQ64s32s144s", 1, ALGORITHM, 12, 0, 0, len(content), value, b"", b"")
    return hashlib.sha512(descriptor).digest()


def store(path: str, objects: str) -> bytes:
    """Copy a file to its object; return its digest."""
    with open(path, "rb") as file:
        content = file.read()
    value = digest(content)
    target = f"{objects}/{value.hex()[:2]}/{value.hex()[2:]}"
    if not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
    return value


def mirror(path: str, target: str, objects: str) -> None:
    """Make the image of one file, without its content."""
    seen = os.lstat(path)
    if stat.S_ISLNK(seen.st_mode):
        os.symlink(os.readlink(path), target)
    elif stat.S_ISREG(seen.st_mode):
        with open(target, "wb") as file:
            file.truncate(seen.st_size)
        if seen.st_size:
            value = store(path, objects)
            # struct ovl_metacopy: version, length, flags, algorithm, digest
            os.setxattr(target, "trusted.overlay.metacopy", bytes([0, 4 + HASH, 0, ALGORITHM]) + value)
            os.setxattr(target, "trusted.overlay.redirect", f"/{value.hex()[:2]}/{value.hex()[2:]}".encode())
    else:
        os.mknod(target, seen.st_mode, seen.st_rdev)
    keep(path, target, seen)


def keep(path: str, target: str, seen: os.stat_result) -> None:
    """Give the target owner, mode and attributes."""
    os.lchown(target, seen.st_uid, seen.st_gid)
    if not stat.S_ISLNK(seen.st_mode):
        os.chmod(target, stat.S_IMODE(seen.st_mode))
        for name in os.listxattr(path):
            if name.startswith(("security.", "user.")):
                os.setxattr(target, name, os.getxattr(path, name))


def main(tree: str, objects: str, made: str) -> None:
    for directory, names, files in os.walk(tree):
        target = os.path.normpath(os.path.join(made, os.path.relpath(directory, tree)))
        os.makedirs(target, exist_ok=True)
        linked = [name for name in names if os.path.islink(f"{directory}/{name}")]
        for name in files + linked:
            mirror(f"{directory}/{name}", f"{target}/{name}", objects)
        keep(directory, target, os.lstat(directory))
    shutil.copystat(tree, made)


if __name__ == "__main__":
    main(*sys.argv[1:])
