# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads an initrd as the kernel unpacks it, without unpacking it: several cpio archives, each compressed or not; or a UKI.

Documentation/driver-api/early-userspace/buffer-format.rst. Nothing here is trusted, and nothing is written but what
written_out() is asked for, under its own name, as a regular file.
"""

import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

from .unpacking import Chunk, decompress
from .unpacking import Damaged as Damaged

MAX_SIZE = 1 << 30
# Of each file no more is kept: what reads certificates and configuration refuses larger ones.
MAX_CONTENT = 64 * 1024 + 1
_MAX_LINKS = 16
_HEADER = 110  # of a member in the "newc" format: magic and 13 numbers of 8 hexadecimal digits
_MAGIC = (b"070701", b"070702")
_ZEROS = re.compile(rb"\0*")


class Member(NamedTuple):
    mode: int
    content: bytes


class Tree:
    """What the initrd holds, by path without a leading slash. A later archive replaces files of an earlier one."""

    def __init__(self, members: dict[str, Member]) -> None:
        self._members = members

    def resolve(self, path: str) -> str | None:
        """The path after links in any component, within the initrd; None if there is nothing."""
        rest, done, links = path.strip("/").split("/"), "", 0
        while rest:
            name = rest.pop(0)
            if name in ("", "."):
                continue
            done = os.path.dirname(done) if name == ".." else f"{done}/{name}".lstrip("/")
            member = self._members.get(done)
            if member and stat.S_ISLNK(member.mode):
                links += 1
                target = os.fsdecode(member.content)
                rest = target.split("/") + rest
                done = "" if target.startswith("/") else os.path.dirname(done)
                if links > _MAX_LINKS:
                    return None
        return done if done in self._members else None

    def exists(self, path: str) -> bool:
        return self.resolve(path) is not None

    def lexists(self, path: str) -> bool:
        """Whether there is something under this name, be it a link to nowhere."""
        directory = self.resolve(os.path.dirname(path))
        return f"{directory or os.path.dirname(path)}/{os.path.basename(path)}".lstrip("/") in self._members

    def read(self, path: str) -> bytes | None:
        """The content of a regular file, up to MAX_CONTENT; None if there is none."""
        found = self.resolve(path)
        member = self._members[found] if found else None
        return member.content if member and stat.S_ISREG(member.mode) else None

    def list(self, directory: str) -> list[str]:
        """Names in a directory, sorted."""
        found = self.resolve(directory)
        prefix = f"{found}/"
        return (
            sorted(p[len(prefix) :] for p in self._members if p.startswith(prefix) and "/" not in p[len(prefix) :])
            if found
            else []
        )

    def link_target(self, path: str) -> str | None:
        """Where a link points to; None if it is none."""
        directory = self.resolve(os.path.dirname(path))
        member = self._members.get(f"{directory}/{os.path.basename(path)}")
        return os.fsdecode(member.content) if member and stat.S_ISLNK(member.mode) else None


class _Reader:
    """Reads forward what comes in chunks. What is skipped, nearly all of an initrd, is never copied."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks, self._chunk, self.position = iter(chunks), memoryview(b""), 0

    def take(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        taken = []
        while size and self._more():
            taken.append(bytes(self._chunk[:size]))
            self._advance(len(taken[-1]))
            size -= len(taken[-1])
        return b"".join(taken)

    def skip(self, size: int) -> bool:
        """False if there are not so many."""
        while size and self._more():
            step = min(size, len(self._chunk))
            self._advance(step)
            size -= step
        return not size

    def skip_zeros(self) -> bool:
        """False if nothing else comes."""
        while self._more():
            self._advance(_after_zeros(self._chunk, 0))
            if self._chunk:
                return True
        return False

    def _more(self) -> bool:
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._chunk = memoryview(chunk)
        return True

    def _advance(self, size: int) -> None:
        self._chunk = self._chunk[size:]
        self.position += size


def read(paths: Iterable[str]) -> Tree:
    """The initrd that these files are, one after the other. Raises Damaged, OSError."""
    contents = [_content(path) for path in paths]
    return Tree(unpack(contents[0] if len(contents) == 1 else b"".join(map(_aligned, contents))))


def unpack(content: bytes) -> dict[str, Member]:
    """The members of all archives. Raises Damaged."""
    members: dict[str, Member] = {}
    hard_links: dict[tuple[int, ...], list[str]] = {}
    for archive in _archives(content):
        _read_archives(_Reader(archive), members, hard_links)
    if not members:
        raise Damaged("no cpio archive in it")
    return members


@contextmanager
def written_out(tree: Tree, directories: Iterable[str]) -> Iterator[str]:
    """A temporary directory with copies of the files directly in some directories of the initrd, for the boot's own code.

    A link to /dev/null stays one (it masks a file), every other link becomes the file that it leads to.
    """
    with TemporaryDirectory(prefix="bootseal-") as top:
        for directory in directories:
            target = os.path.join(top, directory)
            os.makedirs(target, exist_ok=True)
            for name in tree.list(directory):
                _write_out(tree, f"{directory}/{name}", os.path.join(target, name))
        yield top


def pe_sections(path: str, names: Iterable[str]) -> dict[str, bytes]:
    """Sections of a PE file, such as .initrd and .cmdline of a UKI; none if it is no PE file. Raises OSError, Damaged."""
    with _opened(path) as file:
        return _sections(file, names)


def _opened(path: str) -> BinaryIO:
    """A file, or a disk that has the initrd from its start; nothing that one would wait for, or that never ends."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb")
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        file.close()
        raise Damaged("not a regular file")
    return file


def _sections(file: BinaryIO, names: Iterable[str]) -> dict[str, bytes]:
    if file.read(2) != b"MZ":
        return {}
    try:
        file.seek(0x3C)
        header: int = struct.unpack("<I", file.read(4))[0]
        file.seek(header)
        signature, _, count, optional = struct.unpack("<4sHH12xH2x", file.read(24))
        if signature != b"PE\0\0":
            raise Damaged("no PE header")
        file.seek(header + 24 + optional)
        table = [struct.unpack("<8sIIII16x", file.read(40)) for _ in range(count)]
    except struct.error as error:
        raise Damaged("a PE file that is cut off") from error
    found, end = {}, file.seek(0, os.SEEK_END)
    for name, virtual, _, size, offset in table:
        text = name.rstrip(b"\0").decode("ascii", "replace")
        if text in names:
            file.seek(offset)
            # Memory for as much as is asked for is taken at once, be it there or not.
            found[text] = file.read(max(0, min(virtual, size, MAX_SIZE, end - offset)))
    return found


def _content(path: str) -> bytes:
    with _opened(path) as file:
        size = file.seek(0, os.SEEK_END)  # a disk's, too
        file.seek(0)
        if size > MAX_SIZE:
            raise Damaged(f"larger than {MAX_SIZE} bytes")
        sections = _sections(file, (".initrd",))
        if ".initrd" in sections:
            return sections[".initrd"]
        file.seek(0)
        return file.read(size)


def _aligned(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _write_out(tree: Tree, path: str, target: str) -> None:
    if tree.link_target(path) == "/dev/null":
        os.symlink("/dev/null", target)
        return
    content = tree.read(path)
    if content is not None:
        with open(target, "xb") as file:
            file.write(content)


def _archives(content: bytes) -> Iterator[Iterable[Chunk]]:
    """Uncompressed stretches, each to be read to its end before the next."""
    packed = _Packed(memoryview(content))
    while packed.more():
        yield packed.compressed() if packed.is_compressed() else [packed.archive()]


def _after_zeros(data: memoryview, position: int) -> int:
    zeros = _ZEROS.match(data, position)
    assert zeros  # none are zeros, too
    return zeros.end()


class _Packed:
    """An initrd, and how far it is read."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._position = content, 0

    def more(self) -> bool:
        self._position = _after_zeros(self._content, self._position)
        return self._position < len(self._content)

    def is_compressed(self) -> bool:
        """What is neither is for decompress() to say. The kernel, too, sees an archive only where it is aligned."""
        return bytes(self._content[self._position : self._position + 6]) not in _MAGIC or self._position % 4 != 0

    def archive(self) -> memoryview:
        """One archive that is not compressed."""
        start = self._position
        reader = _Reader([self._content[start:]])
        while not self.is_compressed():
            name, _, _ = _member(reader)
            self._position = start + reader.position
            if name == "TRAILER!!!":
                break
        return self._content[start : self._position]

    def compressed(self) -> Iterator[Chunk]:
        """One compressed stretch. No member goes on in the next: "junk at the end of compressed archive" (init/initramfs.c)."""
        total = 0
        unpacking = decompress(self._content[self._position :])
        try:
            while True:
                chunk = next(unpacking)
                total += len(chunk)
                if total > MAX_SIZE:
                    raise Damaged(f"unpacks to more than {MAX_SIZE} bytes")
                yield chunk
        except StopIteration as end:
            self._position += end.value
        finally:
            unpacking.close()


def _read_archives(reader: _Reader, members: dict[str, Member], hard_links: dict[tuple[int, ...], list[str]]) -> None:
    while reader.skip_zeros():
        name, member, inode = _member(reader)
        if name == "TRAILER!!!":
            hard_links.clear()
            continue
        directory, base = os.path.split(name)
        # The kernel follows links to directories, such as lib, that came before.
        name = f"{Tree(members).resolve(directory) or directory}/{base}".lstrip("/")
        members[name] = member
        if inode:
            _join_links(members, hard_links.setdefault(inode, []), name)


def _join_links(members: dict[str, Member], names: list[str], name: str) -> None:
    """Of hard links to one file, only one carries the content."""
    member = members[name]
    if not stat.S_ISREG(member.mode):
        return
    names.append(name)
    content = member.content or next((members[n].content for n in names if members[n].content), b"")
    for other in names if content else ():
        members[other] = members[other]._replace(content=content)


def _member(reader: _Reader) -> tuple[str, Member, tuple[int, ...]]:
    """(name, member, inode), the latter empty for a file without further links: some tools write 0 for all."""
    header = reader.take(_HEADER)
    if not header.startswith(_MAGIC) or len(header) < _HEADER:
        raise Damaged("no cpio archive where one belongs")
    try:
        fields = [int(header[i : i + 8], 16) for i in range(6, _HEADER, 8)]
    except ValueError as error:
        raise Damaged("a cpio header that is damaged") from error
    inode, mode, links, size, name_size = fields[0], fields[1], fields[4], fields[6], fields[11]
    name = reader.take(name_size).rstrip(b"\0")
    reader.skip(-(_HEADER + name_size) % 4)
    kept = 0 if stat.S_ISDIR(mode) else min(size, MAX_CONTENT)
    content = reader.take(kept)
    if len(content) < kept or not reader.skip(size - kept):
        raise Damaged("a cpio archive that is cut off")
    reader.skip(-size % 4)
    identity = (inode, fields[7], fields[8]) if links > 1 else ()
    path = os.path.normpath(os.fsdecode(name)).lstrip("/")
    return path, Member(mode, content), identity
