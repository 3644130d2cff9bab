# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read initrds and unified kernel images in a confined process. Open the files, and check the answers."""

import json
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from ...errors import DISK_FAILED
from ...linux.files import NotRegular
from ..inside import File
from . import archive, confined, pe
from .contents import Contents
from .decompress import Damaged as Damaged

MAX_FILES = 64
MAX_RECORDS = 4096
MAX_COMMAND_LINE = 1 << 16
_HEADER = struct.Struct("<cHI")  # of a record: kind, size of the name, size of the content
_FILE, _MASKED, _NAME = b"f", b"m", b"n"
_STRANGE = "the process that reads it gave an invalid answer"
_Record = tuple[bytes, str, bytes]


class Opened(NamedTuple):
    """The open files of one initrd.

    Equal identities mean equal contents, as far as the filesystem records changes.
    """

    descriptors: tuple[int, ...]
    identity: tuple[str, ...]


@contextmanager
def opened(files: Sequence[File]) -> Iterator[Opened]:
    """Open the files, or disks that start with an initrd, for the block. Raises Damaged, OSError."""
    if len(files) > MAX_FILES:
        raise Damaged(f"more than {MAX_FILES} files")
    with ExitStack() as stack:
        descriptors = tuple(_open(file, stack) for file in files)
        status = [os.fstat(fd) for fd in descriptors]
        yield Opened(descriptors, tuple(f"{s.st_dev}:{s.st_ino}:{s.st_mtime_ns}:{s.st_ctime_ns}:{s.st_size}" for s in status))


def ask(initrd: Opened, directories: Sequence[str], names: Sequence[str]) -> bytes:
    """Read these directories and names in the files, one after the other. The answer is for parse().

    Raises Damaged, OSError.
    """
    return _ask("contents", initrd.descriptors, directories=directories, names=names)


def parse(answer: bytes, directories: Sequence[str], names: Sequence[str]) -> Contents:
    """Check an answer of ask() to the same question. Raises Damaged."""
    read = Contents({}, dict.fromkeys(names, False))
    for kind, name, content in _unpack(answer):
        directory, _, base = name.rpartition("/")
        if kind == _NAME and name in read.names and not content:
            read.names[name] = True
        elif kind in (_FILE, _MASKED) and _is_asked(directory, directories) and _is_name(base):
            read.files[name] = content if kind == _FILE else None
        else:
            raise Damaged(_STRANGE)
    if any(os.path.dirname(name) in read.files for name in read.files):
        raise Damaged(_STRANGE)
    return read


def command_lines(files: Sequence[File]) -> dict[File, str]:
    """Read the command lines in unified kernel images, and skip damaged images. Raises Damaged, OSError."""
    if len(files) > MAX_FILES:
        raise Damaged(f"more than {MAX_FILES} files")
    with ExitStack() as stack:
        images: list[tuple[File, int]] = []
        for file in files:
            with suppress(Damaged):
                images += [(file, fd) for fd in _open_unless_gone(file, stack)]
        records = list(_unpack(_ask("command-lines", [fd for _, fd in images]))) if images else []
    by_number = {str(number): file for number, (file, _) in enumerate(images)}
    if not {number for _, number, _ in records} <= by_number.keys():
        raise Damaged(_STRANGE)
    return {by_number[number]: content.rstrip(b"\0").decode(errors="replace").strip() for _, number, content in records}


def main(question: str) -> None:
    """Answer one question on stdout. Only the confined process calls this."""
    task, descriptors, words = json.loads(question)
    # Seeking tells the size of a disk; fstat() does not.
    sizes = [min(os.lseek(fd, 0, os.SEEK_END), archive.MAX_SIZE + 1) for fd in descriptors]
    tasks: dict[str, Callable[..., Iterator[_Record]]] = {"contents": _answer_contents, "command-lines": _answer_command_lines}
    work = tasks[task]
    confined.answer(lambda: _pack(work(_map(descriptors, sizes), **words)), Damaged, sum(sizes))


def _is_asked(directory: str, directories: Sequence[str]) -> bool:
    """Tell whether this is one of the directories; "*" matches any one component."""
    given = directory.split("/")
    return any(len(asked) == len(given) and all(map(_fits, asked, given)) for asked in (d.split("/") for d in directories))


def _fits(asked: str, given: str) -> bool:
    return asked == given or (asked == "*" and _is_name(given))


def _is_name(base: str) -> bool:
    return base not in ("", ".", "..") and "\0" not in base and len(os.fsencode(base)) <= archive.NAME_MAX


def _open_unless_gone(file: File, stack: ExitStack) -> list[int]:
    """Open a file of a listing; empty if it cannot be opened.

    Raises Damaged, and OSError if the disk failed.
    """
    try:
        return [_open(file, stack)]
    except OSError as error:
        if error.errno in DISK_FAILED:
            raise
        return []


def _open(file: File, stack: ExitStack) -> int:
    """Open a regular file or a disk, but no pipe or endless device. Raises Damaged, OSError."""
    try:
        fd = stack.enter_context(file.opened())
    except NotRegular as error:
        raise Damaged("not a regular file") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise Damaged("not a regular file")
    return fd


def _ask(task: str, descriptors: Sequence[int], **words: Sequence[str]) -> bytes:
    """Ask the confined process. Raises Damaged, OSError."""
    try:
        return confined.run(json.dumps([task, descriptors, words]), descriptors)
    except confined.Refused as refused:
        raise Damaged(str(refused)) from refused


def _pack(records: Iterable[_Record]) -> bytes:
    """Join records to an answer. Raises Damaged."""
    packed = bytearray()
    for count, (kind, name, content) in enumerate(records, 1):
        encoded = os.fsencode(name)
        packed += _HEADER.pack(kind, len(encoded), len(content)) + encoded + content
        if len(packed) > confined.MAX_ANSWER or count > MAX_RECORDS:
            what = f"{MAX_RECORDS} files or {confined.MAX_ANSWER} bytes"
            raise Damaged(f"more than {what} of configuration and certificates")
    return bytes(packed)


def _unpack(answer: bytes) -> Iterator[_Record]:
    """Split an answer into records. Raises Damaged."""
    position = count = 0
    while position < len(answer):
        count += 1
        if count > MAX_RECORDS:
            raise Damaged(_STRANGE)
        try:
            kind, *sizes = _HEADER.unpack_from(answer, position)
        except struct.error as error:
            raise Damaged(_STRANGE) from error
        middle = position + _HEADER.size + sizes[0]
        name, position = answer[position + _HEADER.size : middle], middle + sizes[1]
        if position > len(answer):
            raise Damaged(_STRANGE)
        yield kind, os.fsdecode(name), answer[middle:position]


# --- in the confined process


def _map(descriptors: Iterable[int], sizes: Iterable[int]) -> list[memoryview]:
    """Map the files, so that the kernel reads pages on demand, and can drop them. Raises OSError."""
    pairs = zip(descriptors, sizes, strict=True)
    return [memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ) if size else b"") for fd, size in pairs]


def _answer_contents(files: Sequence[memoryview], directories: Sequence[str], names: Sequence[str]) -> Iterator[_Record]:
    if sum(map(len, files)) > archive.MAX_SIZE:
        raise Damaged(f"larger than {archive.MAX_SIZE} bytes")
    answer = archive.unpack(*map(pe.find_initrd, files)).contents(directories, names)
    yield from ((_NAME, name, b"") for name, exists in answer.names.items() if exists)
    yield from ((_MASKED if content is None else _FILE, path, content or b"") for path, content in answer.files.items())


def _answer_command_lines(files: Sequence[memoryview]) -> Iterator[_Record]:
    for number, content in enumerate(files):
        with suppress(Damaged):
            line = pe.find_sections(content, (".cmdline",)).get(".cmdline", b"")
            yield _FILE, str(number), bytes(line[:MAX_COMMAND_LINE])
