# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find a file in a composefs image without mounting it: nobody has signed the images that are searched.

An image is an EROFS filesystem (fs/erofs/erofs_fs.h of Linux). It has the content of a small file, and a larger one names its
object in an attribute for overlayfs. Everything is read with limits, and every number is checked.
"""

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_SUPERBLOCK, _MAGIC = 1024, 0xE0F5E1E2
_COMPACT, _EXTENDED, _SLOT = 32, 64, 32
_PLAIN, _INLINE = 0, 2  # layouts of data
_DIRENT = struct.Struct("<QHBB")  # inode, offset of the name, type
_XATTR_HEADER, _XATTR_ENTRY = 12, 4
_TRUSTED = 4  # the index of "trusted." before the name of an attribute
_REDIRECT = b"overlay.redirect"
_MAX_XATTRS = 1 << 16  # bytes
_MAX_DIRECTORY = 1 << 20  # bytes
_MAX_NAME = 255


class Damaged(Exception):
    """No EROFS filesystem, or one with a number out of range."""


class Content(NamedTuple):
    """A file: its bytes, or the name of the object that has them."""

    inline: bytes
    object: str


class _Inode(NamedTuple):
    mode: int
    size: int
    layout: int
    block: int
    xattrs: int  # where they begin, and their size
    xattrs_size: int


class _Image:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        block = self._read(_SUPERBLOCK, 128)
        magic, bits = struct.unpack_from("<I", block)[0], block[12]
        if magic != _MAGIC or not 9 <= bits <= 16:
            raise Damaged("not EROFS")
        self.block_size = 1 << bits
        self.root, self._meta, self._shared = struct.unpack_from("<H", block, 14)[0], *struct.unpack_from("<II", block, 40)

    def _read(self, offset: int, size: int) -> bytes:
        content = os.pread(self._fd, size, offset)
        if len(content) != size:
            raise Damaged("shorter than it says")
        return content

    def inode(self, number: int) -> _Inode:
        at = self._meta * self.block_size + number * _SLOT
        head = self._read(at, _EXTENDED)
        form, count, mode = struct.unpack_from("<HHH", head)
        extended = form & 1
        size = struct.unpack_from("<Q" if extended else "<I", head, 8)[0]
        xattrs = _XATTR_HEADER + (count - 1) * _XATTR_ENTRY if count else 0
        return _Inode(
            mode, size, form >> 1 & 7, struct.unpack_from("<I", head, 16)[0], at + (_EXTENDED if extended else _COMPACT), xattrs
        )

    def data(self, inode: _Inode, limit: int) -> bytes:
        """Return the data that is in the image itself."""
        if inode.size > limit:
            raise Damaged("larger than expected")
        if inode.layout == _PLAIN:
            return self._read(inode.block * self.block_size, inode.size)
        if inode.layout != _INLINE:
            return b""
        whole = inode.size - inode.size % self.block_size
        tail = self._read(inode.xattrs + inode.xattrs_size, inode.size - whole)
        return (self._read(inode.block * self.block_size, whole) if whole else b"") + tail

    def entries(self, directory: _Inode) -> Iterator[tuple[bytes, int]]:
        data = self.data(directory, _MAX_DIRECTORY)
        for at in range(0, len(data), self.block_size):
            yield from _parse_block(data[at : at + self.block_size])

    def redirect(self, inode: _Inode) -> bytes:
        """Return the attribute trusted.overlay.redirect; empty without it."""
        if not inode.xattrs_size:
            return b""
        if inode.xattrs_size > _MAX_XATTRS:
            raise Damaged("attributes larger than expected")
        body = self._read(inode.xattrs, inode.xattrs_size)
        shared, at = body[4], _XATTR_HEADER + body[4] * _XATTR_ENTRY
        if at > len(body):
            raise Damaged("attributes out of range")
        for number in struct.unpack_from(f"<{shared}I", body, _XATTR_HEADER):
            entry = os.pread(self._fd, _MAX_XATTRS, self._shared * self.block_size + number * _XATTR_ENTRY)
            if value := _parse_xattr(entry):
                return value
        while at + _XATTR_ENTRY <= len(body):
            name_size, _, value_size = struct.unpack_from("<BBH", body, at)
            end = at + _XATTR_ENTRY + name_size + value_size
            if value := _parse_xattr(body[at:end]):
                return value
            at = -(-end // 4) * 4
        return b""


def find(fd: int, path: str, limit: int) -> Content | None:
    """Find a regular file by its path without following links; None if it is not there. Raises Damaged, OSError."""
    with _checked():
        image = _Image(fd)
        inode = _walk(image, path)
        if not inode or not stat.S_ISREG(inode.mode):
            return None
        redirect = image.redirect(inode).decode("ascii", "replace").strip("\0").removeprefix("/")
        return Content(b"", redirect) if redirect else Content(image.data(inode, limit), "")


def list_names(fd: int, path: str) -> list[str]:
    """List a directory; nothing if it is not there. Raises Damaged, OSError."""
    with _checked():
        image = _Image(fd)
        inode = _walk(image, path)
        names = [name for name, _ in image.entries(inode)] if inode and stat.S_ISDIR(inode.mode) else []
        return [os.fsdecode(name) for name in names if name not in (b".", b"..")]


@contextmanager
def _checked() -> Iterator[None]:
    try:
        yield
    except (struct.error, OverflowError, IndexError) as error:
        raise Damaged(f"out of range ({error})") from error


def _walk(image: _Image, path: str) -> _Inode | None:
    inode = image.inode(image.root)
    for name in os.fsencode(path).split(b"/"):
        if not stat.S_ISDIR(inode.mode):
            return None
        number = next((number for entry, number in image.entries(inode) if entry == name), None)
        if number is None:
            return None
        inode = image.inode(number)
    return inode


def _parse_block(block: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield name and inode number of the entries in one block of a directory. Raises Damaged.

    The names follow the entries, without gaps: names that overlap would make many long ones of one block.
    """
    count = _DIRENT.unpack_from(block)[1] // _DIRENT.size
    entries = [_DIRENT.unpack_from(block, number * _DIRENT.size) for number in range(count)]
    starts = [entry[1] for entry in entries] + [len(block)]
    for (number, start, _, _), end in zip(entries, starts[1:], strict=True):
        name = block[start:end].partition(b"\0")[0]
        if not start < end or not 0 < len(name) <= _MAX_NAME:
            raise Damaged("a directory with a wrong name")
        yield name, number
    if not entries:
        raise Damaged("a directory without a name")


def _parse_xattr(entry: bytes) -> bytes:
    """Return the value of an attribute if it is the one that names an object."""
    name_size, index, value_size = struct.unpack_from("<BBH", entry)
    name, start = entry[_XATTR_ENTRY : _XATTR_ENTRY + name_size], _XATTR_ENTRY + name_size
    return entry[start : start + value_size] if (index, name) == (_TRUSTED, _REDIRECT) else b""
