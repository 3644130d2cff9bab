# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put the metadata of fs-verity behind all files that ostree seals, as ext4 keeps it, see ext4/verity.rst of the kernel.

seal.py ROOT DEPLOYMENT: change the files below ROOT, and print debugfs commands for the disk that is made from it. The kernel
checks each block that it reads from there, so a boot proves that the metadata is right. ostree's files have SHA-256, those of a
composefs repository the algorithm of their names.
"""

import hashlib
import os
import stat
import struct
import sys
from collections.abc import Iterator

BLOCK = 4096
NUMBERS = {"sha256": 1, "sha512": 2}
SHA512_NAME = 126
BOUNDARY = 65536  # the metadata begins at the next one behind the content
FLAGS = 0x80000 | 0x100000  # extents, verity
IMMUTABLE = 0x80000 | 0x10


def blocks(content: bytes) -> Iterator[bytes]:
    """Split it; zeros fill the last block."""
    for at in range(0, len(content), BLOCK):
        yield content[at : at + BLOCK].ljust(BLOCK, b"\0")


def tree(content: bytes, algorithm: str) -> tuple[bytes, bytes]:
    """Make root hash and Merkle tree: the highest level first."""
    new, levels = getattr(hashlib, algorithm), list[bytes]()
    while len(content) > BLOCK:
        content = b"".join(new(block).digest() for block in blocks(content))
        levels.insert(0, b"".join(blocks(content)))
    root = new(content.ljust(BLOCK, b"\0")).digest() if content else bytes(new().digest_size)
    return root, b"".join(levels)


def descriptor(content: bytes, root: bytes, algorithm: str) -> bytes:
    """Make a struct fsverity_descriptor: version 1, blocks of 4096 bytes, neither salt nor signature."""
    return struct.pack("<BBBBIQ64s32s144s", 1, NUMBERS[algorithm], 12, 0, 0, len(content), root, b"", b"")


def sealed(path: str, algorithm: str = "sha256") -> None:
    """Append the metadata to a file; its times stay."""
    with open(path, "rb") as file:
        content, seen = file.read(), os.fstat(file.fileno())
    root, levels = tree(content, algorithm)
    made = descriptor(content, root, algorithm)
    last = made.ljust(BLOCK - 4, b"\0") + struct.pack("<I", len(made))
    os.chmod(path, seen.st_mode | stat.S_IWUSR)
    with open(path, "r+b") as file:
        file.seek(-(-len(content) // BOUNDARY) * BOUNDARY)
        file.write(levels + last)
    os.chmod(path, stat.S_IMODE(seen.st_mode))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    print(f'set_inode_field "{path}" size {len(content)}\nset_inode_field "{path}" flags 0x{FLAGS:x}')


def main(root: str, deployment: str) -> None:
    os.chdir(root)
    for objects in ("ostree/repo/objects", "composefs/objects"):
        for directory, _, names in os.walk(objects):
            for name in names:
                path = f"{directory}/{name}"
                if stat.S_ISREG(os.lstat(path).st_mode):
                    sealed(path, "sha512" if len(name) == SHA512_NAME else "sha256")
    if os.path.exists(f"{deployment}/.ostree.cfs"):
        sealed(f"{deployment}/.ostree.cfs")
        print(f'set_inode_field "{deployment}" flags 0x{IMMUTABLE:x}')


if __name__ == "__main__":
    main(*sys.argv[1:])
