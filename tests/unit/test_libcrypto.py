# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test libcrypto.py: 1 alone is success, and a failing library is never a valid signature."""

import _hashlib
import ctypes
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from bootseal import libcrypto
from unit.support import certificate, private_key, run_python, sign

DATA = b"data\0with a zero byte"
KINDS = ["p256", "p384", "p521", "rsa2048"]
P256 = certificate("p256").key.spki


@pytest.mark.parametrize("hash_name", libcrypto.HASHES)
@pytest.mark.parametrize("kind", KINDS)
def test_good_signature_verifies(kind: str, hash_name: str) -> None:
    spki, signature = certificate(kind).key.spki, sign(private_key(kind), DATA, hash_name)
    assert libcrypto.verify(spki, hash_name, signature, DATA) is True
    assert libcrypto.verify(spki, hash_name, signature, DATA[:5]) is False
    assert libcrypto.verify(spki, hash_name, signature, DATA + b"\0") is False
    for other in set(libcrypto.HASHES) - {hash_name}:
        assert libcrypto.verify(spki, other, signature, DATA) is False
    for other in set(KINDS) - {kind}:
        assert libcrypto.verify(certificate(other).key.spki, hash_name, signature, DATA) is False


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_no_other_value_verifies(kind: str) -> None:
    spki, good = certificate(kind).key.spki, sign(private_key(kind), DATA)
    for bad in (b"", b"\0", good[:-1], good + b"\0", b"\0" + good, bytes(len(good)), good[:-1] + bytes([good[-1] ^ 1])):
        assert libcrypto.verify(spki, "sha256", bad, DATA) is False


def test_pss_does_not_verify() -> None:
    key = private_key("rsa2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    value = key.sign(DATA, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    assert libcrypto.verify(certificate("rsa2048").key.spki, "sha256", value, DATA) is False


BAD_KEYS = {
    "empty": b"",
    "cut off": P256[:-1],
    "a byte after it": P256 + b"\0",
    "a point outside the curve": P256[:-1] + bytes([P256[-1] ^ 1]),
    "a certificate": certificate("p256").der,
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
def test_key_that_cannot_be_loaded_fails(key: bytes) -> None:
    with pytest.raises(libcrypto.Failed, match="d2i_PUBKEY"):
        libcrypto.check_key(key)
    with pytest.raises(libcrypto.Failed, match="d2i_PUBKEY"):
        libcrypto.verify(key, "sha256", sign(private_key("p256"), DATA), DATA)


@pytest.mark.parametrize("kind", KINDS)
def test_good_key_is_loaded(kind: str) -> None:
    libcrypto.check_key(certificate(kind).key.spki)


@pytest.mark.parametrize("data", [b"", b"\0", DATA, bytes(5000)])
@pytest.mark.parametrize("name", libcrypto.HASHES)
def test_hash_is_that_of_hashlib(name: str, data: bytes) -> None:
    assert libcrypto.hash_of(data, name) == hashlib.new(name, data).digest()


@pytest.mark.parametrize("name", ["", "md5", "sha1", "SHA256", "DigestVerify"])
def test_unknown_hash_fails(name: str) -> None:
    with pytest.raises(libcrypto.Failed, match="no hash"):
        libcrypto.hash_of(b"", name)
    with pytest.raises(libcrypto.Failed, match="no hash"):
        libcrypto.verify(P256, name, b"", b"")


# --- a library that fails


class Library:
    """The real library, of which functions can be replaced, and whose objects are counted."""

    def __init__(self, **replaced: Any) -> None:
        self._real, self._replaced, self.alive = libcrypto.load(), replaced, list[int]()
        self.cleared = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name in self._replaced:
                return self._replaced[name]
            result = getattr(self._real, name)(*arguments)
            if name in ("d2i_PUBKEY", "EVP_MD_CTX_new") and result:
                self.alive.append(result)
            if name.endswith("_free") and arguments[0]:
                self.alive.remove(arguments[0])
            self.cleared += name == "ERR_clear_error"
            return result

        return call


@pytest.fixture
def _restored() -> Iterator[None]:
    libcrypto.load()
    before = libcrypto._loaded[:]
    yield
    libcrypto._loaded[:] = before


def verify_with(**replaced: Any) -> tuple[bool | None, Library]:
    """Verify a good signature with a replaced function. The result is None if that raises."""
    library: Any = Library(**replaced)
    libcrypto._loaded[:] = [library]
    try:
        return libcrypto.verify(P256, "sha256", sign(private_key("p256"), DATA), DATA), library
    except libcrypto.Failed:
        return None, library


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("result", [1, 0, -1, 2, -2, 256])
def test_result_1_alone_is_a_valid_signature(result: int) -> None:
    verified, library = verify_with(EVP_DigestVerify=result)
    assert verified is (result == 1)
    assert (library.alive, library.cleared) == ([], 1)


FAILURES = [("d2i_PUBKEY", None), ("EVP_MD_CTX_new", None), ("EVP_sha256", None)]
FAILURES_TO_START = [("EVP_DigestVerifyInit", 0), ("EVP_DigestVerifyInit", -1), ("EVP_DigestVerifyInit", 2)]


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(("name", "result"), [*FAILURES, *FAILURES_TO_START])
def test_failing_function_is_an_exception(name: str, result: int | None) -> None:
    verified, library = verify_with(**{name: result})
    assert verified is None
    assert (library.alive, library.cleared) == ([], 1)


@pytest.mark.usefixtures("_restored")
def test_everything_is_freed() -> None:
    verified, library = verify_with()
    assert (verified, library.alive, library.cleared) == (True, [], 1)
    for key in (P256, P256 + b"\0", b"x"):
        try:
            libcrypto.check_key(key)
        except libcrypto.Failed:
            assert key != P256
    assert (library.alive, library.cleared) == ([], 4)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("replaced", [{"EVP_Digest": 0}, {"EVP_Digest": -1}, {"EVP_sha256": None}, {"EVP_Digest": 1}])
def test_failing_hash_is_an_exception(replaced: dict[str, Any]) -> None:
    """The last one claims success without writing a result."""
    library: Any = Library(**replaced)
    libcrypto._loaded[:] = [library]
    with pytest.raises(libcrypto.Failed):
        libcrypto.hash_of(b"", "sha256")


# --- which library


def test_every_function_has_its_types() -> None:
    library = libcrypto.load()
    for name, (result, arguments) in libcrypto._FUNCTIONS.items():
        function = getattr(library, name)
        assert (function.restype, tuple(function.argtypes)) == (result, arguments)
    with pytest.raises(ctypes.ArgumentError):
        library.EVP_DigestVerify(None, "text", 4, b"", 0)


def test_the_library_is_loaded_on_first_use_alone() -> None:
    """failure.py imports values.py, and must run when the library is damaged."""
    code = "from bootseal import failure, libcrypto; print(libcrypto._loaded); libcrypto.load(); print(len(libcrypto._loaded))"
    assert run_python(code) == "[]\n1\n"


def test_an_initrd_has_a_link_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "libcrypto.so"
    monkeypatch.setattr(libcrypto, "PATH", str(link))
    assert libcrypto._find() == _hashlib.__file__
    link.symlink_to("/nonexistent")
    assert libcrypto._find() == str(link)
    with pytest.raises(OSError, match="libcrypto"):
        ctypes.CDLL(libcrypto._find())


def test_a_missing_library_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    """boot.py makes it `internal`."""
    monkeypatch.setattr(libcrypto, "_loaded", [])
    monkeypatch.setattr(libcrypto, "PATH", os.devnull)
    with pytest.raises(OSError, match=os.devnull):
        libcrypto.hash_of(b"", "sha256")
