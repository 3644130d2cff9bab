# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes DER, and the one PKCS#7 message that bootseal's profile allows. Reading is der.py and cms.py.

The bytes are those of 'fsverity sign' (OpenSSL's PKCS7_sign with PKCS7_BINARY, DETACHED, NOATTR, NOCERTS).
"""

from ..values import Certificate
from .der import CONTEXT_0, INTEGER, NULL, OCTET_STRING, OID, SEQUENCE, SET

_DATA = "2a864886f70d010701"
_SIGNED_DATA = "2a864886f70d010702"
_RSA = "2a864886f70d010101"
_HASHES = {"sha256": "608648016503040201", "sha384": "608648016503040202", "sha512": "608648016503040203"}
_ECDSA = {"sha256": "2a8648ce3d040302", "sha384": "2a8648ce3d040303", "sha512": "2a8648ce3d040304"}


def signed_data(certificate: Certificate, scheme: str, hash_name: str, value: bytes) -> bytes:
    """A detached SignedData with this one signature, its signer named by the certificate's issuer and serial."""
    hash_algorithm = element(SEQUENCE, _oid(_HASHES[hash_name]), _NULL)
    signature_algorithm = (
        element(SEQUENCE, _oid(_RSA), _NULL) if scheme == "rsa" else element(SEQUENCE, _oid(_ECDSA[hash_name]))
    )
    signer = element(
        SEQUENCE,
        _ONE,
        element(SEQUENCE, certificate.issuer, element(INTEGER, certificate.serial)),
        hash_algorithm,
        signature_algorithm,
        element(OCTET_STRING, value),
    )
    body = element(SEQUENCE, _ONE, element(SET, hash_algorithm), element(SEQUENCE, _oid(_DATA)), element(SET, signer))
    return element(SEQUENCE, _oid(_SIGNED_DATA), element(CONTEXT_0, body))


def ecdsa_value(raw: bytes) -> bytes:
    """r and s, each half of `raw` (IEEE P1363, which PKCS#11 and most KMS return), as the DER that PKCS#7 has."""
    half = len(raw) // 2
    return element(SEQUENCE, *(_unsigned(part) for part in (raw[:half], raw[half:])))


def element(tag: int, *content: bytes) -> bytes:
    """One element around others, with a definite and minimal length."""
    body = b"".join(content)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _unsigned(value: bytes) -> bytes:
    number = int.from_bytes(value, "big")
    return element(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _oid(encoded: str) -> bytes:
    return element(OID, bytes.fromhex(encoded))


_ONE = element(INTEGER, b"\1")
_NULL = element(NULL)
