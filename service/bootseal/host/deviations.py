# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each deviation of a signature or certificate from bootseal's profile by name, with what the kernel says to it.

Explains what was refused already and decides nothing: der.py, cms.py and keyring.py do. What the kernel says was measured with
Linux 6.12 and 7.2 (tests/vectors).
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..formats import der, pkcs7
from ..formats.der import Item
from ..linux import files
from ..stages import image, keyring
from . import inside

_SIGN_AGAIN = "sign again with 'bootseal sign'"
_NAME_SIGNER = "name the signer by issuer and serial: no -keyid"
_ACCEPTS = "accepts it"


class Finding(NamedTuple):
    name: str
    kernel: str
    remedy: str


# Name: (what the kernel does, what to do)
_SIGNATURE = {
    "empty": ("enables fs-verity without any check", _SIGN_AGAIN),
    "too-long": ("refuses it (EMSGSIZE)", "a signature has at most 16128 bytes"),
    "pem": ("refuses it (EBADMSG)", "write DER: -outform DER"),
    "not-der": ("refuses it (EBADMSG)", "cut off, damaged, or BER of 'openssl cms -stream': copy it again, or sign again"),
    "trailing-bytes": (_ACCEPTS, "cut the file where the message ends"),
    "not-signed-data": ("refuses it (EINVAL)", _SIGN_AGAIN),
    "version": ("accepts 3 with a signer named by key id, and refuses others", _NAME_SIGNER),
    "key-id": (_ACCEPTS, _NAME_SIGNER),
    "content-type": ("refuses it (EINVAL)", "sign plain data"),
    "content-inside": ("refuses it (EBADMSG)", "detach the signature: no -nodetach"),
    "certificates-inside": ("accepts them, and takes any key of its own as their CA", "leave them out: -nocerts"),
    "crls-inside": ("refuses them (EBADMSG)", "leave them out"),
    "no-signer": ("refuses it", _SIGN_AGAIN),
    "several-signers": (
        "accepts it if it trusts one of them, and refuses it if it does not know the hash of one (ENOPKG)",
        "sign with one key; for a rotation put both certificates into the initrd",
    ),
    "several-digest-algorithms": (_ACCEPTS, _SIGN_AGAIN),
    "attributes": (
        "accepts them, but not with S/MIME capabilities (EKEYREJECTED), which are the default of openssl and cryptography",
        "leave them out: -noattr",
    ),
    "unsigned-attributes": (_ACCEPTS, "leave them out"),
    "old-hash": ("accepts SHA-1 and SHA-224, and refuses MD5 (ENOPKG)", "use SHA-256: -md sha256"),
    "digest-algorithms-differ": (_ACCEPTS, _SIGN_AGAIN),
    "signature-algorithm": (
        "refuses PSS, Ed25519 and sha256WithRSAEncryption (ENOPKG)",
        "RSA as rsaEncryption (PKCS#1 v1.5), or ECDSA; 'bootseal sign --signature=' assembles such a message",
    ),
    "algorithm-parameters": ("accepts most of them", "NULL with rsaEncryption, none with ECDSA: " + _SIGN_AGAIN),
    "ecdsa-hash-label": (_ACCEPTS, _SIGN_AGAIN),
    "ecdsa-value": ("accepts numbers without padding and longer lengths", _SIGN_AGAIN),
    "structure": ("refuses most such messages (EBADMSG)", _SIGN_AGAIN),
}
_CERTIFICATE = {
    "not-a-certificate": ("refuses it (EBADMSG), but takes bytes after it", "one DER certificate and nothing else, or PEM"),
    "private-key": ("never sees it", "make a new key at once: this one was in a file that goes into initrds"),
    "rsa-size": ("accepts 1024 bits, and refuses 8192 (EINVAL)", "a key of 2048 to 4096 bits"),
    "rsa-exponent": (_ACCEPTS, "a key with the exponent 65537"),
    "curve": ("accepts P-192, and refuses P-224 and secp256k1 (ENOPKG)", "P-256, P-384 or P-521"),
    "key-type": ("refuses Ed25519 (ENOPKG)", "RSA or ECDSA"),
    "key-usage": (_ACCEPTS, "a certificate whose key usage has digitalSignature"),
    "extended-key-usage": (_ACCEPTS, "a certificate whose extended key usage has codeSigning, or that has none"),
    "critical-extension": (_ACCEPTS, "a certificate without unknown critical extensions"),
}
_HASH_OIDS = frozenset(pkcs7._HASHES)


def signature_in(deployment: int) -> list[Finding]:
    """What is to be said of a deployment's signature. Empty when it is within the profile, or cannot be read."""
    try:
        return signature(inside.read(deployment, image.IMAGE + ".sig", 1 << 16))
    except (OSError, files.NotRegular):
        return []


def signature(message: bytes) -> list[Finding]:
    names = dict.fromkeys(_signature(message))
    if "signature-algorithm" in names:
        names.pop("algorithm-parameters", None)
    return [Finding(name, *_SIGNATURE[name]) for name in names]


def certificate(path: str) -> list[Finding]:
    """What is to be said of a certificate file. Empty when it cannot be read: the boot gives the reason."""
    try:
        data = files.read_start(path, keyring.MAX_SIZE + 1)
    except (OSError, files.NotRegular):
        return []
    names = ["private-key"] if b"PRIVATE KEY-----" in data else list(dict.fromkeys(_certificates(data)))
    return [Finding(f"{os.path.basename(path)}: {name}", *_CERTIFICATE[name]) for name in names]


def _signature(message: bytes) -> Iterator[str]:
    if not message:
        yield "empty"
        return
    if message.startswith(b"-----BEGIN"):
        yield "pem"
        return
    if len(message) > pkcs7.MAX_SIZE:
        yield "too-long"
    try:
        outer, rest = der._first(message)
        if rest:
            yield "trailing-bytes"
        yield from _content_info(outer)
    except der.Malformed:
        yield "not-der"


def _content_info(outer: Item) -> Iterator[str]:
    fields = der.items(outer.content)
    if outer.tag != der.SEQUENCE or len(fields) != 2 or fields[0].content != pkcs7._SIGNED_DATA:
        yield "not-signed-data"
        return
    for item in der.items(fields[1].content):
        yield from _signed_data(der.items(item.content))


def _signed_data(fields: list[Item]) -> Iterator[str]:
    by_tag = {field.tag: field for field in fields}
    if fields and fields[0].content != b"\1":
        yield "version"
    if der.CONTEXT_0 in by_tag:
        yield "certificates-inside"
    if der.CONTEXT_1 in by_tag:
        yield "crls-inside"
    plain = [field for field in fields if field.tag not in (der.CONTEXT_0, der.CONTEXT_1)]
    if [field.tag for field in plain] != [der.INTEGER, der.SET, der.SEQUENCE, der.SET]:
        yield "structure"
        return
    yield from _encapsulated(der.items(plain[2].content))
    yield from _signers(der.items(plain[1].content), plain[3])


def _encapsulated(fields: list[Item]) -> Iterator[str]:
    if not fields or fields[0].content != pkcs7._DATA:
        yield "content-type"
    if len(fields) > 1:
        yield "content-inside"


def _signers(algorithms: list[Item], signers: Item) -> Iterator[str]:
    if len(algorithms) != 1:
        yield "several-digest-algorithms"
    try:
        found = der.items(signers.content)
    except der.Malformed:  # more than it reads
        yield "several-signers"
        return
    if len(found) != 1:
        yield "several-signers" if found else "no-signer"
    for signer in found:
        yield from _signer(der.items(signer.content), {_oid(algorithm) for algorithm in algorithms})


def _signer(fields: list[Item], listed: set[bytes]) -> Iterator[str]:
    tags = [field.tag for field in fields]
    if len(fields) > 1 and tags[1] != der.SEQUENCE:
        yield "key-id"
    elif fields and fields[0].content != b"\1":
        yield "version"
    if der.CONTEXT_0 in tags:
        yield "attributes"
    if der.CONTEXT_1 in tags:
        yield "unsigned-attributes"
    plain = [f for f in fields[2:] if f.tag not in (der.CONTEXT_0, der.CONTEXT_1)]
    if [f.tag for f in plain] != [der.SEQUENCE, der.SEQUENCE, der.OCTET_STRING]:
        yield "structure"
        return
    yield from _algorithms(_oid(plain[0]), plain[1], plain[2].content, listed)


def _algorithms(hash_oid: bytes, algorithm: Item, value: bytes, listed: set[bytes]) -> Iterator[str]:
    if hash_oid not in _HASH_OIDS:
        yield "old-hash"
    elif hash_oid not in listed:
        yield "digest-algorithms-differ"
    oid = _oid(algorithm)
    if _parameters(algorithm) != (b"" if oid == pkcs7._RSA else None):
        yield "algorithm-parameters"
    if oid in pkcs7._ECDSA:
        if pkcs7._ECDSA[oid] != pkcs7._HASHES.get(hash_oid):
            yield "ecdsa-hash-label"
        try:
            pkcs7._check_ecdsa_value(value)
        except der.Malformed:
            yield "ecdsa-value"
    elif oid != pkcs7._RSA:
        yield "signature-algorithm"


def _parameters(algorithm: Item) -> bytes | None:
    """None when absent, empty when NULL, else whatever there is."""
    fields = der.items(algorithm.content)[1:] if algorithm.tag == der.SEQUENCE else []
    return (fields[0].content if fields[0].tag == der.NULL else fields[0].raw) if fields else None


def _oid(algorithm: Item) -> bytes:
    fields = der.items(algorithm.content) if algorithm.tag == der.SEQUENCE else []
    return fields[0].content if fields else b""


def _certificates(data: bytes) -> Iterator[str]:
    try:
        encoded = keyring.split(data)
        for one in encoded:
            der.only(one, der.SEQUENCE)
        parsed = [x509.load_der_x509_certificate(one) for one in encoded]
        for one_parsed in parsed:
            yield from _key(one_parsed)
            yield from _extensions(one_parsed)
    except Exception:  # the library raises many kinds; the reason is in the message that the boot gives
        yield "not-a-certificate"


def _key(parsed: x509.Certificate) -> Iterator[str]:
    key = parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if not 2048 <= key.key_size <= 4096:
            yield "rsa-size"
        if key.public_numbers().e < 65537:
            yield "rsa-exponent"
    elif not isinstance(key, ec.EllipticCurvePublicKey):
        yield "key-type"
    elif key.curve.name not in keyring.CURVES:
        yield "curve"


def _extensions(parsed: x509.Certificate) -> Iterator[str]:
    for extension in parsed.extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            yield "key-usage"
        if isinstance(value, x509.ExtendedKeyUsage) and not keyring.allows_code_signing(value):
            yield "extended-key-usage"
        if isinstance(value, x509.UnrecognizedExtension) and extension.critical:
            yield "critical-extension"
