# SPDX-License-Identifier: LGPL-2.1-or-later
"""deviations.py: it explains every refused vector by name, and quotes the measured answers of the kernel."""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bootseal.formats import der, pkcs7
from bootseal.host import deviations

from .program import VECTORS, certificate, key

MANIFEST: dict[str, Any] = json.loads((VECTORS / "manifest.json").read_text())


# Names that the reader hands over as a pair, or gives to an error that der.py raised.
ELSEWHERE = {
    "certificates-inside", "crls-inside", "attributes", "unsigned-attributes", "ecdsa-value",
}  # fmt: skip


def _names(message: bytes) -> list[str]:
    return [finding.name for finding in deviations.signature(message)]


def _outside_the_profile(message: bytes) -> bool:
    try:
        pkcs7.parse(message)
    except der.Malformed:
        return True
    return False


@pytest.mark.parametrize("vector", MANIFEST["vectors"], ids=lambda vector: vector["id"])
def test_explained_if_and_only_if_outside_the_profile(vector: dict[str, Any]) -> None:
    message = (VECTORS / vector["signature"]).read_bytes()
    assert bool(_names(message)) == _outside_the_profile(message), _names(message)


NAMED = {
    "B-ossl-pem": ["pem"],
    "B-ossl-keyid": ["version", "key-id"],
    "B-ossl-attrs": ["attributes"],
    "B-ossl-two-signers": ["several-signers"],
    "B-ossl-stream-ber": ["not-der"],
    "E-unsigned-attrs": ["unsigned-attributes"],
    "F-sha1-rsa": ["old-hash"],
    "F-md5-rsa": ["old-hash"],
    "F-digestalgs-md5-too": ["several-digest-algorithms"],
    "F-sha256rsa-oid": ["signature-algorithm"],
    "F-pss": ["signature-algorithm"],
    "F-ecdsa-oid-hash-mismatch": ["ecdsa-hash-label"],
    "G-ecdsa-r-unpadded": ["ecdsa-value"],
    "H-econtent-right": ["content-inside"],
    "H-embedded-10": ["certificates-inside"],
    "H-crl-present": ["crls-inside"],
    "H-max-16128": ["trailing-bytes"],
    "H-trailing-newline": ["trailing-bytes"],
    "H-truncated-last": ["not-der"],
    "H-version-0": ["version"],
    "H-wrong-content-type": ["content-type"],
    "H-wrong-outer-oid": ["not-signed-data"],
    "C-chain-leaf-expired-signingtime": ["certificates-inside", "attributes"],
}


@pytest.mark.parametrize(("vector", "names"), NAMED.items())
def test_names(vector: str, names: list[str]) -> None:
    path = next(v["signature"] for v in MANIFEST["vectors"] if v["id"] == vector)
    assert _names((VECTORS / path).read_bytes()) == names


def test_empty_and_too_long() -> None:
    assert _names(b"") == ["empty"]
    assert _names(bytes(16129)) == ["too-long", "not-signed-data"]


def test_the_table_has_every_name_of_the_reader() -> None:
    """Require an entry for each name; without one, a user would see a KeyError."""
    named = set()
    for node in ast.walk(ast.parse(inspect.getsource(pkcs7))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Malformed" and isinstance(node.args[1], ast.Constant):
            named.add(node.args[1].value)
    assert named | {der.NOT_DER, der.STRUCTURE, *ELSEWHERE} == set(deviations.SIGNATURE)
    source = inspect.getsource(pkcs7)
    assert all(f'"{name}"' in source for name in ELSEWHERE)


# The kernel's answer to a signature that is good, but not for the trusted keys.
_UNTRUSTED = {"ENOKEY", "EKEYREJECTED"}


@pytest.mark.parametrize("vector", MANIFEST["vectors"], ids=lambda vector: vector["id"])
def test_the_kernel_does_with_a_signature_what_is_said(vector: dict[str, Any]) -> None:
    findings = deviations.signature((VECTORS / vector["signature"]).read_bytes())
    claimed = {answer for finding in findings for answer in _claimed(finding.kernel)}
    assert not findings or set(vector["kernel_errno"].values()) <= claimed | _UNTRUSTED


CERTIFICATES = {
    "p256": [],
    "p256-expired": [],
    "rsa4096": [],
    "rsa1024": ["rsa-size"],
    "rsa8192": ["rsa-size"],
    "rsa2048e3": ["rsa-exponent"],
    "p192": ["curve"],
    "k256": ["curve"],
    "ed25519": ["key-type"],
    "p256-keyenc-only": ["key-usage"],
    "p256-eku-server": ["extended-key-usage"],
    "p256-eku-codesign": [],
    "p256-critical-unknown": ["critical-extension"],
    "odd-trailing": ["not-a-certificate"],
    "odd-junk": ["not-a-certificate"],
    "odd-empty": ["not-a-certificate"],
    "odd-truncated": ["not-a-certificate"],
    "odd-two-concatenated": ["not-a-certificate"],
}


@pytest.mark.parametrize(("name", "expected"), CERTIFICATES.items())
def test_certificates(name: str, expected: list[str]) -> None:
    path = VECTORS / "certs" / f"{name}.der"
    assert [finding.name for finding in deviations.certificate(str(path))] == [f"{name}.der: {n}" for n in expected]


def _claimed(text: str) -> set[str]:
    """Return the kernel's answers that a text names."""
    return set(re.findall(r"\bE[A-Z]+\b", text)) & set(errno.errorcode.values()) | (
        {"OK"} if re.search("accepts|takes", text) else set()
    )


@pytest.mark.parametrize("name", [name for name, expected in CERTIFICATES.items() if expected])
def test_the_kernel_does_with_a_certificate_what_is_said(name: str) -> None:
    measured = MANIFEST["certificates"][f"{name}.der"]["kernel_load"]
    (finding,) = deviations.certificate(str(VECTORS / "certs" / f"{name}.der"))
    assert set(measured.values()) <= _claimed(finding.kernel)


def test_a_private_key_among_the_certificates(tmp_path: Path) -> None:
    path = tmp_path / "both.pem"
    path.write_bytes(certificate("p256").read_bytes() + key("p256").read_bytes())
    assert [finding.name for finding in deviations.certificate(str(path))] == ["both.pem: private-key"]


@pytest.mark.parametrize("names", [deviations.SIGNATURE, deviations.CERTIFICATE], ids=["signature", "certificate"])
def test_every_deviation_says_what_to_do(names: dict[str, tuple[str, str]]) -> None:
    assert all(kernel and remedy for kernel, remedy in names.values())


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device"])
def test_what_cannot_be_read_is_not_explained(tmp_path: Path, kind: str) -> None:
    """Leave the reason to the boot, and do not block on a FIFO."""
    path = tmp_path / ".ostree.cfs.sig"
    make = {"directory": os.mkdir, "fifo": os.mkfifo, "device": lambda p: os.symlink("/dev/zero", p)}
    make.get(kind, lambda _: None)(path)
    assert deviations.certificate(str(path)) == []
    directory = os.open(tmp_path, os.O_PATH)
    assert deviations.signature_in(directory, ".ostree.cfs") == []
    os.close(directory)
