# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompress what the kernel would: one compressed stretch of an initrd, piece by piece."""

import bz2
import importlib
import lzma
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

_BUFFER = 1 << 18  # bytes unpacked at once, at most
_MAX_BLOCKS = 1 << 20  # of a zstd frame; a full block has 128 KiB
_SAID = 500  # bytes of a program's error message that are kept

Chunk = bytes | memoryview
# Yields uncompressed pieces, each valid until the next one; returns how many bytes it consumed.
Unpacking = Generator[Chunk, None, int]


class Damaged(ValueError):
    """The kernel would not unpack this initrd; the text says why."""


def decompress(data: memoryview) -> Unpacking:
    """Decompress the stretch at the start of the data. Raises Damaged."""
    head = bytes(data[:6])
    for magic, unpack_ in _FORMATS.items():
        if head.startswith(magic):
            try:
                return (yield from unpack_(data))
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, IndexError) as error:
                raise Damaged(f"invalid compressed data ({error})") from error
    raise Damaged(f"neither cpio nor a known compression ({head.hex()})")


def _use_library(decompressor: Any, data: memoryview) -> Unpacking:
    """Use an object with the interface of zlib's, lzma's and bz2's decompressors."""
    position = 0
    while not decompressor.eof:
        wanted = getattr(decompressor, "needs_input", True)
        piece = data[position : position + (_BUFFER if wanted else 0)]
        chunk = decompressor.decompress(piece, _BUFFER)
        if wanted and not piece and not chunk:
            raise ValueError("truncated")
        position += len(piece) - len(getattr(decompressor, "unconsumed_tail", b""))  # zlib gives back what does not fit
        yield chunk
    return position - len(decompressor.unused_data)


def _zstd(data: memoryview) -> Unpacking:
    """Decompress one frame: the kernel stops after it, and other data may follow. RFC 8878, section 3.1."""
    size = _zstd_frame_size(data)
    zstd = _find_zstd()
    if zstd is None:
        yield from _use_program("zstd", data[:size])
        return size
    try:
        return (yield from _use_library(zstd.ZstdDecompressor(), data[:size]))
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error


def _find_zstd() -> Any:
    """Return the module of Python 3.14 or, without the program, its backport, if there is one."""
    names = ["compression.zstd", *([] if shutil.which("zstd") else ["backports.zstd"])]
    for name in names:
        with suppress(ImportError):
            return importlib.import_module(name)
    return None


def _zstd_frame_size(data: memoryview) -> int:
    descriptor = data[4]
    single_segment = descriptor >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    position = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + content_size
    for _ in range(_MAX_BLOCKS):
        header = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        position += 3 + (1 if kind == 1 else size)  # kind 1: one byte, repeated
        if position > len(data):
            raise ValueError("truncated")
        if last:
            return position + 4 * (descriptor >> 2 & 1)
    raise ValueError(f"more than {_MAX_BLOCKS} blocks")


def _lz4(data: memoryview) -> Unpacking:
    yield from _use_program("lz4", data)
    return len(data)


def _use_program(name: str, data: memoryview) -> Iterator[memoryview]:
    """Decompress with a program. Raises ValueError with its error message."""
    if not shutil.which(name):
        raise ValueError(f"the program {name} is not installed")
    with _make_memory_file(data) as packed, _make_memory_file(b"") as said:
        with subprocess.Popen([name, "-dcq"], stdin=packed, stdout=subprocess.PIPE, stderr=said, bufsize=0) as process:
            buffer = memoryview(bytearray(_BUFFER))
            try:
                while size := process.stdout.readinto(buffer):  # type: ignore[union-attr]
                    yield buffer[:size]
            except BaseException:  # the caller does not want the rest
                process.kill()
                raise
        if process.returncode:
            said.seek(0)
            what = said.read(_SAID).decode(errors="replace").strip()
            raise ValueError(f"{name}: {what or f'exit status {process.returncode}'}")


def _make_memory_file(content: Chunk) -> BinaryIO:
    """Make a file in memory, which is faster than a pipe."""
    file = open(os.memfd_create("bootseal"), "w+b")
    file.write(content)
    file.seek(0)
    return file


_FORMATS: dict[bytes, Callable[[memoryview], Unpacking]] = {
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\x1f\x8b": lambda data: _use_library(zlib.decompressobj(31), data),
    b"\xfd7zXZ\0": lambda data: _use_library(lzma.LZMADecompressor(), data),
    b"\x5d\0\0": lambda data: _use_library(lzma.LZMADecompressor(lzma.FORMAT_ALONE), data),
    b"BZh": lambda data: _use_library(bz2.BZ2Decompressor(), data),
    b"\x02\x21\x4c\x18": _lz4,
    b"\x04\x22\x4d\x18": _lz4,
}
