# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads an initrd as the kernel unpacks it, without unpacking it: several cpio archives, each compressed or not; or a UKI.

Documentation/driver-api/early-userspace/buffer-format.rst. Nothing here is trusted, and nothing is written but what
written_out() is asked for, under its own name, as a regular file.
"""

import bz2
import lzma
import os
import shutil
import stat
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import NamedTuple

MAX_SIZE = 1 << 30
# Of each file no more is kept: what reads certificates and configuration refuses larger ones.
MAX_CONTENT = 64 * 1024 + 1
_MAX_LINKS = 16
_HEADER = 110  # of a member in the "newc" format: magic and 13 numbers of 8 hexadecimal digits
_MAGIC = (b"070701", b"070702")


class Damaged(ValueError):
    """Not an initrd that the kernel would unpack; the text says why."""


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


def read(paths: Iterable[str]) -> Tree:
    """The initrd that these files are, one after the other. Raises Damaged, OSError."""
    content = b"".join(_aligned(_content(path)) for path in paths)
    return Tree(unpack(content))


def unpack(content: bytes) -> dict[str, Member]:
    """The members of all archives. Raises Damaged."""
    members: dict[str, Member] = {}
    for archive in _archives(content):
        _read_archives(archive, members)
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
    with open(path, "rb") as file:
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
        found = {}
        for name, virtual, _, size, offset in table:
            text = name.rstrip(b"\0").decode("ascii", "replace")
            if text in names:
                file.seek(offset)
                found[text] = file.read(min(virtual, size, MAX_SIZE))
        return found


def _content(path: str) -> bytes:
    if os.stat(path).st_size > MAX_SIZE:
        raise Damaged(f"larger than {MAX_SIZE} bytes")
    sections = pe_sections(path, (".initrd",))
    if ".initrd" in sections:
        return sections[".initrd"]
    with open(path, "rb") as file:
        return file.read()


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


def _archives(content: bytes) -> Iterator[bytes]:
    """Uncompressed stretches. Compressed ones that follow each other belong together: an archive may span them."""
    position, pending = 0, b""
    while position < len(content):
        if content[position] == 0:
            position += 1
            continue
        if content.startswith(_MAGIC, position):
            yield pending
            pending = b""
            end = _end_of_archive(content, position)
            yield content[position:end]
            position = end
            continue
        unpacked, used = _decompress(content[position:])
        pending += unpacked
        position += used
        if len(pending) > MAX_SIZE:
            raise Damaged(f"unpacks to more than {MAX_SIZE} bytes")
    yield pending


def _read_archives(data: bytes, members: dict[str, Member]) -> None:
    position = 0
    hard_links: dict[tuple[int, ...], list[str]] = {}
    while position < len(data):
        if data[position] == 0:
            position += 1
            continue
        name, member, inode, position = _member(data, position)
        if name == "TRAILER!!!":
            hard_links = {}
            continue
        directory, base = os.path.split(name)
        # The kernel follows links to directories, such as lib, that came before.
        name = f"{Tree(members).resolve(directory) or directory}/{base}".lstrip("/")
        members[name] = member
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


def _member(data: bytes, position: int) -> tuple[str, Member, tuple[int, ...], int]:
    """(name, member, inode, where the next one starts)"""
    header = data[position : position + _HEADER]
    if not header.startswith(_MAGIC) or len(header) < _HEADER:
        raise Damaged("no cpio archive where one belongs")
    try:
        fields = [int(header[i : i + 8], 16) for i in range(6, _HEADER, 8)]
    except ValueError as error:
        raise Damaged("a cpio header that is damaged") from error
    inode, mode, links, size, name_size = fields[0], fields[1], fields[4], fields[6], fields[11]
    name = data[position + _HEADER : position + _HEADER + name_size].rstrip(b"\0")
    start = position + _padded(_HEADER + name_size)
    if start + size > len(data):
        raise Damaged("a cpio archive that is cut off")
    content = data[start : start + min(size, MAX_CONTENT)] if not stat.S_ISDIR(mode) else b""
    # A file without further links is its own inode, whatever number it has: some tools write 0 for all.
    identity = (inode, fields[7], fields[8]) if links > 1 else (position,)
    path = os.path.normpath(os.fsdecode(name)).lstrip("/")
    return path, Member(mode, content), identity, start + _padded(size)


def _end_of_archive(data: bytes, position: int) -> int:
    while data.startswith(_MAGIC, position):
        name, _, _, position = _member(data, position)
        if name == "TRAILER!!!":
            break
    return position


def _padded(size: int) -> int:
    return size + -size % 4


def _decompress(data: bytes) -> tuple[bytes, int]:
    """(content, bytes used) of the compressed data that comes first. Raises Damaged."""
    for magic, unpack_ in _FORMATS.items():
        if data.startswith(magic):
            try:
                return unpack_(data)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, IndexError) as error:
                raise Damaged(f"compressed data that cannot be read ({error})") from error
    raise Damaged(f"neither cpio nor a known compression ({data[:6].hex()})")


def _gzip(data: bytes) -> tuple[bytes, int]:
    return _library(zlib.decompressobj(31), data)


def _xz(data: bytes) -> tuple[bytes, int]:
    return _library(lzma.LZMADecompressor(), data)


def _bzip2(data: bytes) -> tuple[bytes, int]:
    return _library(bz2.BZ2Decompressor(), data)


def _library(decompressor: "zlib._Decompress | lzma.LZMADecompressor | bz2.BZ2Decompressor", data: bytes) -> tuple[bytes, int]:
    content = decompressor.decompress(data, MAX_SIZE)
    if not decompressor.eof:
        raise ValueError("cut off, or too large")
    return content, len(data) - len(decompressor.unused_data)


def _zstd(data: bytes) -> tuple[bytes, int]:
    """One frame: the kernel stops after it, and something else may follow. RFC 8878, section 3.1."""
    size = _zstd_frame_size(data)
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
    except ImportError:
        return _program("zstd", data[:size]), size
    return bytes(zstd.decompress(data[:size])), size


def _zstd_frame_size(data: bytes) -> int:
    descriptor = data[4]
    single_segment = descriptor >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    position = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + content_size
    last = False
    while not last:
        header = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        position += 3 + (1 if kind == 1 else size)  # kind 1: one byte, repeated
        if position > len(data):
            raise ValueError("cut off")
    return position + 4 * (descriptor >> 2 & 1)


def _lz4(data: bytes) -> tuple[bytes, int]:
    return _program("lz4", data), len(data)


def _program(name: str, data: bytes) -> bytes:
    """Decompresses with a program. Raises ValueError with what it says."""
    if not shutil.which(name):
        raise ValueError(f"the program {name} is needed and not installed")
    result = subprocess.run([name, "-dcq"], input=data, capture_output=True, check=False)
    if result.returncode:
        raise ValueError(f"{name}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


_FORMATS: dict[bytes, Callable[[bytes], tuple[bytes, int]]] = {
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"\x5d\0\0": lambda data: _library(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data),
    b"BZh": _bzip2,
    b"\x02\x21\x4c\x18": _lz4,
    b"\x04\x22\x4d\x18": _lz4,
}
