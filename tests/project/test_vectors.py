# SPDX-License-Identifier: LGPL-2.1-or-later
"""vectors/make.py: makes every signature again, with the same verdicts and, except for random values, the same bytes."""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import make
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from bootseal.errors import Refusal
from bootseal.formats import der, pkcs7
from bootseal.stages import keyring, verify
from unit.support import MANIFEST, VECTORS, PrivateKey, candidate, signature

MADE_OF: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in MANIFEST["vectors"]}
# Bytes that a test cannot foresee: ECDSA values made by a program, PSS, and a value that must have a rare form.
RANDOM = {
    "A-fsv-k256", "A-fsv-p192", "A-fsv-p224", "A-fsv-p256", "A-fsv-p256-bs1024", "A-fsv-p256-img512", "A-fsv-p384",
    "A-fsv512-p256", "A-fsv512-p384", "A-fsv512-p521", "B-ossl-attrs", "B-ossl-keyid", "B-ossl-noattr-nocerts",
    "B-ossl-noattr-sha384", "B-ossl-noattr-sha512", "B-ossl-pem", "B-ossl-stream-ber", "B-ossl-two-signers",
    "B-ossl-two-signers-one-known", "F-pss", "F-pss-sig-as-pkcs1", "G-ecdsa-r-unpadded",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _programs() -> None:
    for name in ("fsverity", "openssl"):
        if not shutil.which(name):
            pytest.skip(f"the program {name} is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the program."""
    directory = tmp_path_factory.mktemp("sigs")
    subprocess.run([sys.executable, VECTORS / "make.py", directory], check=True)
    return directory


def test_every_signature_is_made(made: Path) -> None:
    names = [f"{name}.p7s" for name in MADE_OF]
    assert sorted(path.name for path in made.iterdir()) == sorted(names)
    assert sorted(path.name for path in (VECTORS / "sigs").iterdir()) == sorted(names)


def said(vector: dict[str, Any], message: bytes) -> tuple[Any, str]:
    """Return what the reader finds, except the value, and the verifier's verdict; or why they refuse."""
    try:
        read: Any = pkcs7.parse(message)._replace(value=b"")
    except der.Malformed as error:
        read = _without_sizes(str(error))
    try:
        trusted = keyring.load([str(VECTORS / path) for path in vector["trust"]])
        verify.verify(candidate(message, (VECTORS / vector["content"]).read_bytes()), trusted)
    except Refusal as refusal:
        return read, _without_sizes(f"{refusal.verdict.name}: {refusal}")
    return read, "accepted"


def _without_sizes(text: str) -> str:
    """Leave out sizes, because an ECDSA value may be a byte longer or shorter."""
    return re.sub(r"\d+ bytes", "some bytes", text)


@pytest.mark.parametrize("name", MADE_OF)
def test_it_is_judged_like_that_of_the_tree(made: Path, name: str) -> None:
    assert said(MADE_OF[name], (made / f"{name}.p7s").read_bytes()) == said(MADE_OF[name], signature(name))


def structure(data: bytes) -> list[Any]:
    """Return tags and contents, except the content of OCTET STRINGs, which hold the values."""
    return [
        (item.tag, structure(item.content) if item.tag & 0x20 else item.content if item.tag != der.OCTET_STRING else b"")
        for item in der.items(data)
    ]


# Not DER, or with the time and the capabilities of this machine's OpenSSL.
OTHER_FORM = {"B-ossl-attrs", "B-ossl-pem", "B-ossl-stream-ber"}


@pytest.mark.parametrize("name", sorted(RANDOM - OTHER_FORM))
def test_what_is_random_has_the_same_structure(made: Path, name: str) -> None:
    assert structure((made / f"{name}.p7s").read_bytes()) == structure(signature(name))


# --- the same bytes


def ecdsa_values(data: bytes) -> list[bytes]:
    found = []
    for position in (number for number, byte in enumerate(data[:-1]) if byte == 0x30):
        value = data[position : position + 2 + data[position + 1]]
        try:
            utils.decode_dss_signature(value)
        except ValueError:
            continue
        found.append(value)
    return found


@cache
def fitting(key: PrivateKey, data: bytes, hash_name: str) -> list[bytes]:
    """Return the ECDSA values in sigs/ that this key made over this data."""
    stored = dict.fromkeys(value for name in MADE_OF for value in ecdsa_values(signature(name)))
    return [value for value in stored if fits(value, key, data, hash_name)]


def fits(value: bytes, key: PrivateKey, data: bytes, hash_name: str) -> bool:
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    try:
        key.public_key().verify(value, data, ec.ECDSA(getattr(hashes, hash_name.upper())()))
    except InvalidSignature:
        return False
    return True


def replaying(name: str, number: int) -> Callable[[PrivateKey, bytes, str], bytes]:
    """Take a stored ECDSA value, by number, instead of a new one. Those of the signature itself come first."""

    def ecdsa(*signing: Any) -> bytes:
        own = ecdsa_values(signature(name))
        values = sorted(fitting(*signing), key=lambda value: value not in own)
        return values[number % len(values)]

    return ecdsa


def attempts(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """Make the signature with each stored value, until the values repeat."""
    first = b""
    for number in itertools.count():
        monkeypatch.setattr(make, "ecdsa", replaying(name, number))
        attempt = make.SIGNATURES[name]()
        if attempt == first:
            return
        first = first or attempt
        yield attempt


@pytest.mark.parametrize("name", [name for name in MADE_OF if name not in RANDOM])
def test_but_for_what_is_random_it_has_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signature(name) in attempts(name, monkeypatch)
