# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test digest.py against known answers and, if it is installed, the reference tool."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bootseal import digest
from bootseal.digest import Digest
from unit.support import content

# The output of 'fsverity digest' of fsverity-utils 1.5 for files of so many bytes, see made().
KNOWN = {
    ("sha256", 0): "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
    ("sha256", 1): "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551",
    ("sha256", 4095): "66d7b7bc20d317e7bfad2e5b3c909711bec72a40c49752378354f696ba73e43f",
    ("sha256", 4096): "cba6c868357f4dc1749e5953a332a2dcdcd74e0dc11139f391084805fef6966c",
    ("sha256", 4097): "ea6b7b92f1ed8cc839496b97a5a68071698a87c346a91843d47471c190a0e9e3",
    ("sha256", 8192): "8e95ca0fd31bbcec3a1a240fdbd9c1b945c2b8068d6d75fcaca1d4ca73bbd1ea",
    ("sha256", 262144): "83fdf31317bf68574ccf4501569e5935b6fd411db93edca024b3d7d779a1cdac",
    ("sha256", 262145): "0981f85cadde148c5843881e6a345e4076c61c3e1df3c3aed94e134e9b151dc8",
    ("sha256", 524287): "d215b9c0caa27f477ca12d2f4b5754b1f62c15bf2fce4fecb6191a79642ef9d3",
    ("sha256", 524288): "3abb284c7b6ec68f81648ed799a3994e8d2a8ea8ebe45281c17b3ad1369d443a",
    ("sha256", 524289): "373b63d5db2d8a220389091356452d338e9ed9dcb0b36f306b9f5ee76fbf8f24",
    ("sha256", 2097152): "31e2535b8bb58b4d65ded71144af7c81dfa03410655de0d9b0d717a6718cdad9",
    ("sha256", 2101247): "7a5f8f51b6ea8e4790980b8fd6f1ac2a3d6c872fbff9d549bb0abfc7c16f12e0",
    ("sha512", 0): "ccf9e5aea1c2a64efa2f2354a6024b90dffde6bbc017825045dce374474e13d1"
    "0adb9dadcc6ca8e17a3c075fbd31336e8f266ae6fa93a6c3bed66f9e784e5abf",
    ("sha512", 1): "9fcf5172b085b1c8f9365eecb37a1869e193a4705654a5829f11939cd01d5c0f"
    "d97276be8cd9d49f76cfc8dcfeb80f8128e3548a1de50b56912b9e3fc7bde27b",
    ("sha512", 4095): "27137f73da1e3e195b358ee512235f9ec7969a67a07443b951c2889a7de4c2a0"
    "a15e1f72d32dff77ae16d85b45dd79492e5efcd16a2e91d5cc92a9e9005362ca",
    ("sha512", 4096): "197318c6faf7043d4fdcb37f5c93aaea6229cf3dae3bfc5cc4b54fac53f21c2e"
    "935f5f8ce9f5f2ca67dcc273235dd6ae3fdadcf53252aca29385fd6d2371e91e",
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
SIZES = sorted({size for _, size in KNOWN if size < 1 << 23})


def made(size: int) -> bytes:
    """Make content in which all blocks differ."""
    return b"".join(number.to_bytes(4, "big") for number in range((size + 3) // 4))[:size]


@pytest.mark.parametrize(("algorithm", "size"), KNOWN, ids=str)
def test_digest_is_the_known_answer(algorithm: str, size: int) -> None:
    assert digest.of_bytes(made(size), algorithm).value.hex() == KNOWN[algorithm, size]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", SIZES)
def test_digest_is_that_of_the_reference_tool(algorithm: str, size: int, tmp_path: Path) -> None:
    tool = shutil.which("fsverity")
    if not tool:
        pytest.skip("no fsverity program")
    path = tmp_path / "file"
    path.write_bytes(made(size))
    said = subprocess.run(
        [tool, "digest", "--compact", f"--hash-alg={algorithm}", path], check=True, capture_output=True, text=True
    )
    assert digest.of_bytes(made(size), algorithm).value.hex() == said.stdout.strip()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("name", ["digest-sha256", "digest-sha512", "digest-empty"])
def test_signed_bytes_are_those_of_the_reference_tool(algorithm: str, name: str, tmp_path: Path) -> None:
    tool = shutil.which("fsverity")
    if not tool:
        pytest.skip("no fsverity program")
    path = tmp_path / "file"
    path.write_bytes(content(name))
    arguments = [tool, "digest", "--compact", "--for-builtin-sig", f"--hash-alg={algorithm}", str(path)]
    said = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert digest.of_bytes(content(name), algorithm).formatted().hex() == said.stdout.strip()


def test_digest_of_the_vector_images() -> None:
    """The file content/digest-sha256 is the digest of content/image.bin."""
    assert digest.of_bytes(content("image.bin"), "sha256").value == content("digest-sha256")
    assert digest.of_bytes(content("image.bin"), "sha512").value == content("digest-sha512")
    assert digest.of_bytes(content("image2.bin"), "sha256").value == content("digest-sha256-other")


def test_of_blocks_accepts_an_iterator() -> None:
    data = made(9000)
    assert digest.of_blocks(iter([data[:4096], data[4096:8192], data[8192:]]), "sha256") == digest.of_bytes(data, "sha256")


def test_memory_is_one_block_per_level() -> None:
    """A tree of 160 MB has three levels of at most one block each."""
    tree = digest._MerkleTree("sha256")
    for number in range(40_000):
        tree.add(memoryview(number.to_bytes(4, "big")))
    assert sum(map(len, tree._levels)) <= 3 * 4096


def test_digest_as_text() -> None:
    assert str(Digest("sha256", bytes(32))) == "sha256:" + "00" * 32


@pytest.mark.parametrize(("algorithm", "number", "size"), [("sha256", 1, 32), ("sha512", 2, 64)])
def test_formatted_digest_is_the_kernel_s_structure(algorithm: str, number: int, size: int) -> None:
    value = os.urandom(size)
    assert Digest(algorithm, value).formatted() == b"FSVerity" + bytes([number, 0, size, 0]) + value


@pytest.mark.parametrize(("size", "algorithm"), [(32, "sha256"), (64, "sha512")])
def test_from_bytes_knows_the_algorithm_by_size(size: int, algorithm: str) -> None:
    assert digest.from_bytes(bytes(size)) == Digest(algorithm, bytes(size))


@pytest.mark.parametrize("size", [0, 1, 16, 31, 33, 48, 63, 65, 128])
def test_from_bytes_of_another_size_raises(size: int) -> None:
    with pytest.raises(ValueError, match=f"^{size} bytes"):
        digest.from_bytes(bytes(size))
