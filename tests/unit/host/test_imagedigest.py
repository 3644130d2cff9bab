# SPDX-License-Identifier: LGPL-2.1-or-later
"""imagedigest.py: the digest of an image, compared with fsverity's, and images that have none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal import digest
from bootseal.host import imagedigest, inside
from bootseal.host.output import Failure

from .program import bootseal, certificate, image, key, signed, tool
from .roots import (
    IMAGES,
    A,
    Root,
)


def test_the_digest_is_of_the_image(signed_root: Root) -> None:
    path = signed_root.top / f"ostree/deploy/os/deploy/{A}.0/.ostree.cfs"
    assert path.with_name(".ostree.cfs.digest").read_bytes() == digest.of_bytes(path.read_bytes(), "sha256").value


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
        imagedigest.compute(str(tmp_path / "d/.ostree.cfs"), "sha256", "", directory)


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
        (lambda p: None, 66, "No such file or directory"),
    ],
    ids=["directory", "fifo", "empty", "absent"],
)
def test_bad_images(tmp_path: Path, make: object, status: int, text: str) -> None:
    path = tmp_path / "image.cfs"
    make(path)  # type: ignore[operator]
    result = bootseal("sign", path, "--key", key("p256"), "--cert", certificate("p256"))
    assert result.returncode == status
    assert text in result.stderr
