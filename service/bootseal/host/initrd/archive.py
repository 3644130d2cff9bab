# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads an initrd as the kernel unpacks it, without unpacking it: several cpio archives, each compressed or not; or a UKI.

Documentation/driver-api/early-userspace/buffer-format.rst, and init/initramfs.c. reader.py runs this in a confined process.
The limits here name a reason before that process reaches its own.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator

from .contents import Contents
from .decompress import Chunk, Damaged, decompress

MAX_SIZE = 1 << 30  # of the files of an initrd together, and of what one of them unpacks to
MAX_MEMBERS = 100_000
MAX_KEPT = 128 << 20  # names and contents in memory; an initrd of 20 MB has 9 MB of them
MAX_ARCHIVES = 256  # one after the other, each compressed or not
MAX_STEPS = 2_000_000  # components of paths that are looked up; each member costs about six
# Of each file no more is kept: what reads certificates and configuration refuses larger ones.
MAX_CONTENT = 64 * 1024 + 1
_MAX_LINKS = 16
_PATH_MAX = 4096  # of a member's name and of a link's target, as in the kernel
NAME_MAX = 255
_HEADER = 110  # of a member in the "newc" format: magic and 13 numbers of 8 hexadecimal digits
_MAGIC = (b"070701", b"070702")
_NUMBERS = re.compile(rb"[0-9A-Fa-f]{104}")  # int() also takes signs, spaces, "_" and "0x"
_TRAILER = "TRAILER!!!"
_ZEROS = re.compile(rb"\0*")


class Member:
    """Be an inode: hard links are one object."""

    def __init__(self, mode: int, content: bytes) -> None:
        self.mode, self.content = mode, content


class Tree:
    """What the initrd holds, by path without a leading slash. A later archive replaces files of an earlier one."""

    def __init__(self, members: dict[str, Member]) -> None:
        self._members, self._steps = members, 0

    def contents(self, directories: Iterable[str], names: Iterable[str]) -> Contents:
        """Return the files directly in these directories, links followed, and whether these names exist.

        A directory may have a component "*", which is any; the last component of a name may begin with "*-", any number.
        """
        files: dict[str, bytes | None] = {}
        expanded = (one for directory in directories for one in self._expanded(directory))
        for path in (f"{directory}/{name}" for directory in expanded for name in self.list(directory)):
            if self.link_target(path) == "/dev/null":
                files[path] = None
            elif (content := self.read(path)) is not None:
                files[path] = content
        return Contents(files, {name: self._exists(name) for name in names})

    def _expanded(self, directory: str) -> list[str]:
        top, any_, rest = directory.partition("/*/")
        return [f"{top}/{name}/{rest}" for name in self.list(top)] if any_ else [directory]

    def _exists(self, name: str) -> bool:
        directory, any_, rest = name.rpartition("/*-")
        return any(entry.partition("-")[2] == rest for entry in self.list(directory)) if any_ else self.exists(name)

    def resolve(self, path: str) -> str | None:
        """The path after links in any component, within the initrd; None if there is nothing. Raises Damaged."""
        rest, done, links = path.strip("/").split("/"), "", 0
        while rest:
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise Damaged(f"more than {MAX_STEPS} steps to follow its paths and links")
            if len(done) > _PATH_MAX:
                return None
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

    def entry(self, path: str) -> str:
        """Return the path after links in its directory alone."""
        directory, name = os.path.split(path)
        return f"{self.resolve(directory) or directory}/{name}".lstrip("/")

    def exists(self, path: str) -> bool:
        return self.resolve(path) is not None

    def read(self, path: str) -> bytes | None:
        """The content of a regular file, up to MAX_CONTENT; None if there is none."""
        found = self.resolve(path)
        member = self._members[found] if found else None
        return member.content if member and stat.S_ISREG(member.mode) else None

    def list(self, directory: str) -> list[str]:
        """Names in a directory, sorted."""
        found = self.resolve(directory)
        if not found or not stat.S_ISDIR(self._members[found].mode):
            return []
        return sorted(os.path.basename(path) for path in self._members if os.path.dirname(path) == found)

    def link_target(self, path: str) -> str | None:
        """Where a link points to; None if it is none."""
        member = self._members.get(self.entry(path))
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


class _Unpacked:
    """Make a tree of archives, and weigh it."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self._tree, self._hard_links = Tree(self.members), dict[tuple[int, ...], str]()
        self._count = self._kept = 0

    def read(self, reader: _Reader) -> None:
        """Read all archives that come. Raises Damaged."""
        while reader.skip_zeros():
            name, member, inode = _member(reader)
            self._weigh(len(name) + len(member.content))
            if name == _TRAILER:
                self._hard_links.clear()
            else:
                self._add(name, member, inode)

    def _weigh(self, size: int) -> None:
        self._count += 1
        self._kept += size
        if self._count > MAX_MEMBERS:
            raise Damaged(f"more than {MAX_MEMBERS} members")
        if self._kept > MAX_KEPT:
            raise Damaged(f"more than {MAX_KEPT} bytes in the names and contents of small files")

    def _add(self, name: str, member: Member, inode: tuple[int, ...]) -> None:
        if len(os.fsencode(os.path.basename(name))) > NAME_MAX:  # the kernel cannot make such a file
            return
        path = self._tree.entry(name)  # the kernel follows links to directories, such as lib, that came before
        first = self._hard_links.setdefault(inode, path) if inode else path
        self.members[path] = self._written(path, member) if first == path else self._linked(first, member)

    def _written(self, path: str, member: Member) -> Member:
        """Return the inode of a name. The kernel writes into a file that has this name, and so into its hard links."""
        there = self.members.get(path)
        if not there or not stat.S_ISREG(there.mode) or not stat.S_ISREG(member.mode):
            return member
        there.mode, there.content = member.mode, member.content
        return there

    def _linked(self, first: str, member: Member) -> Member:
        """Return the inode of the first of some hard links. As a rule only one of them carries the content."""
        linked = self.members.setdefault(first, member)
        if stat.S_IFMT(linked.mode) != stat.S_IFMT(member.mode):  # another member took its name since
            return member
        linked.content = member.content or linked.content
        return linked


def unpack(*contents: bytes | memoryview) -> Tree:
    """Read all archives in these files, one after the other. Raises Damaged."""
    unpacked = _Unpacked()
    for content in contents:
        for archive in _archives(content):
            unpacked.read(_Reader(archive))
    if not unpacked.members:
        raise Damaged("no cpio archive in it")
    return Tree(unpacked.members)


def _archives(content: bytes | memoryview) -> Iterator[Iterable[Chunk]]:
    """Uncompressed stretches, each to be read to its end before the next. Raises Damaged."""
    packed, count = _Packed(memoryview(content)), 0
    while packed.more():
        count += 1
        if count > MAX_ARCHIVES:
            raise Damaged(f"more than {MAX_ARCHIVES} archives")
        yield packed.compressed() if packed.is_compressed() else [packed.archive()]


def _after_zeros(data: memoryview, position: int) -> int:
    zeros = _ZEROS.match(data, position)
    assert zeros  # none are zeros, too
    return zeros.end()


class _Packed:
    """An initrd, and how far it is read."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._position, self._unpacked = content, 0, 0

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
        for _ in range(MAX_MEMBERS + 1):
            if self.is_compressed():
                break
            name, _, _ = _member(reader)
            self._position = start + reader.position
            if name == _TRAILER:
                break
        return self._content[start : self._position]

    def compressed(self) -> Iterator[Chunk]:
        """One compressed stretch. No member goes on in the next: "junk at the end of compressed archive" (init/initramfs.c)."""
        unpacking = decompress(self._content[self._position :])
        try:
            while True:
                chunk = next(unpacking)
                self._unpacked += len(chunk)
                if self._unpacked > MAX_SIZE:
                    raise Damaged(f"unpacks to more than {MAX_SIZE} bytes")
                yield chunk
        except StopIteration as end:
            self._position += end.value
        finally:
            unpacking.close()


def _member(reader: _Reader) -> tuple[str, Member, tuple[int, ...]]:
    """(name, member, inode), the latter empty for a file without further links: some tools write 0 for all."""
    header = reader.take(_HEADER)
    if not header.startswith(_MAGIC) or len(header) < _HEADER:
        raise Damaged("no cpio archive where one belongs")
    if not _NUMBERS.fullmatch(header, 6):
        raise Damaged("a cpio header with something else than hexadecimal digits")
    fields = [int(header[i : i + 8], 16) for i in range(6, _HEADER, 8)]
    inode, mode, links, size, name_size = fields[0], fields[1], fields[4], fields[6], fields[11]
    if not 0 < name_size <= _PATH_MAX or (stat.S_ISLNK(mode) and size > _PATH_MAX):
        raise Damaged(f"a cpio member without a name, or with a name or link of more than {_PATH_MAX} bytes")
    name, end, _ = reader.take(name_size).partition(b"\0")
    if not end:
        raise Damaged("a cpio member whose name is cut off")
    reader.skip(-(_HEADER + name_size) % 4)
    kept = 0 if stat.S_ISDIR(mode) else min(size, MAX_CONTENT)
    content = reader.take(kept)
    if len(content) < kept or not reader.skip(size - kept):
        raise Damaged("a cpio archive that is cut off")
    reader.skip(-size % 4)
    linked = links > 1 and not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode)
    identity = (inode, fields[7], fields[8], stat.S_IFMT(mode)) if linked else ()
    # There is nothing above /.
    path = os.path.normpath("/" + os.fsdecode(name)).lstrip("/")
    return path, Member(mode, content.partition(b"\0")[0] if stat.S_ISLNK(mode) else content), identity
