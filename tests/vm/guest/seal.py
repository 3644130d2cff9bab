# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put the metadata of fs-verity behind all files that ostree seals, as ext4 keeps it, see ext4/verity.rst of the kernel.

seal.py ROOT DEPLOYMENT: change the files below ROOT, and print debugfs commands for the disk that is made from it. The kernel
checks each block that it reads from there, so a boot proves that the metadata is right.
"""

import hashlib
import os
import stat
import struct
import sys
from collections.abc import Iterator

BLOCK, HASH = 4096, 32
BOUNDARY = 65536  # the metadata begins at the next one behind the content
FLAGS = 0x80000 | 0x100000  # extents, verity
IMMUTABLE = 0x80000 | 0x10


def blocks(content: bytes) -> Iterator[bytes]:
    """Split it; zeros fill the last block."""
    for at in range(0, len(content), BLOCK):
        yield content[at : at + BLOCK].ljust(BLOCK, b"\0")


def tree(content: bytes) -> tuple[bytes, bytes]:
    """Make root hash and Merkle tree: the highest level first."""
    levels: list[bytes] = []
    while len(content) > BLOCK:
        content = b"".join(hashlib.sha256(block).digest() for block in blocks(content))
        levels.insert(0, b"".join(blocks(content)))
    root = hashlib.sha256(content.ljust(BLOCK, b"\0")).digest() if content else bytes(HASH)
    return root, b"".join(levels)


def descriptor(content: bytes, root: bytes) -> bytes:
    """Make a struct fsverity_descriptor: version 1, SHA-256, blocks of 4096 bytes, neither salt nor signature."""
    return struct.pack("<BBBBIQ64s32s144s", 1, 1, 12, 0, 0, len(content), root, b"", b"")


def sealed(path: str) -> None:
    """Append the metadata to a file; its times stay."""
    with open(path, "rb") as file:
        content, seen = file.read(), os.fstat(file.fileno())
    root, levels = tree(content)
    made = descriptor(content, root)
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
    for directory, _, names in os.walk("ostree/repo/objects"):
        for name in names:
            path = f"{directory}/{name}"
            if stat.S_ISREG(os.lstat(path).st_mode):
                sealed(path)
    sealed(f"{deployment}/.ostree.cfs")
    print(f'set_inode_field "{deployment}" flags 0x{IMMUTABLE:x}')


if __name__ == "__main__":
    main(*sys.argv[1:])
