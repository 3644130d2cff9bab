# SPDX-License-Identifier: LGPL-2.1-or-later
"""DER -> the one signature of a detached PKCS#7 SignedData (RFC 5652), and nothing but bootseal's profile of it.

No cryptography and no I/O. The profile is what 'fsverity sign' and 'openssl cms -sign -binary -noattr -nocerts' write; the
kernel's own reader takes a good deal more, so what is refused here is refused before the kernel sees it.
"""

from typing import NamedTuple

from . import der

MAX_SIZE = 16128  # FS_VERITY_MAX_SIGNATURE_SIZE


_DATA = der.oid("1.2.840.113549.1.7.1")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_HASHES = {
    der.oid("2.16.840.1.101.3.4.2.1"): "sha256",
    der.oid("2.16.840.1.101.3.4.2.2"): "sha384",
    der.oid("2.16.840.1.101.3.4.2.3"): "sha512",
}
_RSA = der.oid("1.2.840.113549.1.1.1")
_ECDSA = {
    der.oid("1.2.840.10045.4.3.2"): "sha256",
    der.oid("1.2.840.10045.4.3.3"): "sha384",
    der.oid("1.2.840.10045.4.3.4"): "sha512",
}


class SignerInfo(NamedTuple):
    """Who signed and how: `issuer` is the DER of a name, `serial` the content of an INTEGER, `scheme` rsa or ecdsa."""

    issuer: bytes
    serial: bytes
    scheme: str
    hash_name: str
    value: bytes


def parse(message: bytes) -> SignerInfo:
    """Raises der.Malformed, whose text says what is outside the profile."""
    if not message:
        raise der.Malformed("empty")
    if len(message) > MAX_SIZE:
        raise der.Malformed(f"longer than {MAX_SIZE} bytes")
    if message.startswith(b"-----BEGIN"):
        raise der.Malformed("PEM, where DER is expected")
    content_type, wrapped = der.sequence(der.only(message, der.SEQUENCE), der.OID, der.CONTEXT_0)
    if content_type.content != _SIGNED_DATA:
        raise der.Malformed("not a SignedData message")
    return _signed_data(der.only(wrapped.content, der.SEQUENCE))


def _signed_data(item: der.Item) -> SignerInfo:
    fields = der.items(item.content)
    tags = [f.tag for f in fields]
    if der.CONTEXT_0 in tags or der.CONTEXT_1 in tags:
        raise der.Malformed("certificates or CRLs inside: sign with -nocerts")
    if tags != [der.INTEGER, der.SET, der.SEQUENCE, der.SET]:
        raise der.Malformed("SignedData with elements missing, added, or in another order")
    version, algorithms, content, signers = fields
    if der.unsigned(version) != 1:
        raise der.Malformed("SignedData version other than 1 (signer named by key id?)")
    _check_detached(content)
    signer = _signer(_single(signers, "signer"))
    if _hash(_single(algorithms, "digest algorithm")) != signer.hash_name:
        raise der.Malformed("the message's digest algorithm is not the signer's")
    return signer


def _check_detached(content: der.Item) -> None:
    fields = der.items(content.content)
    if not fields or fields[0].tag != der.OID or fields[0].content != _DATA:
        raise der.Malformed("content type other than data")
    if len(fields) > 1:
        raise der.Malformed("content inside: the signature must be detached")


def _single(item: der.Item, what: str) -> der.Item:
    fields = der.items(item.content)
    if len(fields) != 1:
        raise der.Malformed(f"{len(fields)} {what}s, where exactly one is allowed")
    return fields[0]


def _signer(item: der.Item) -> SignerInfo:
    fields = der.items(item.content) if item.tag == der.SEQUENCE else []
    tags = [f.tag for f in fields]
    if der.CONTEXT_0 in tags or der.CONTEXT_1 in tags:
        raise der.Malformed("attributes inside: sign with -noattr")
    if tags != [der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.SEQUENCE, der.OCTET_STRING]:
        raise der.Malformed("SignerInfo with elements missing, added, or in another order")
    version, name, digest_algorithm, signature_algorithm, value = fields
    if der.unsigned(version) != 1:
        raise der.Malformed("SignerInfo version other than 1")
    issuer, serial = der.sequence(name, der.SEQUENCE, der.INTEGER)
    hash_name = _hash(digest_algorithm)
    scheme = _scheme(signature_algorithm, hash_name)
    if scheme == "ecdsa":
        _check_ecdsa_value(value.content)
    return SignerInfo(issuer.raw, der.minimal(serial), scheme, hash_name, value.content)


def _hash(item: der.Item) -> str:
    name, _ = _algorithm(item)
    if name not in _HASHES:
        raise der.Malformed("digest algorithm other than SHA-256, SHA-384 and SHA-512")
    return _HASHES[name]


def _scheme(item: der.Item, hash_name: str) -> str:
    name, parameters = _algorithm(item)
    if name == _RSA and parameters == b"":
        return "rsa"
    if name in _ECDSA and _ECDSA[name] == hash_name and parameters is None:
        return "ecdsa"
    raise der.Malformed("signature algorithm other than RSA (PKCS#1 v1.5) or ECDSA with the digest's own hash")


def _algorithm(item: der.Item) -> tuple[bytes, bytes | None]:
    """(OID, parameters) of an AlgorithmIdentifier; parameters are None when absent and empty when NULL."""
    fields = der.items(item.content) if item.tag == der.SEQUENCE else []
    tags = [f.tag for f in fields]
    if tags == [der.OID]:
        return fields[0].content, None
    if tags == [der.OID, der.NULL] and not fields[1].content:
        return fields[0].content, b""
    raise der.Malformed("an algorithm with parameters other than NULL")


def _check_ecdsa_value(value: bytes) -> None:
    """SEQUENCE of two positive minimal INTEGERs (RFC 3279): the kernel and some libraries take sloppier ones."""
    for number in der.sequence(der.only(value, der.SEQUENCE), der.INTEGER, der.INTEGER):
        if der.unsigned(number) == 0:
            raise der.Malformed("an ECDSA value of zero")
