# SPDX-License-Identifier: LGPL-2.1-or-later
"""Explain deviations of a signature or certificate from bootseal's profile.

An explanation says how the kernel treats a deviation, and the remedy. pkcs7.py finds the deviations of a signature. The
kernel's answers were measured with Linux 6.12 and 7.2 (tests/vectors).
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from .. import paths, reference
from ..formats import der, pkcs7
from ..linux import files
from ..stages import keyring
from . import inside

_SIGN_AGAIN = "sign again with 'bootseal sign'"
_NAME_SIGNER = "name the signer by issuer and serial: no -keyid"
_ACCEPTS = "accepts it"


class Finding(NamedTuple):
    name: str
    kernel: str
    remedy: str


# Name: (how the kernel treats it, the remedy)
SIGNATURE = {
    "empty": ("enables fs-verity without any check", _SIGN_AGAIN),
    "too-long": ("refuses it (EMSGSIZE)", f"a signature has at most {pkcs7.MAX_SIZE} bytes"),
    "pem": ("refuses it (EBADMSG)", "write DER: -outform DER"),
    "not-der": ("refuses it (EBADMSG)", "cut off, damaged, or BER of 'openssl cms -stream': copy it again, or sign again"),
    "trailing-bytes": (_ACCEPTS, "cut the file where the message ends"),
    "not-signed-data": ("refuses it (EINVAL), or what is not even PKCS#7 (EBADMSG)", _SIGN_AGAIN),
    "version": ("accepts 3 with a signer named by key id, and refuses others (EBADMSG or EINVAL)", _NAME_SIGNER),
    "key-id": (_ACCEPTS, _NAME_SIGNER),
    "content-type": ("refuses it (EINVAL)", "sign plain data"),
    "content-inside": ("refuses it (EBADMSG)", "detach the signature: no -nodetach"),
    "certificates-inside": (
        "accepts them, and takes any key of its own as their CA; it refuses damaged ones (EBADMSG)",
        "leave them out: -nocerts",
    ),
    "crls-inside": ("refuses them (EBADMSG)", "leave them out"),
    "no-signer": ("refuses it", _SIGN_AGAIN),
    "several-signers": (
        "accepts it if it trusts one of them, and refuses it if it does not know the hash of one (ENOPKG)",
        "sign with one key; for a rotation put both certificates into the initrd",
    ),
    "several-digest-algorithms": (_ACCEPTS, _SIGN_AGAIN),
    "attributes": (
        "accepts them, but not with S/MIME capabilities (EKEYREJECTED), which are the default of openssl and cryptography, "
        "and not damaged ones (EBADMSG)",
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
CERTIFICATE = {
    "not-a-certificate": (
        "refuses it (EBADMSG), or an empty file (EINVAL), but takes bytes after it",
        "one DER certificate and nothing else, or PEM",
    ),
    "private-key": ("never sees it", "make a new key at once: this one was in a file that goes into initrds"),
    "rsa-size": ("accepts 1024 bits, and refuses 8192 (EINVAL)", "a key of 2048 to 4096 bits"),
    "rsa-exponent": (_ACCEPTS, "a key with the exponent 65537"),
    "curve": ("accepts P-192, and refuses P-224 and secp256k1 (ENOPKG)", "P-256, P-384 or P-521"),
    "key-type": ("refuses Ed25519 (ENOPKG)", "RSA or ECDSA"),
    "key-usage": (_ACCEPTS, "a certificate whose key usage has digitalSignature"),
    "extended-key-usage": (_ACCEPTS, "a certificate whose extended key usage has codeSigning, or that has none"),
    "critical-extension": (_ACCEPTS, "a certificate without unknown critical extensions"),
}


def signature_in(directory: int, pair: str) -> list[Finding]:
    """Explain the signature of a pair. Empty if it is within the profile, or cannot be read."""
    try:
        return signature(inside.read(directory, paths.signature_of(pair), 1 << 16))
    except (OSError, files.NotRegular):
        return []


def signature(message: bytes) -> list[Finding]:
    """Explain a message."""
    return [Finding(name, *SIGNATURE[name]) for name in pkcs7.deviations(message)]


def certificate(path: str) -> list[Finding]:
    """Explain a certificate file. Empty if it is usable or cannot be read: the boot gives the reason."""
    try:
        data = files.read_start(path, keyring.MAX_SIZE + 1)
    except (OSError, files.NotRegular):
        return []
    names = ["private-key"] if b"PRIVATE KEY-----" in data else list(dict.fromkeys(_check_certificates(data)))
    return [Finding(f"{os.path.basename(path)}: {name}", *CERTIFICATE[name]) for name in names]


def _check_certificates(data: bytes) -> Iterator[str]:
    try:
        encoded = keyring.split(data)
        for one in encoded:
            der.only(one, der.SEQUENCE)
        parsed = [x509.load_der_x509_certificate(one) for one in encoded]
        for one_parsed in parsed:
            yield from _check_key(one_parsed)
            yield from _check_extensions(one_parsed)
    except Exception:  # the library raises many kinds, and the boot's message gives the reason
        yield "not-a-certificate"


def _check_key(parsed: x509.Certificate) -> Iterator[str]:
    key = parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if not 2048 <= key.key_size <= 4096:
            yield "rsa-size"
        if key.public_numbers().e < 65537:
            yield "rsa-exponent"
    elif not isinstance(key, ec.EllipticCurvePublicKey):
        yield "key-type"
    elif key.curve.name not in reference.CURVES:
        yield "curve"


def _check_extensions(parsed: x509.Certificate) -> Iterator[str]:
    for extension in parsed.extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            yield "key-usage"
        if isinstance(value, x509.ExtendedKeyUsage) and not reference.allows_code_signing(value):
            yield "extended-key-usage"
        if isinstance(value, x509.UnrecognizedExtension) and extension.critical:
            yield "critical-extension"
