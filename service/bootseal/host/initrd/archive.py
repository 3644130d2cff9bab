# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read an initrd as the kernel unpacks it: several cpio archives, each compressed or not.

Sources: Documentation/driver-api/early-userspace/buffer-format.rst, and init/initramfs.c. reader.py runs this in a confined
process. The limits here name a reason before that process reaches its own.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator

from .contents import Contents
from .decompress import Chunk, Damaged, decompress

MAX_SIZE = 1 << 30  # bytes: of all files of an initrd, and of all that one of them unpacks to
MAX_MEMBERS = 100_000
MAX_KEPT = 128 << 20  # bytes of names and contents in memory; an initrd of 20 MB has 9 MB of them
MAX_ARCHIVES = 256  # in one file
MAX_STEPS = 2_000_000  # path components that are looked up; each member costs about six
# Bytes kept of each file: the readers of certificates and configuration refuse larger ones.
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
    """An inode: hard links share one object."""

    def __init__(self, mode: int, content: bytes) -> None:
        self.mode, self.content = mode, content


class Tree:
    """The members of an initrd, by path without a leading slash.

    A later archive replaces files of an earlier one.
    """

    def __init__(self, members: dict[str, Member]) -> None:
        self._members, self._steps = members, 0

    def contents(self, directories: Iterable[str], names: Iterable[str]) -> Contents:
        """Return the files directly in these directories, links followed, and whether these names exist.

        In a directory "*" stands for any component; in a name's last component "*-" stands for any number.
        """
        files: dict[str, bytes | None] = {}
        expanded = (one for directory in directories for one in self._expand(directory))
        for path in (f"{directory}/{name}" for directory in expanded for name in self.list(directory)):
            if self.link_target(path) == "/dev/null":
                files[path] = None
            elif (content := self.read(path)) is not None:
                files[path] = content
        return Contents(files, {name: self._matches(name) for name in names})

    def _expand(self, directory: str) -> list[str]:
        top, any_, rest = directory.partition("/*/")
        return [f"{top}/{name}/{rest}" for name in self.list(top)] if any_ else [directory]

    def _matches(self, name: str) -> bool:
        directory, any_, rest = name.rpartition("/*-")
        return any(entry.partition("-")[2] == rest for entry in self.list(directory)) if any_ else self.exists(name)

    def resolve(self, path: str) -> str | None:
        """Follow links in any component, within the initrd; None if the path does not exist. Raises Damaged."""
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
        """Follow links in the directory of the path only. Raises Damaged."""
        directory, name = os.path.split(path)
        return f"{self.resolve(directory) or directory}/{name}".lstrip("/")

    def exists(self, path: str) -> bool:
        """Tell whether the path exists, links followed. Raises Damaged."""
        return self.resolve(path) is not None

    def read(self, path: str) -> bytes | None:
        """Return the content of a regular file, up to MAX_CONTENT; None for others. Raises Damaged."""
        resolved = self.resolve(path)
        member = self._members[resolved] if resolved else None
        return member.content if member and stat.S_ISREG(member.mode) else None

    def list(self, directory: str) -> list[str]:
        """List the names in a directory, sorted. Raises Damaged."""
        resolved = self.resolve(directory)
        if not resolved or not stat.S_ISDIR(self._members[resolved].mode):
            return []
        return sorted(os.path.basename(path) for path in self._members if os.path.dirname(path) == resolved)

    def link_target(self, path: str) -> str | None:
        """Return the target of a link; None for others. Raises Damaged."""
        member = self._members.get(self.entry(path))
        return os.fsdecode(member.content) if member and stat.S_ISLNK(member.mode) else None


class _Reader:
    """Read chunks forward. Skipped bytes, nearly all of an initrd, are never copied."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks, self._chunk, self.position = iter(chunks), memoryview(b""), 0

    def take(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        taken = []
        while size and self._fill():
            taken.append(bytes(self._chunk[:size]))
            self._advance(len(taken[-1]))
            size -= len(taken[-1])
        return b"".join(taken)

    def skip(self, size: int) -> bool:
        """Skip bytes. Returns False if fewer are left."""
        while size and self._fill():
            step = min(size, len(self._chunk))
            self._advance(step)
            size -= step
        return not size

    def skip_zeros(self) -> bool:
        """Skip zeros. Returns False at the end."""
        while self._fill():
            self._advance(_find_nonzero(self._chunk, 0))
            if self._chunk:
                return True
        return False

    def _fill(self) -> bool:
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
    """Build a tree from archives, within the limits."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self._tree, self._hard_links = Tree(self.members), dict[tuple[int, ...], str]()
        self._count = self._kept = 0

    def read(self, reader: _Reader) -> None:
        """Read all archives of a stretch. Raises Damaged."""
        while reader.skip_zeros():
            name, member, inode = _read_member(reader)
            self._enforce_limits(len(name) + len(member.content))
            if name == _TRAILER:
                self._hard_links.clear()
            else:
                self._add(name, member, inode)

    def _enforce_limits(self, size: int) -> None:
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
        self.members[path] = self._overwrite(path, member) if first == path else self._link(first, member)

    def _overwrite(self, path: str, member: Member) -> Member:
        """Return the inode of a name.

        The kernel writes into an existing file of this name, and so into its hard links.
        """
        there = self.members.get(path)
        if not there or not stat.S_ISREG(there.mode) or not stat.S_ISREG(member.mode):
            return member
        there.mode, there.content = member.mode, member.content
        return there

    def _link(self, first: str, member: Member) -> Member:
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
        for archive in split_archives(content):
            unpacked.read(_Reader(archive))
    if not unpacked.members:
        raise Damaged("no cpio archive found")
    return Tree(unpacked.members)


def split_archives(content: bytes | memoryview) -> Iterator[Iterable[Chunk]]:
    """Yield stretches, uncompressed. Each must be read to its end before the next. Raises Damaged."""
    packed, count = _Packed(memoryview(content)), 0
    while packed.skip_zeros():
        count += 1
        if count > MAX_ARCHIVES:
            raise Damaged(f"more than {MAX_ARCHIVES} archives")
        yield packed.decompress() if packed.is_compressed() else [packed.take_archive()]


def _find_nonzero(data: memoryview, position: int) -> int:
    """Return the position of the first byte that is not zero."""
    zeros = _ZEROS.match(data, position)
    assert zeros  # the empty match is a match
    return zeros.end()


class _Packed:
    """An initrd file, and the position in it."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._position, self._unpacked = content, 0, 0

    def skip_zeros(self) -> bool:
        """Skip zeros. Returns False at the end."""
        self._position = _find_nonzero(self._content, self._position)
        return self._position < len(self._content)

    def is_compressed(self) -> bool:
        """Tell whether no cpio archive starts here. As the kernel, see archives only where they are aligned."""
        return bytes(self._content[self._position : self._position + 6]) not in _MAGIC or self._position % 4 != 0

    def take_archive(self) -> memoryview:
        """Return the uncompressed archive that starts here. Raises Damaged."""
        start = self._position
        reader = _Reader([self._content[start:]])
        for _ in range(MAX_MEMBERS + 1):
            if self.is_compressed():
                break
            name, _, _ = _read_member(reader)
            self._position = start + reader.position
            if name == _TRAILER:
                break
        return self._content[start : self._position]

    def decompress(self) -> Iterator[Chunk]:
        """Yield one compressed stretch. Raises Damaged.

        A member cannot continue in the next one (init/initramfs.c).
        """
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


def _read_member(reader: _Reader) -> tuple[str, Member, tuple[int, ...]]:
    """Return (name, member, inode). Raises Damaged.

    Without further links the inode is empty: some tools write 0 for all.
    """
    header = reader.take(_HEADER)
    if not header.startswith(_MAGIC) or len(header) < _HEADER:
        raise Damaged("not a cpio archive where one must start")
    if not _NUMBERS.fullmatch(header, 6):
        raise Damaged("a cpio header with other characters than hexadecimal digits")
    fields = [int(header[i : i + 8], 16) for i in range(6, _HEADER, 8)]
    inode, mode, links, size, name_size = fields[0], fields[1], fields[4], fields[6], fields[11]
    if not 0 < name_size <= _PATH_MAX or (stat.S_ISLNK(mode) and size > _PATH_MAX):
        raise Damaged(f"a cpio member without a name, or with a name or link of more than {_PATH_MAX} bytes")
    name, end, _ = reader.take(name_size).partition(b"\0")
    if not end:
        raise Damaged("a cpio member with a truncated name")
    reader.skip(-(_HEADER + name_size) % 4)
    kept = 0 if stat.S_ISDIR(mode) else min(size, MAX_CONTENT)
    content = reader.take(kept)
    if len(content) < kept or not reader.skip(size - kept):
        raise Damaged("a truncated cpio archive")
    reader.skip(-size % 4)
    linked = links > 1 and not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode)
    identity = (inode, fields[7], fields[8], stat.S_IFMT(mode)) if linked else ()
    # As at /, ".." leads to / itself.
    path = os.path.normpath("/" + os.fsdecode(name)).lstrip("/")
    return path, Member(mode, content.partition(b"\0")[0] if stat.S_ISLNK(mode) else content), identity
