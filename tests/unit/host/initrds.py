# SPDX-License-Identifier: LGPL-2.1-or-later
"""Initrds and their parts, made by hand."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable

import pytest

from bootseal.host.initrd import archive, confined
from bootseal.host.initrd.archive import Tree
from vm.harness import cpio
from vm.harness.cpio import Content as Content
from vm.harness.cpio import Symlink as Symlink

cpio_archive = cpio.archive


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, check=True, stdout=subprocess.PIPE).stdout


def unpack(content: bytes) -> Tree:
    return archive.unpack(content)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstd,
    "lz4": lambda data: subprocess.run(["lz4", "-lqc"], input=data, check=True, stdout=subprocess.PIPE).stdout,
}
FIRST: dict[str, Content] = {"kernel/x86/microcode/GenuineIntel.bin": b"microcode" * 100}
SECOND: dict[str, Content] = {
    "etc/name": b"second",
    "etc/only-second": b"x" * 5000,
    "init": Symlink("usr/bin/init"),
    "usr/bin/init": (b"#!", 0o755),
}
THIRD: dict[str, Content] = {"etc/name": b"third"}


def aligned(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def flat_archive(files: dict[str, bytes]) -> bytes:
    """Make an archive without entries for directories."""
    members = [cpio.entry(name, 0o100644, content, 1) for name, content in files.items()]
    return b"".join(members) + cpio.entry("TRAILER!!!", 0, b"", 0)


GOOD = cpio_archive(SECOND)


def pe_file(sections: dict[str, bytes]) -> bytes:
    """Make a PE file with these sections, and only what a reader needs."""
    header = b"MZ" + bytes(58) + struct.pack("<I", 64)
    header += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 16, 0) + bytes(16)
    offset, table, body = len(header) + 40 * len(sections), b"", b""
    for name, content in sections.items():
        table += struct.pack("<8sIIII16x", name.encode(), len(content), 0, len(content) + 100, offset + len(body))
        body += content + bytes(100)
    return header + table + body


def member_header(
    name: bytes, *, mode: int = 0o100644, links: int = 1, size: int | bytes = 0, name_size: int | bytes = 0
) -> bytes:
    """Make a cpio header and a name, with numbers as they are given."""
    fields: list[int | bytes] = [1, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size or len(name), 0]
    return b"070701" + b"".join(f if isinstance(f, bytes) else b"%08X" % f for f in fields) + name


def do_instead(monkeypatch: pytest.MonkeyPatch, work: str, before: str = "") -> None:
    """Let the confined process do this work instead of reading."""
    start = f"""
import os, signal, subprocess, sys
sys.path.insert(0, sys.argv[1])
from bootseal.host.initrd import confined
{before}
confined.answer(lambda: {work}, ValueError, 1 << 20)
"""
    monkeypatch.setattr(confined, "_START", start)
