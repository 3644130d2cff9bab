# SPDX-License-Identifier: LGPL-2.1-or-later
"""imagedigest.py: the digest of an image, compared with fsverity's, and images that have none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal import digest
from bootseal.digest import Digest
from bootseal.host import imagedigest, inside
from bootseal.host.output import Failure
from bootseal.values import Entry
from unit.support import content

from .program import bootseal, certificate, image, key, signed, tool
from .roots import (
    IMAGES,
    A,
    Root,
)

# The output of 'fsverity digest' of fsverity-utils 1.5 for files of so many bytes, see made().
KNOWN = {
    ("sha256", 4097): "ea6b7b92f1ed8cc839496b97a5a68071698a87c346a91843d47471c190a0e9e3",
    ("sha256", 8192): "8e95ca0fd31bbcec3a1a240fdbd9c1b945c2b8068d6d75fcaca1d4ca73bbd1ea",
    ("sha256", 262144): "83fdf31317bf68574ccf4501569e5935b6fd411db93edca024b3d7d779a1cdac",
    ("sha256", 262145): "0981f85cadde148c5843881e6a345e4076c61c3e1df3c3aed94e134e9b151dc8",
    ("sha256", 524287): "d215b9c0caa27f477ca12d2f4b5754b1f62c15bf2fce4fecb6191a79642ef9d3",
    ("sha256", 524288): "3abb284c7b6ec68f81648ed799a3994e8d2a8ea8ebe45281c17b3ad1369d443a",
    ("sha256", 524289): "373b63d5db2d8a220389091356452d338e9ed9dcb0b36f306b9f5ee76fbf8f24",
    ("sha256", 2097152): "31e2535b8bb58b4d65ded71144af7c81dfa03410655de0d9b0d717a6718cdad9",
    ("sha256", 2101247): "7a5f8f51b6ea8e4790980b8fd6f1ac2a3d6c872fbff9d549bb0abfc7c16f12e0",
    ("sha512", 4097): "e4e124b5575f8c5c024c1ee6037ab377ad18c24ab41aee882747bae210672927"
    "74f5035dd009c3964104823fa865cbf934efd85570ab08ef9e9bc60c06ac515e",
    ("sha512", 8192): "a22f7a9d95e2b77cb13001d4c1a1d6f6a78128d1f48bbc351e2b04ce0f3729c3"
    "3313d6dff28cc3616fc4df8ec7695cce81f21d74b8b66a1001f5e99d6d1ff79d",
    ("sha512", 262144): "e4dad97b084f16150ea7c88e8ddc3cb032cc3e84314ed6c5f9667af4f9df066a"
    "1a99216ce85828ec0514fb0329b65f8a6f7f1b33d6daae6ab82b79a9320b9e7a",
    ("sha512", 262145): "db08ea4d74723e5e9f30b11d98461ff343054a7293a36601ac58a64f1e916bfe"
    "68f7ad333d3bbff73b17c95e762629d427fcb8287a88143777d11396e3e3d4a4",
    ("sha512", 524287): "34f806308213e82119fe98b11bef20cc64af47295bc86749ee911b1714fddb8c"
    "bd7477444e28299c61a6d86db3b68eaee3c41e32746a249892f87cd29cf098cf",
    ("sha512", 524288): "9d246d07ab26c895e74f8664ebd625bef9b48ce51ccf5fdd717f2672270d8961"
    "285171bb32f864ade29ab65a21dc73f36b8ebb38ce58af270de07cf386eede52",
    ("sha512", 524289): "a8842aec55459be72fefd104eace1b96ddd6e0be5b8e6f229be1a191c468e595"
    "0f6e8183649026bb6258d0524c60c8ceffab3d5fc6cfac7fd714b12ba1aa63b5",
    ("sha512", 2097152): "d6fecc1456c0ec0fbc7aeee0e16d9275a36ee0eb3511dfe7018f34ae9d5b88e1"
    "7c1a4b3ff9f1b43ce20448ce5a6afba625e1063db08ef321abb5e5154d9d61b5",
    ("sha512", 2101247): "98adf73b5fd425aeae1a6423afbfc404fb6b8b5b71c06d71d42e57f5a5fcae5c"
    "b2607226c5592f699242a7f62acd65ae8c9801d5bdc2967737f5267ff4c61325",
    ("sha512", 16777216): "2f58dab079cee7fb9b3cb77fe0fc377f6489bd6b220a0656db329bbc6f21e9b0"
    "de8aeeb43b3411e836dec2db440f2d8e0856acbdbbb5451fcbbbaf1d59b5796d",
    ("sha512", 16777217): "f2eebbb13bd5adf50e7365159857d4d769287f2f6f073bc8d60f9700258872f1"
    "4ba834e7b835b28ef145640be7d6432dd4d2a7acc00fa951ecc83b18b81cc761",
}


def made(size: int) -> bytes:
    """Make content in which all blocks differ."""
    return b"".join(number.to_bytes(4, "big") for number in range((size + 3) // 4))[:size]


def of_bytes(data: bytes, algorithm: str) -> Digest:
    return imagedigest.of_blocks([data], algorithm)


@pytest.mark.parametrize(("algorithm", "size"), KNOWN, ids=str)
def test_digest_is_the_known_answer(algorithm: str, size: int) -> None:
    assert of_bytes(made(size), algorithm).value.hex() == KNOWN[algorithm, size]


@pytest.mark.parametrize("size", [0, 1, 32, 64, 4095, 4096])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_of_one_block_is_that_of_the_boot(algorithm: str, size: int) -> None:
    assert of_bytes(made(size), algorithm) == digest.of_bytes(made(size), algorithm)


def test_digest_of_the_vector_images() -> None:
    """The file content/digest-sha256 is the digest of content/image.bin."""
    assert of_bytes(content("image.bin"), "sha256").value == content("digest-sha256")
    assert of_bytes(content("image.bin"), "sha512").value == content("digest-sha512")
    assert of_bytes(content("image2.bin"), "sha256").value == content("digest-sha256-other")


def test_of_blocks_accepts_an_iterator() -> None:
    data = made(9000)
    assert imagedigest.of_blocks(iter([data[:4096], data[4096:8192], data[8192:]]), "sha256") == of_bytes(data, "sha256")


def test_memory_is_one_block_per_level() -> None:
    """A tree of 160 MB has three levels of at most one block each."""
    tree = imagedigest._MerkleTree("sha256")
    for number in range(40_000):
        tree.add(memoryview(number.to_bytes(4, "big")))
    assert sum(map(len, tree._levels)) <= 3 * 4096


def test_the_digest_is_of_the_image(signed_root: Root) -> None:
    path = signed_root.top / f"ostree/deploy/os/deploy/{A}.0/.ostree.cfs"
    assert path.with_name(".ostree.cfs.digest").read_bytes() == of_bytes(path.read_bytes(), "sha256").value


@pytest.mark.parametrize(
    ("make", "why"),
    [(IMAGES["linked"], "not a regular file"), (IMAGES["fifo"], "not a regular file"), (IMAGES["huge"], "larger than")],
    ids=["linked", "fifo", "huge"],
)
def test_an_image_whose_digest_is_not_computed(
    make: Callable[[Path, Path], object], why: str, tmp_path: Path, outside: Path
) -> None:
    (outside / "image").write_bytes(b"image")
    (tmp_path / "d").mkdir()
    make(tmp_path / "d/.ostree.cfs", outside)
    with inside.opened(str(tmp_path), "d") as directory, pytest.raises(Failure, match=why):
        imagedigest.compute(str(tmp_path / "d/.ostree.cfs"), "sha256", "", Entry(directory, ".ostree.cfs", ""))


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 3_000_000])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_of_sizes(tmp_path: Path, size: int, algorithm: str) -> None:
    path = image(tmp_path, size)
    output = signed(path, "--key", key("p256"), "--cert", certificate("p256"), "--algorithm", algorithm)
    assert output.split()[0] == tool("fsverity", "digest", f"--hash-alg={algorithm}", path).split()[0]


BAD_DIGESTS = (
    "",
    "sha256",
    "sha256:",
    "sha256:00",
    "sha1:" + "00" * 20,
    "sha256:" + "0" * 63 + "g",
    "sha512:" + "00" * 32,
    "00" * 32,
)


@pytest.mark.parametrize("text", BAD_DIGESTS[1:])
def test_bad_digest_is_a_usage_error(tmp_path: Path, text: str) -> None:
    options = ("--key", key("p256"), "--cert", certificate("p256"))
    result = bootseal("sign", tmp_path / "image", *options, "--digest", text)
    assert result.returncode == 64
    assert "sha256: and 64 hexadecimal digits" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "status", "text"),
    [
        (lambda p: p.mkdir(), 65, "not a regular file"),
        (os.mkfifo, 65, "not a regular file"),
        (lambda p: p.touch(), 65, "empty"),
        (lambda p: None, 74, "No such file or directory"),
    ],
    ids=["directory", "fifo", "empty", "absent"],
)
def test_bad_images(tmp_path: Path, make: object, status: int, text: str) -> None:
    path = tmp_path / "image.cfs"
    make(path)  # type: ignore[operator]
    result = bootseal("sign", path, "--key", key("p256"), "--cert", certificate("p256"))
    assert result.returncode == status
    assert text in result.stderr
