# SPDX-License-Identifier: LGPL-2.1-or-later
"""erofs.py: files of images that mkfs.erofs made, and damaged images."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from bootseal.host import erofs

OBJECT = f"ab/{'c' * 126}"
LIMIT = 16128


def make(top: Path, *options: str) -> Path:
    tool = shutil.which("mkfs.erofs")
    if not tool:
        pytest.skip("no mkfs.erofs program")
    subprocess.run([tool, "-d0", "-T0", *options, top / "image", top / "root"], check=True, capture_output=True)
    return top / "image"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree as that of a bootc image, with many names in one directory."""
    boot = tmp_path / "root/boot/bootseal"
    boot.mkdir(parents=True)
    for number in range(400):
        (boot / f"{number:0128d}.sig").write_bytes(b"%d" % number)
    (boot / "large.sig").write_bytes(b"x" * 6000)
    (boot / "link.sig").symlink_to("large.sig")
    return tmp_path


def found(image: Path, path: str, limit: int = LIMIT) -> erofs.Content | None:
    fd = os.open(image, os.O_RDONLY)
    try:
        return erofs.find(fd, path, limit)
    finally:
        os.close(fd)


def names(image: Path, path: str) -> list[str]:
    fd = os.open(image, os.O_RDONLY)
    try:
        return erofs.list_names(fd, path)
    finally:
        os.close(fd)


def test_content_in_the_image(tree: Path) -> None:
    image = make(tree)
    for number in (0, 7, 200, 399):
        assert found(image, f"boot/bootseal/{number:0128d}.sig") == (b"%d" % number, "")
    assert found(image, "boot/bootseal/large.sig") == (b"x" * 6000, "")


SIGNATURES = "boot/bootseal"
OTHERS = ["boot", SIGNATURES, f"{SIGNATURES}/none.sig", "none/x", f"{SIGNATURES}/large.sig/x", f"{SIGNATURES}/link.sig"]


@pytest.mark.parametrize("path", OTHERS)
def test_what_is_no_regular_file_is_not_there(path: str, tree: Path) -> None:
    assert found(make(tree), path) is None


def test_names(tree: Path) -> None:
    """Directories of one and of several blocks, and what is none."""
    image = make(tree)
    assert names(image, "boot") == ["bootseal"]
    assert sorted(names(image, SIGNATURES)) == sorted(os.listdir(tree / "root" / SIGNATURES))
    assert names(image, "none") == names(image, f"{SIGNATURES}/large.sig") == []


@pytest.mark.root
@pytest.mark.parametrize("more", [0, 1, 40], ids=["alone", "one more", "many more"])
def test_content_in_an_object(more: int, tree: Path) -> None:
    file = tree / "root/boot/bootseal/large.sig"
    for number in range(more):
        os.setxattr(file, f"user.a{number}", b"v" * number)
    os.setxattr(file, "trusted.overlay.redirect", f"/{OBJECT}".encode())
    assert found(make(tree, "--chunksize=4096"), "boot/bootseal/large.sig") == (b"", OBJECT)


@pytest.mark.root
def test_content_in_an_object_by_a_shared_attribute(tree: Path) -> None:
    """mkfs.erofs shares an attribute that several files have."""
    for name in ("large.sig", f"{1:0128d}.sig", f"{2:0128d}.sig"):
        os.setxattr(tree / "root/boot/bootseal" / name, "trusted.overlay.redirect", f"/{OBJECT}".encode())
    assert found(make(tree, "-x1"), "boot/bootseal/large.sig") == (b"", OBJECT)


def test_larger_than_the_limit(tree: Path) -> None:
    with pytest.raises(erofs.Damaged, match="larger than expected"):
        found(make(tree), "boot/bootseal/large.sig", 5999)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 4096, bytes(8192)])
def test_no_filesystem(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(content)
    with pytest.raises(erofs.Damaged):
        found(tmp_path / "image", "boot")


def test_damaged_images_end_quickly(tree: Path, tmp_path: Path) -> None:
    """Whatever the numbers are, the search ends with an answer or with Damaged."""
    whole, chance = make(tree).read_bytes(), random.Random(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 4, 64))):
            damaged[chance.randrange(1024, min(len(damaged), 8192))] = chance.randrange(256)
        if chance.random() < 0.2:
            del damaged[chance.randrange(1024, len(damaged)) :]
        (tmp_path / "damaged").write_bytes(damaged)
        with suppress(erofs.Damaged):
            found(tmp_path / "damaged", "boot/bootseal/large.sig")
        with suppress(erofs.Damaged):
            names(tmp_path / "damaged", SIGNATURES)


def directory(*entries: tuple[int, int], size: int = 4096) -> bytes:
    """Make a block of entries, each an inode and the offset of its name."""
    return b"".join(struct.pack("<QHBB", inode, offset, 1, 0) for inode, offset in entries).ljust(size, b"n")


BLOCKS = {
    "no entry": bytes(4096),
    "names that overlap": directory(*((1, 12 * 300) for _ in range(300))),
    "names that go back": directory((1, 36), (1, 50), (1, 40)),
    "a name that is too long": directory((1, 12)),
    "a name beyond the block": directory((1, 24), (1, 5000)),
    "an empty name": directory((1, 24), (1, 30)).replace(b"n", b"\0"),
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_damaged_directory(block: bytes) -> None:
    with pytest.raises(erofs.Damaged):
        list(erofs._parse_block(block))


def test_a_directory_that_is_too_large(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make(tree)
    assert len(names(image, SIGNATURES)) == 402
    monkeypatch.setattr(erofs, "_MAX_DIRECTORY", 4096)
    with pytest.raises(erofs.Damaged):
        names(image, SIGNATURES)
