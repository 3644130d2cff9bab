# SPDX-License-Identifier: LGPL-2.1-or-later
"""pe.py: sections of unified kernel images, also of hostile ones."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from bootseal.host.initrd import archive, pe
from bootseal.host.initrd.decompress import Damaged

from .initrds import (
    THIRD,
    cpio_archive,
    pe_file,
)


def _sections(content: bytes, *names: str) -> dict[str, bytes]:
    return {name: bytes(section) for name, section in pe.find_sections(memoryview(content), names).items()}


def test_uki() -> None:
    content = pe_file({".linux": b"kernel", ".cmdline": b"ostree=/x\0", ".initrd": cpio_archive(THIRD)})
    assert _sections(content, ".cmdline") == {".cmdline": b"ostree=/x\0"}
    assert archive.unpack(pe.find_initrd(memoryview(content))).read("etc/name") == b"third"


def test_of_sections_with_one_name_the_first_counts() -> None:
    """As for systemd-stub. None of them is copied, however many there are."""
    count = 65535
    entry = struct.Struct("<8sIIII16x")
    header = bytearray(pe_file({})[:104])
    header[70:72] = struct.pack("<H", count)
    end = len(header) + entry.size * count
    sections = [entry.pack(b".cmdline", 5, 0, 5, end)] + [entry.pack(b".cmdline", 1 << 31, 0, 1 << 31, 0)] * (count - 1)
    content = bytes(header) + b"".join(sections) + b"first"
    tracemalloc.start()
    try:
        assert _sections(content, ".cmdline") == {".cmdline": b"first"}
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_section_that_claims_to_be_large_takes_no_memory() -> None:
    content = pe_file({".cmdline": b"ostree=/x"})
    content = content.replace(struct.pack("<II", 9, 0), struct.pack("<II", 1 << 31, 0)).replace(
        struct.pack("<I", 109), struct.pack("<I", 1 << 31))  # fmt: skip
    tracemalloc.start()
    try:
        assert _sections(content, ".cmdline")[".cmdline"].startswith(b"ostree=/x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", range(2, 200, 7))
def test_cut_uki(size: int) -> None:
    content = pe_file({".initrd": cpio_archive(THIRD)})[:size]
    with pytest.raises(Damaged):
        archive.unpack(pe.find_initrd(memoryview(content)))
