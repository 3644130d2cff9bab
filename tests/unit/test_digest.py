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
    ("sha512", 0): "ccf9e5aea1c2a64efa2f2354a6024b90dffde6bbc017825045dce374474e13d1"
    "0adb9dadcc6ca8e17a3c075fbd31336e8f266ae6fa93a6c3bed66f9e784e5abf",
    ("sha512", 1): "9fcf5172b085b1c8f9365eecb37a1869e193a4705654a5829f11939cd01d5c0f"
    "d97276be8cd9d49f76cfc8dcfeb80f8128e3548a1de50b56912b9e3fc7bde27b",
    ("sha512", 4095): "27137f73da1e3e195b358ee512235f9ec7969a67a07443b951c2889a7de4c2a0"
    "a15e1f72d32dff77ae16d85b45dd79492e5efcd16a2e91d5cc92a9e9005362ca",
    ("sha512", 4096): "197318c6faf7043d4fdcb37f5c93aaea6229cf3dae3bfc5cc4b54fac53f21c2e"
    "935f5f8ce9f5f2ca67dcc273235dd6ae3fdadcf53252aca29385fd6d2371e91e",
}
SIZES = sorted({size for _, size in KNOWN})


def made(size: int) -> bytes:
    """Make content in which all blocks differ."""
    return b"".join(number.to_bytes(4, "big") for number in range((size + 3) // 4))[:size]


@pytest.mark.parametrize(("algorithm", "size"), KNOWN, ids=str)
def test_digest_is_the_known_answer(algorithm: str, size: int) -> None:
    assert digest.of_bytes(made(size), algorithm).value.hex() == KNOWN[algorithm, size]


def test_file_of_two_blocks_raises() -> None:
    with pytest.raises(ValueError, match="4097 bytes"):
        digest.of_bytes(made(4097), "sha256")


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
