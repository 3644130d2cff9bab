# SPDX-License-Identifier: LGPL-2.1-or-later
"""elf.py: PT_INTERP in either byte order, and a file that is cut anywhere."""

import pytest

from bootseal.formats import elf
from unit.support import elf as file


def interpreter(data: bytes) -> str:
    return elf.interpreter(lambda size, offset: data[offset : offset + size])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["/lib64/ld.so", ""])
def test_interpreter(name: str, order: str) -> None:
    assert interpreter(file(name, order=order)) == name


@pytest.mark.parametrize("start", [b"\x7fELF\x01", b"#!/bin/sh\n", b"\x7fELG\x02"])
def test_what_is_not_a_64_bit_elf_file(start: bytes) -> None:
    assert interpreter(start + file("/lib64/ld.so")[len(start) :]) == ""


@pytest.mark.parametrize("size", [0, 4, 5, 20, 63, 64, 120])
def test_a_cut_file(size: int) -> None:
    assert interpreter(file("/lib64/ld.so")[:size]) == ""
