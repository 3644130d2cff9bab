# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compute the fs-verity digest of an image file, without root and without fs-verity in the kernel."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

from .. import digest
from ..digest import BLOCK_SIZE, SIZES, Digest
from ..linux import files
from ..values import Entry
from . import inside
from .output import DATA, IO_ERROR, USAGE, Failure, Progress, os_failure, warning

_CHUNK = 256 * BLOCK_SIZE
# Of a deployment's image. An image of 1 GiB names millions of files.
MAX_SIZE = 1 << 30
# The magic number of its superblock, see include/uapi/linux/magic.h and fs/erofs/erofs_fs.h of Linux.
_EROFS, _EROFS_AT = bytes.fromhex("e2e1f5e0"), 1024


def compute(path: str, algorithm: str, hint: str, entry: Entry | None = None) -> Digest:
    """Read the file once, in constant memory and with a progress bar.

    Raises Failure, also if the file changes meanwhile.

    `hint` is for a missing image. With `entry`, the file is that name in an untrusted directory.
    """
    try:
        fd = _open(path, entry)
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to open the image {path}", error, hint) from error
    try:
        before = _check_kind(fd, path)
        if os.pread(fd, len(_EROFS), _EROFS_AT) != _EROFS:
            warning(f"{path} is not an EROFS image, so no boot can mount it")
        if entry is not None and before.st_size > MAX_SIZE:
            raise Failure(DATA, f"Failed to read the image {path}: larger than {MAX_SIZE} bytes")
        with Progress(f"Computing the digest of {os.path.basename(path)}", before.st_size) as progress:
            computed = of_blocks(_read_chunks(fd, progress), algorithm)
        _check_unchanged(before, os.fstat(fd), path)
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read the image {path}", error) from error
    finally:
        os.close(fd)
    return computed


def algorithm_of(path: str) -> str:
    """Return the algorithm that an image is named by in a composefs repository, or ostree's."""
    return "sha512" if len(os.path.basename(path)) == 2 * SIZES["sha512"] else "sha256"


def read(path: str) -> Digest:
    """Read a digest file that the user named. Raises Failure."""
    try:
        return digest.from_bytes(inside.read_named(path, "the digest", max(SIZES.values())))
    except ValueError as error:
        raise Failure(DATA, f"Failed to use the digest {path}: {error}") from error


def parse(text: str) -> Digest:
    """Parse a digest such as sha256:0123... Raises Failure."""
    algorithm, _, value = text.partition(":")
    try:
        parsed = Digest(algorithm, bytes.fromhex(value))
    except ValueError:
        parsed = Digest(algorithm, b"")
    if SIZES.get(algorithm) != len(parsed.value):
        hint = "give sha256: and 64 hexadecimal digits, or sha512: and 128, as 'fsverity digest' prints it"
        raise Failure(USAGE, f"Failed to read the digest {text[:80]}: invalid format", hint)
    return parsed


def of_blocks(blocks: Iterable[bytes | memoryview], algorithm: str) -> Digest:
    """Compute the fs-verity digest of a file from chunks of its content.

    All chunks but the last must be multiples of 4096 bytes. Memory use is one block per level of the Merkle tree.
    """
    tree = _MerkleTree(algorithm)
    size = 0
    for block in blocks:
        size += len(block)
        tree.add(memoryview(block))
    return Digest(algorithm, hashlib.new(algorithm, digest.descriptor(algorithm, size, tree.root())).digest())


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


def _open(path: str, entry: Entry | None) -> int:
    if entry is None:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return files.open_regular(entry.fd, entry.name)
    except files.NotRegular as error:
        raise Failure(DATA, f"Failed to read the image {path}: not a regular file") from error


def _check_kind(fd: int, path: str) -> os.stat_result:
    """Return the status of a regular file that is not empty. Raises Failure."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Failure(DATA, f"Failed to read the image {path}: not a regular file")
    if status.st_size == 0:
        raise Failure(DATA, f"Failed to read the image {path}: empty file")
    return status


def _check_unchanged(before: os.stat_result, after: os.stat_result, path: str) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Failure(DATA, f"Failed to compute the digest of {path}: it changed meanwhile", "wait until the image is complete")


def _read_chunks(fd: int, progress: Progress) -> Iterator[memoryview]:
    view = memoryview(bytearray(_CHUNK))
    while size := _fill(fd, view):
        yield view[:size]
        progress.add(size)


def _fill(fd: int, view: memoryview) -> int:
    """Fill the buffer except at the end of the file: a short block in the middle changes the digest."""
    size = 0
    while size < len(view) and (got := os.readv(fd, [view[size:]])):
        size += got
    return size
