# SPDX-License-Identifier: LGPL-2.1-or-later
"""Verify signatures and hash with libcrypto of OpenSSL 3 or later.

This file decides nothing. It passes bytes with their length, and takes 1 alone for success. The types are those of
openssl/evp.h, openssl/x509.h and openssl/err.h.

The library is loaded when it is first used, because some commands of the initrd need values.py and no signature.
"""

import ctypes
import os

PATH = "/usr/lib/bootseal/libcrypto.so"  # in an initrd: a link to the library that is installed there
HASHES = {"sha256": 32, "sha384": 48, "sha512": 64}  # bytes of the result
_POINTER, _BYTES, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
# Function: (type of its result, types of its arguments)
_FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "d2i_PUBKEY": (_POINTER, (_POINTER, ctypes.POINTER(_POINTER), ctypes.c_long)),
    "EVP_PKEY_free": (None, (_POINTER,)),
    "EVP_MD_CTX_new": (_POINTER, ()),
    "EVP_MD_CTX_free": (None, (_POINTER,)),
    "EVP_DigestVerifyInit": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    "EVP_DigestVerify": (_INT, (_POINTER, _BYTES, _SIZE, _BYTES, _SIZE)),
    "EVP_Digest": (_INT, (_BYTES, _SIZE, _POINTER, ctypes.POINTER(ctypes.c_uint), _POINTER, _POINTER)),
    **{f"EVP_{name}": (_POINTER, ()) for name in HASHES},
    "ERR_clear_error": (None, ()),
}
_loaded: list[ctypes.CDLL] = []


class Failed(Exception):
    """The library failed at what does not depend on a signature. The text names its function."""


def verify(public_key: bytes, hash_name: str, signature: bytes, data: bytes) -> bool:
    """Tell whether a key made this signature over the data: RSA with PKCS#1 v1.5, or ECDSA with the value in DER.

    `public_key` is the DER of a SubjectPublicKeyInfo. Raises Failed, also for a key that the library cannot load. Of the check
    itself, any result but 1 means False: OpenSSL returns negative numbers also for malformed signatures.
    """
    library = load()
    key = context = None
    try:
        key = _load_key(library, public_key)
        context = _require(library.EVP_MD_CTX_new(), "EVP_MD_CTX_new")
        algorithm = _algorithm(library, hash_name)
        if library.EVP_DigestVerifyInit(context, None, algorithm, None, key) != 1:
            raise Failed("libcrypto: EVP_DigestVerifyInit failed")
        result: int = library.EVP_DigestVerify(context, signature, len(signature), data, len(data))
        return result == 1
    finally:
        library.EVP_MD_CTX_free(context)
        library.EVP_PKEY_free(key)
        library.ERR_clear_error()


def check_key(public_key: bytes) -> None:
    """Raise Failed for a key that the library cannot load, such as a point that is not on its curve."""
    library = load()
    try:
        library.EVP_PKEY_free(_load_key(library, public_key))
    finally:
        library.ERR_clear_error()


def hash_of(data: bytes, name: str) -> bytes:
    """Return the hash of the data: sha256, sha384 or sha512. Raises Failed."""
    library = load()
    result, size = ctypes.create_string_buffer(64), ctypes.c_uint()
    done = library.EVP_Digest(data, len(data), result, ctypes.byref(size), _algorithm(library, name), None)
    if done != 1 or size.value != HASHES[name]:
        raise Failed("libcrypto: EVP_Digest failed")
    return result.raw[: size.value]


def load() -> ctypes.CDLL:
    """Return the library, loaded once. Raises OSError without it, AttributeError if it lacks a function."""
    if not _loaded:
        library = ctypes.CDLL(_find())
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        _loaded.append(library)
    return _loaded[0]


def _find() -> str:
    if os.path.lexists(PATH):
        return PATH
    # Not in an initrd. The functions are found in the library that Python's own module is linked with.
    import _hashlib

    return _hashlib.__file__


def _load_key(library: ctypes.CDLL, public_key: bytes) -> int:
    """Load a key that fills these bytes; the caller frees it. Raises Failed."""
    buffer = ctypes.create_string_buffer(public_key, len(public_key))
    start = ctypes.addressof(buffer)
    position = _POINTER(start)
    key = _require(library.d2i_PUBKEY(None, ctypes.byref(position), len(public_key)), "d2i_PUBKEY")
    if position.value != start + len(public_key):
        library.EVP_PKEY_free(key)
        raise Failed("libcrypto: d2i_PUBKEY left bytes over")
    return key


def _algorithm(library: ctypes.CDLL, name: str) -> int:
    if name not in HASHES:
        raise Failed(f"libcrypto: no hash {name!r}")
    return _require(getattr(library, f"EVP_{name}")(), f"EVP_{name}")


def _require(pointer: int | None, function: str) -> int:
    """Return a pointer that is not NULL. Raises Failed."""
    if not pointer:
        raise Failed(f"libcrypto: {function} failed")
    return pointer
