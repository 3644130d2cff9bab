# SPDX-License-Identifier: LGPL-2.1-or-later
"""Represent, format and compute fs-verity digests.

Sources: Documentation/filesystems/fsverity.rst, include/uapi/linux/fsverity.h. Like composefs, this module knows SHA-256 and
SHA-512 with 4096-byte blocks and without salt only.
"""

import hashlib
from collections.abc import Iterable

from .namedtuple import NamedTuple

BLOCK_SIZE = 4096
# FS_VERITY_HASH_ALG_SHA256, FS_VERITY_HASH_ALG_SHA512
NUMBERS = {"sha256": 1, "sha512": 2}
SIZES = {"sha256": 32, "sha512": 64}


class Digest(NamedTuple):
    """The hash of a file's fs-verity descriptor. `value` has 32 (sha256) or 64 (sha512) bytes."""

    algorithm: str
    value: bytes

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value.hex()}"

    def formatted(self) -> bytes:
        """Return struct fsverity_formatted_digest, which a signature covers: magic, algorithm, size, digest."""
        number, size = NUMBERS[self.algorithm], len(self.value)
        return b"FSVerity" + number.to_bytes(2, "little") + size.to_bytes(2, "little") + self.value


def from_bytes(value: bytes) -> Digest:
    """Make a Digest of raw bytes, by their count. Raises ValueError unless there are 32 or 64."""
    for algorithm, size in SIZES.items():
        if len(value) == size:
            return Digest(algorithm, value)
    raise ValueError(f"{len(value)} bytes, where a SHA-256 digest has 32 and a SHA-512 digest 64")


def of_bytes(content: bytes, algorithm: str) -> Digest:
    """Compute the fs-verity digest of a file with this content."""
    return of_blocks([content], algorithm)


def of_blocks(blocks: Iterable[bytes | memoryview], algorithm: str) -> Digest:
    """Compute the fs-verity digest of a file from chunks of its content.

    All chunks but the last must be multiples of 4096 bytes. Memory use is one block per level of the Merkle tree.
    """
    tree = _MerkleTree(algorithm)
    size = 0
    for block in blocks:
        size += len(block)
        tree.add(memoryview(block))
    descriptor = (
        # version, hash_algorithm, log_blocksize, salt_size, reserved; data_size; root_hash; salt; reserved
        bytes([1, NUMBERS[algorithm], 12, 0, 0, 0, 0, 0])
        + size.to_bytes(8, "little")
        + tree.root().ljust(64, b"\0")
        + bytes(32 + 144)
    )
    return Digest(algorithm, hashlib.new(algorithm, descriptor).digest())


class _MerkleTree:
    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        # Not hashlib.new(), which looks the name up for each block: a quarter of the time for a large image.
        self._new = getattr(hashlib, algorithm)
        self._levels: list[bytearray] = []

    def add(self, chunk: memoryview) -> None:
        new, full = self._new, len(chunk) - len(chunk) % BLOCK_SIZE
        self._push(0, b"".join([new(chunk[i : i + BLOCK_SIZE]).digest() for i in range(0, full, BLOCK_SIZE)]))
        if full < len(chunk):
            self._push(0, self._hash(bytes(chunk[full:])))

    def root(self) -> bytes:
        """Return the root hash. That of an empty file is all zeros."""
        if not self._levels:
            return bytes(SIZES[self._algorithm])
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > SIZES[self._algorithm]:
            if pending := self._levels[level]:
                self._levels[level] = bytearray()
                self._push(level + 1, self._hash(pending))
            level += 1
        return bytes(self._levels[level])

    def _push(self, level: int, values: bytes) -> None:
        """Add any number of digests to a level."""
        if values and level == len(self._levels):
            self._levels.append(bytearray())
        while values:
            if len(self._levels[level]) == BLOCK_SIZE:
                # A full block gets a parent only when more follows, because the last block is the root.
                full, self._levels[level] = self._levels[level], bytearray()
                self._push(level + 1, self._hash(full))
            room = BLOCK_SIZE - len(self._levels[level])
            self._levels[level] += values[:room]
            values = values[room:]

    def _hash(self, block: bytes | bytearray) -> bytes:
        digest: bytes = self._new(bytes(block).ljust(BLOCK_SIZE, b"\0")).digest()
        return digest
