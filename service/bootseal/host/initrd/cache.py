# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read an initrd, or take the answer of an earlier run from /run. Unpacking takes nearly all of the time of a check.

The key of an entry is a hash of the files' content, of the question, and of the code that answers it. Times and inode numbers
do not count: FAT has neither inode numbers nor change times, and stores times in steps of two seconds.

An entry holds the answer as the confined process gave it, and passes the same checks when it is used. Root alone reads and
writes entries. After any error, and for other users, the initrd is read again.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ... import __version__, paths
from ...linux import files
from . import reader
from .contents import Contents
from .reader import Opened

DIRECTORY = paths.RUN + "/initrds"
OWNER = 0
# Together at most 16 MiB of memory. The answer for an initrd with a hundred certificates has 150 KB.
MAX_ENTRIES, MAX_ANSWER = 64, 256 << 10
MAX_SIZE = 256 << 20  # bytes of all files of an initrd: a hostile one may be sparse
_CODE = Path(__file__).parent
_CHUNK = 256 << 10  # bytes
_CHECKSUM = 32  # bytes


def contents(initrd: Opened, directories: Sequence[str], names: Sequence[str]) -> Contents:
    """Do as reader.ask() and reader.parse(), but read no content twice. Raises Damaged, OSError."""
    question = json.dumps([directories, names])
    key = _find_key(question, initrd)
    kept = _load(key) if key else None
    if kept is not None:
        with suppress(reader.Damaged):
            return reader.parse(kept, directories, names)
    answer = reader.ask(initrd, directories, names)
    read = reader.parse(answer, directories, names)
    # The files may have changed before or while the process read them.
    if key and key == _find_key(question, initrd):
        _store(key, answer)
    return read


def _find_key(question: str, initrd: Opened) -> str:
    """Return the key of an answer, a file name. Empty for other users than root, above MAX_SIZE, and on errors."""
    if os.geteuid() != OWNER:
        return ""
    with suppress(OSError):
        sizes = [os.lseek(fd, 0, os.SEEK_END) for fd in initrd.descriptors]
        if sum(sizes) <= MAX_SIZE:
            # A distribution may patch the code, and keep the version.
            code = b"".join(path.read_bytes() for path in sorted(_CODE.glob("*.py")))
            parts = [__version__.encode(), code, question.encode()]
            hashes = [*map(_hash, parts), *map(_hash_file, initrd.descriptors, sizes)]
            return _hash(b"".join(hashes)).hex()
    return ""


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _hash_file(fd: int, size: int) -> bytes:
    """Hash a file, of which not more than `size` bytes. Raises OSError."""
    hash_, offset = hashlib.sha256(), 0
    while chunk := os.pread(fd, min(_CHUNK, size - offset), offset):
        hash_.update(chunk)
        offset += len(chunk)
    return hash_.digest()


def _load(key: str) -> bytes | None:
    """Return the answer in an entry; None unless it is complete, and only root could write it."""
    with suppress(OSError, files.NotRegular), _opened_directory() as directory:
        with open(files.open_regular(directory, key), "rb") as file:
            _require_private(file.fileno())
            content = files.read_bounded(file.fileno(), _CHECKSUM + MAX_ANSWER)
        if content is not None and content == _make_entry(key, content[_CHECKSUM:]):
            return content[_CHECKSUM:]
    return None


def _store(key: str, answer: bytes) -> None:
    """Keep an answer, and remove the oldest entries above MAX_ENTRIES."""
    if len(answer) > MAX_ANSWER:
        return
    with suppress(OSError):
        for path, mode in ((os.path.dirname(DIRECTORY), 0o755), (DIRECTORY, 0o700)):
            with suppress(FileExistsError):
                os.mkdir(path, mode)
        with _opened_directory() as directory:
            _write(directory, key, _make_entry(key, answer))
            _remove_oldest(directory)


@contextmanager
def _opened_directory() -> Iterator[int]:
    """Open the directory of the entries for the block. Raises OSError."""
    fd = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_private(fd)
        yield fd
    finally:
        os.close(fd)


def _require_private(fd: int) -> None:
    """Raise PermissionError unless root owns the file or directory, and other users can do nothing with it."""
    status = os.fstat(fd)
    if status.st_uid != OWNER or status.st_mode & 0o077:
        raise PermissionError


def _make_entry(key: str, answer: bytes) -> bytes:
    """Put a checksum before an answer, because one that was truncated after a record would be valid."""
    return _hash(key.encode() + answer) + answer


def _write(directory: int, name: str, content: bytes) -> None:
    """Write a complete file, or nothing, and leave nothing behind if killed. Raises OSError."""
    fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)  # not usable, or of another run that read the same at the same time
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory, follow_symlinks=True)


def _remove_oldest(directory: int) -> None:
    """Remove the oldest entries above MAX_ENTRIES. Raises OSError."""
    with os.scandir(directory) as entries:
        by_age = sorted((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in entries)
    for _, name in by_age[:-MAX_ENTRIES]:
        os.unlink(name, dir_fd=directory)
