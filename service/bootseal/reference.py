# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read certificates and verify signatures with the package cryptography, to compare with the boot's own results.

Never in an initrd. The build of an initrd compares each certificate of the boot keyring. 'bootseal verify' compares those and
the check of the signature.
"""

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress

import cryptography.hazmat.backends.openssl  # noqa: F401  # otherwise each child of dryrun.py imports it
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from . import digest
from .digest import Digest
from .errors import Refusal, printable
from .formats import der, pkcs7
from .stages import config, keyring, verify
from .values import BootKeyring, Certificate, PublicKey, Unverified

CURVES = ("secp256r1", "secp384r1", "secp521r1")
_HASHES: dict[str, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_MAX_STRAY = 1 << 20  # bytes
_PKCS12 = bytes.fromhex("02010330")  # a PFX begins with version 3 and another SEQUENCE
_SPKI = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def check_keyring(directory: str, tree: str = "/") -> int:
    """Compare the boot keyring of an unpacked initrd, and look for mistakes in the key directories of `tree`, its source.

    On an error, print one line to stderr and return 78 (EX_CONFIG).
    """
    try:
        voa = config.load(directory).voa
        trusted = keyring.load(config.certificates(directory, keyring.DIRECTORY, keyring.SUFFIXES, voa))
        problems = [*trusted.skipped, *(f"{c.path}: {text}" for c in trusted.certificates if (text := difference(c)))]
        problems += [f"{path}: {text}" for path, text in _find_strays(tree)]
    except Refusal as refusal:
        problems = [f"{refusal.what}: {refusal.path}"]
    for problem in problems[:1]:
        print(problem, file=sys.stderr)
    return 78 if problems else 0


def _find_strays(tree: str) -> Iterator[tuple[str, str]]:
    """Find private keys, and certificates that no boot reads because of their suffix."""
    for top in config.DIRECTORIES:
        directory = os.path.join(tree, top, keyring.DIRECTORY)
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            content = _read_start(path)
            if _is_private_key(content):
                yield path, "a private key: it must never be in a tree that becomes an image"
            elif not name.endswith(keyring.SUFFIXES) and _is_certificate(path, content):
                yield path, f"a certificate, but its name does not end in {', '.join(keyring.SUFFIXES)}"


def _read_start(path: str) -> bytes:
    """Read a regular file, empty if it is none."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as file:
        return file.read(_MAX_STRAY)


def _is_private_key(content: bytes) -> bool:
    if re.search(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----", content):
        return True
    if content[:1] == b"\x30" and _PKCS12 in content[:12]:
        return True
    try:
        serialization.load_der_private_key(content, None)
    except ValueError:
        return False
    except (TypeError, UnsupportedAlgorithm):  # a passphrase is missing; a key of another kind
        return True
    return True


def _is_certificate(path: str, content: bytes) -> bool:
    if b"-----BEGIN CERTIFICATE-----" in content:
        return True
    try:
        read(path, content)
    except keyring.Unusable:
        return False
    return True


def difference(certificate: Certificate) -> str:
    """Name the first member that cryptography reads otherwise; empty if both readers agree."""
    try:
        other = read(certificate.path, certificate.der)
    except keyring.Unusable as error:
        return f"the package cryptography does not accept it ({error})"
    differing = [name for name in Certificate._fields if getattr(certificate, name) != getattr(other, name)]
    return f"the package cryptography reads another {differing[0]}" if differing else ""


def disagreement(unverified: Unverified, trusted: BootKeyring) -> str:
    """Name a certificate whose signature cryptography judges otherwise than the boot; empty without one."""
    try:
        info = pkcs7.parse(unverified.signature)
    except der.Malformed:
        return ""
    for certificate in verify.signers(info, trusted):
        for signed in _find_signed(unverified.digest):
            theirs = verify_signature(certificate.key.spki, info.hash_name, info.value, signed.formatted())
            if verify.signature_matches(info, certificate, signed) != theirs:
                return (
                    f"OpenSSL's libcrypto and the package cryptography disagree on the signature of {certificate.subject_text}"
                )
    return ""


def _find_signed(content: bytes) -> list[Digest]:
    """Return what a signature may cover: the digest of the digest file, or that of the image."""
    signed = [digest.of_bytes(content, algorithm) for algorithm in digest.NUMBERS]
    with suppress(ValueError):  # the boot refuses such a digest file
        signed.append(digest.from_bytes(content))
    return signed


def read(path: str, encoded: bytes) -> Certificate:
    """Read the DER of a certificate as keyring.certificate() does. Raises Unusable."""
    with warnings.catch_warnings():
        # cryptography warns of oddities. They do not matter: the certificate is rejected, or trusted by its very bytes.
        warnings.simplefilter("ignore")
        try:
            parsed = x509.load_der_x509_certificate(encoded)
            _check_usage(parsed.extensions)
            return Certificate(
                path=path,
                der=encoded,
                sha256=hashlib.sha256(encoded).hexdigest(),
                issuer=parsed.issuer.public_bytes(),
                serial=parsed.serial_number.to_bytes(parsed.serial_number.bit_length() // 8 + 1, "big"),
                subject_text=printable(parsed.subject.rfc4514_string()),
                issuer_text=printable(parsed.issuer.rfc4514_string()),
                not_before=_format_time(parsed, "not_valid_before"),
                not_after=_format_time(parsed, "not_valid_after"),
                key=_public_key(parsed),
            )
        except keyring.Unusable:
            raise
        except Exception as error:  # the library raises ValueError, UnsupportedAlgorithm, TypeError and its own
            raise keyring.Unusable(f"{error}") from error


def verify_signature(public_key: bytes, hash_name: str, signature: bytes, data: bytes) -> bool:
    """Do the same as libcrypto.verify()."""
    key, hash_ = serialization.load_der_public_key(public_key), _HASHES[hash_name]()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hash_)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hash_))
        else:
            return False
    except InvalidSignature:
        return False
    return True


def allows_code_signing(usage: x509.ExtendedKeyUsage) -> bool:
    """Tell whether an extended key usage allows to sign code."""
    allowed = (ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    return any(purpose in allowed for purpose in usage)


def _public_key(parsed: x509.Certificate) -> PublicKey:
    key = parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 4096 and key.public_numbers().e >= 65537:
        return PublicKey("rsa", key.key_size, key.public_bytes(*_SPKI))
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return PublicKey("ecdsa", key.key_size, key.public_bytes(*_SPKI))
    raise keyring.Unusable("its key")


def _check_usage(extensions: x509.Extensions) -> None:
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            raise keyring.Unusable("a key usage without digitalSignature")
        if isinstance(value, x509.ExtendedKeyUsage) and not allows_code_signing(value):
            raise keyring.Unusable("an extended key usage without codeSigning")
        if isinstance(value, x509.UnrecognizedExtension) and extension.critical:
            raise keyring.Unusable(f"an unknown critical extension ({extension.oid.dotted_string})")


def _format_time(parsed: x509.Certificate, attribute: str) -> str:
    """Format a validity time as ISO 8601 in UTC. cryptography 42 deprecated the names without _utc."""
    value = getattr(parsed, attribute + "_utc", None) or getattr(parsed, attribute)
    return f"{value.replace(tzinfo=None).isoformat()}Z"
