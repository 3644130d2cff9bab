# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load the boot keyring: the certificates of the initrd, PEM or DER.

A file may hold several certificates in PEM. If one of them is unusable, the whole file is. The boot skips and names unusable
files; the initrd build fails on them.
"""

import binascii
import hashlib
import os
import stat
import warnings

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from .. import verdicts
from ..errors import Refusal, printable
from ..formats import der, pkcs7
from ..values import BootKeyring, Certificate

DIRECTORY = "bootseal/keys.d"
SUFFIXES = (".crt", ".pem", ".cer", ".der")
MAX_FILES = 64
MAX_SIZE = 64 * 1024
_KEY_ALGORITHMS = (pkcs7.RSA, der.oid("1.2.840.10045.2.1"))  # the second is id-ecPublicKey
CURVES = ("secp256r1", "secp384r1", "secp521r1")
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class Unusable(ValueError):
    """A certificate, or a file of certificates, that the profile does not allow. The text says why."""


def load(paths: list[str]) -> BootKeyring:
    """Load the usable certificates of these files. Raises Refusal `no-keys` without any."""
    certificates: dict[str, Certificate] = {}
    skipped = [f"{path}: more than {MAX_FILES} files" for path in paths[MAX_FILES:]]
    for path in paths[:MAX_FILES]:
        try:
            certificates.update((c.sha256, c) for c in load_file(path))
        except (Unusable, OSError) as error:
            skipped.append(printable(f"{path}: {error.strerror if isinstance(error, OSError) else error}"))
    if not certificates:
        what = f"no usable certificate in the boot keyring ({'; '.join(skipped) or 'no file there'})"
        raise Refusal(verdicts.NO_KEYS, what, "/etc/" + DIRECTORY)
    return BootKeyring(tuple(certificates.values()), tuple(skipped))


def load_file(path: str) -> list[Certificate]:
    """Load all certificates of one file. Raises OSError, or Unusable if one of them is unusable."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Unusable("not a regular file")
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise Unusable(f"larger than {MAX_SIZE} bytes")
    return [certificate(path, encoded) for encoded in split(data)]


def certificate(path: str, encoded: bytes) -> Certificate:
    """Parse the DER of a certificate. Raises Unusable outside the profile of bootseal.conf(5)."""
    issuer, serial = _read_issuer_and_serial(encoded)
    with warnings.catch_warnings():
        # cryptography warns of oddities. They do not matter: the certificate is rejected, or trusted by its very bytes.
        warnings.simplefilter("ignore")
        try:
            parsed = x509.load_der_x509_certificate(encoded)
            key = _extract_key(parsed)
            _check_usage(parsed.extensions)
            return Certificate(
                path=path,
                der=encoded,
                sha256=hashlib.sha256(encoded).hexdigest(),
                issuer=issuer,
                serial=serial,
                subject_text=_format_name(parsed.subject),
                issuer_text=_format_name(parsed.issuer),
                not_before=_format_time(parsed, "not_valid_before"),
                not_after=_format_time(parsed, "not_valid_after"),
                key=key,
            )
        except Unusable:
            raise
        except Exception as error:  # the library raises ValueError, UnsupportedAlgorithm, TypeError and its own
            raise Unusable(f"not a usable certificate ({error})") from error


def split(data: bytes) -> list[bytes]:
    """Return the DER of each certificate in a file. Raises Unusable."""
    if data[:1] == b"\x30":
        return [data]
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise Unusable("neither PEM nor DER") from error
    if "PRIVATE KEY-----" in text:
        raise Unusable("a private key: it must never be in an initrd")
    if text.count("-----BEGIN ") != text.count(_BEGIN) or not text.count(_BEGIN):
        raise Unusable("PEM, but not only CERTIFICATE blocks")
    return [_decode_pem(block) for block in text.split(_BEGIN)[1:]]


def _decode_pem(text: str) -> bytes:
    body, end, _ = text.partition(_END)
    try:
        if end:
            return binascii.a2b_base64("".join(body.split()), strict_mode=True)
    except binascii.Error as error:
        raise Unusable(f"PEM with damaged base64 ({error})") from error
    raise Unusable("PEM without an END line")


def _read_issuer_and_serial(encoded: bytes) -> tuple[bytes, bytes]:
    """Return both as encoded: a signature names them byte for byte (RFC 5280, section 4.1)."""
    try:
        fields = der.items(der.items(der.only(encoded, der.SEQUENCE).content)[0].content)
        if fields[0].tag == der.CONTEXT_0:  # the version, absent in X.509v1
            fields = fields[1:]
        serial, _, issuer, _, _, key = fields[:6]
        der.unsigned(serial)
        algorithm = der.items(der.items(key.content)[0].content)[0].content
    except (der.Malformed, ValueError, IndexError) as error:
        raise Unusable(f"not one DER certificate ({error})") from error
    if algorithm not in _KEY_ALGORITHMS:
        # cryptography loads an RSA key even if the certificate restricts it to RSASSA-PSS.
        raise Unusable("neither an RSA nor an ECDSA key")
    return issuer.raw, serial.content


def _extract_key(parsed: x509.Certificate) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    key = parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if not 2048 <= key.key_size <= 4096:
            raise Unusable(f"an RSA key of {key.key_size} bits, where 2048 to 4096 are allowed")
        if key.public_numbers().e < 65537:
            raise Unusable("an RSA key with a public exponent below 65537")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            raise Unusable(f"a key on the curve {key.curve.name}, where P-256, P-384 and P-521 are allowed")
        return key
    raise Unusable("neither an RSA nor an ECDSA key")


def _check_usage(extensions: x509.Extensions) -> None:
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:
            raise Unusable("a key usage without digitalSignature")
        if isinstance(value, x509.ExtendedKeyUsage) and not allows_code_signing(value):
            raise Unusable("an extended key usage without codeSigning")
        if isinstance(value, x509.UnrecognizedExtension) and extension.critical:
            raise Unusable(f"an unknown critical extension ({extension.oid.dotted_string})")


def allows_code_signing(usage: x509.ExtendedKeyUsage) -> bool:
    """Tell whether an extended key usage allows to sign code."""
    allowed = (ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    return any(purpose in allowed for purpose in usage)


def _format_name(name: x509.Name) -> str:
    return printable(name.rfc4514_string())


def _format_time(parsed: x509.Certificate, attribute: str) -> str:
    """Format a validity time as ISO 8601 in UTC. cryptography 42 deprecated the names without _utc."""
    value = getattr(parsed, attribute + "_utc", None) or getattr(parsed, attribute)
    return f"{value:%Y-%m-%dT%H:%M:%SZ}"
