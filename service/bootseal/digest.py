# SPDX-License-Identifier: LGPL-2.1-or-later
"""Represent and format fs-verity digests, and compute that of a file of one block.

host/imagedigest.py computes those of larger files.

Sources: Documentation/filesystems/fsverity.rst, include/uapi/linux/fsverity.h. Like composefs, this module knows SHA-256 and
SHA-512 with 4096-byte blocks and without salt only.
"""

from . import libcrypto
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
    """Compute the fs-verity digest of a file with this content, at most one block of 4096 bytes."""
    if len(content) > BLOCK_SIZE:
        raise ValueError(f"{len(content)} bytes, where one block has {BLOCK_SIZE}")
    # The root hash of one block is its own hash, and that of an empty file all zeros.
    root = libcrypto.hash_of(content.ljust(BLOCK_SIZE, b"\0"), algorithm) if content else b""
    return Digest(algorithm, libcrypto.hash_of(descriptor(algorithm, len(content), root), algorithm))


def descriptor(algorithm: str, size: int, root: bytes) -> bytes:
    """Return struct fsverity_descriptor of a file with this size and root hash: 256 bytes."""
    # version, hash_algorithm, log_blocksize, salt_size, reserved; data_size; root_hash; salt; reserved
    start = bytes([1, NUMBERS[algorithm], 12, 0, 0, 0, 0, 0])
    return start + size.to_bytes(8, "little") + root.ljust(64, b"\0") + bytes(32 + 144)
