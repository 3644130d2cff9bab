# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share among the tests of bootseal import: an image, signatures of openssl, and running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .program import bootseal, certificate, image, key, signed, tool

CMS = ("cms", "-sign", "-binary", "-md", "sha256")


@pytest.fixture(name="path")
def image_to_import(tmp_path: Path) -> Path:
    """Make an image, and a file with the bytes that its signature covers."""
    made = image(tmp_path)
    signed(made, "--to-be-signed", tmp_path / "tbs")
    return made


def openssl(path: Path, *options: str, kind: str = "p256", form: str = "DER") -> Path:
    """Sign with openssl, and return the file."""
    to = path.with_name("theirs")
    signer = ("-signer", certificate(kind), "-inkey", key(kind))
    tool("openssl", *CMS, *options, *signer, "-in", path.with_name("tbs"), "-outform", form, "-out", to)
    return to


def imported(source: object, path: Path, *, kind: str = "p256", by: str = "image") -> tuple[int, dict[str, Any], str]:
    target = path if by == "image" else f"{path}.digest"
    result = bootseal("import", str(source), f"--{by}={target}", f"--cert={certificate(kind)}", "--json=short")
    return result.returncode, json.loads(result.stdout), result.stderr
