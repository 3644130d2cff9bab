# SPDX-License-Identifier: LGPL-2.1-or-later
"""decompress.py: every compression, frames of all kinds, and bombs."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tracemalloc

import pytest

from bootseal.host.initrd import archive, decompress
from bootseal.host.initrd.decompress import Damaged

from .initrds import (
    COMPRESSIONS,
    GOOD,
    THIRD,
    aligned,
    cpio_archive,
    flat_archive,
    unpack,
    zstd,
)


@pytest.mark.parametrize("options", [[], ["--no-check"], ["-19", "--long=27"], ["--content-size"], ["-T2"]], ids=str)
@pytest.mark.parametrize(
    "content", [bytes(1 << 20), os.urandom(300_000), b"x" * 100, b"ab" * 200_000], ids=["rle", "raw", "small", "mixed"]
)
def test_zstd_frames_of_all_kinds(content: bytes, options: list[str]) -> None:
    packed = subprocess.run(
        ["zstd", "-qc", *options], input=flat_archive({"big": content}), check=True, stdout=subprocess.PIPE
    ).stdout
    tree = unpack(aligned(packed) + cpio_archive(THIRD))
    assert tree.read("big") == content[: archive.MAX_CONTENT]
    assert tree.read("etc/name") == b"third"


def test_zstd_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = memoryview(zstd(GOOD))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert _find_all(packed) == GOOD
    monkeypatch.setattr(importlib, "import_module", lambda _: (_ for _ in ()).throw(ImportError))
    with pytest.raises(decompress.Damaged, match="the program zstd is not installed"):
        _find_all(packed)


def _find_all(packed: memoryview) -> bytes:
    return b"".join(map(bytes, decompress.decompress(packed)))


def test_every_truncation_of_zstd_is_told() -> None:
    whole = zstd(GOOD)
    for size in range(4, len(whole)):
        with pytest.raises(Damaged):
            archive.unpack(whole[:size])


def test_a_zstd_frame_of_empty_blocks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "_MAX_BLOCKS", 3)
    assert decompress._zstd_frame_size(memoryview(b"\x28\xb5\x2f\xfd\0\0" + bytes(6) + b"\1\0\0")) == 15
    with pytest.raises(ValueError, match="more than 3 blocks"):
        decompress._zstd_frame_size(memoryview(b"\x28\xb5\x2f\xfd\0\0" + bytes(9) + b"\1\0\0"))


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "none"])
def test_a_bomb_is_stopped_where_the_limit_is(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = COMPRESSIONS[compression](flat_archive({"a": b"a"}) + bytes(32 << 20))
    monkeypatch.setattr(archive, "MAX_SIZE", 8 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="unpacks to more than"):
            archive.unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
