# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compute the fs-verity digest of an image file, without root and without fs-verity in the kernel."""

import os
import stat
from collections.abc import Iterator

from .. import digest
from ..digest import BLOCK_SIZE, Digest
from ..linux import files
from .output import DATA, IO_ERROR, NO_INPUT, USAGE, Failure, Progress, os_failure

_CHUNK = 256 * BLOCK_SIZE
# Of a deployment's image. An image of 1 GiB names millions of files.
MAX_SIZE = 1 << 30


def compute(path: str, algorithm: str, hint: str, directory: int | None = None) -> Digest:
    """Read the file once, in constant memory and with a progress bar.

    Raises Failure, also if the file changes meanwhile.

    `hint` is for a missing image. With `directory`, the file is in a directory that nobody vouches for.
    """
    try:
        fd = _open(path, directory)
    except OSError as error:
        raise os_failure(NO_INPUT, f"Failed to open the image {path}", error, hint) from error
    try:
        before = _check_kind(fd, path)
        if directory is not None and before.st_size > MAX_SIZE:
            raise Failure(DATA, f"Failed to read the image {path}: larger than {MAX_SIZE} bytes")
        with Progress(f"Computing the digest of {os.path.basename(path)}", before.st_size) as progress:
            computed = digest.of_blocks(_chunks(fd, progress), algorithm)
        _check_unchanged(before, os.fstat(fd), path)
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read the image {path}", error) from error
    finally:
        os.close(fd)
    return computed


def parse(text: str) -> Digest:
    """Parse a digest such as sha256:0123... Raises Failure."""
    algorithm, _, value = text.partition(":")
    try:
        parsed = Digest(algorithm, bytes.fromhex(value))
    except ValueError:
        parsed = Digest(algorithm, b"")
    if digest.SIZES.get(algorithm) != len(parsed.value):
        hint = "give sha256: and 64 hexadecimal digits, or sha512: and 128, as 'fsverity digest' prints it"
        raise Failure(USAGE, f"Failed to read the digest {text[:80]}: invalid format", hint)
    return parsed


def _open(path: str, directory: int | None) -> int:
    if directory is None:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return files.open_regular(directory, os.path.basename(path))
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


def _chunks(fd: int, progress: Progress) -> Iterator[memoryview]:
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
