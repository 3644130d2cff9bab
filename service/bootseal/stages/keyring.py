# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load the boot keyring: the certificates of the initrd, PEM or DER.

A file may hold several certificates in PEM. If one of them is unusable, the whole file is. The boot skips and names unusable
files; the initrd build fails on them.
"""

import binascii
import os
import stat

from .. import libcrypto, verdicts
from ..errors import Refusal, printable
from ..formats import der, x509
from ..values import BootKeyring, Certificate, PublicKey

DIRECTORY = "bootseal/keys.d"
SUFFIXES = (".crt", ".pem", ".cer", ".der")
MAX_FILES = 64
MAX_SIZE = 64 * 1024
# Purposes of an extended key usage: codeSigning, anyExtendedKeyUsage
_CODE_SIGNING = {der.oid("1.3.6.1.5.5.7.3.3"), der.oid("2.5.29.37.0")}
# Extensions of RFC 5280, 6960, 6962 and 7633 that cryptography knows since release 38. A critical one of these does not make a
# certificate unusable.
_KNOWN = {
    *(der.oid(f"2.5.29.{number}") for number in (14, 15, 17, 18, 19, 30, 31, 32, 35, 36, 37, 46, 54)),
    *(der.oid(f"1.3.6.1.5.5.7.{rest}") for rest in ("1.1", "1.11", "1.24", "48.1.5")),
    *(der.oid(f"1.3.6.1.4.1.11129.2.4.{number}") for number in (2, 3)),
}
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
    try:
        parsed = x509.parse(encoded)
        _check_usage(parsed.extensions)
        return Certificate(
            path=path,
            der=encoded,
            sha256=libcrypto.hash_of(encoded, "sha256").hex(),
            issuer=parsed.issuer,
            serial=parsed.serial,
            subject_text=printable(x509.format_name(parsed.subject)),
            issuer_text=printable(x509.format_name(parsed.issuer)),
            not_before=parsed.not_before,
            not_after=parsed.not_after,
            key=_check_key(parsed.key),
        )
    except der.Malformed as error:
        what = str(error) if error.name == x509.UNSUPPORTED else f"not one DER certificate ({error})"
        raise Unusable(what) from error


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


def _check_key(key: x509.Key) -> PublicKey:
    if key.scheme == "rsa" and not 2048 <= key.bits <= 4096:
        raise Unusable(f"an RSA key of {key.bits} bits, where 2048 to 4096 are allowed")
    if key.scheme == "rsa" and key.exponent < 65537:
        raise Unusable("an RSA key with a public exponent below 65537")
    try:
        libcrypto.check_key(key.spki)
    except libcrypto.Failed as error:
        raise Unusable("a key that OpenSSL cannot load, such as a point outside its curve") from error
    return PublicKey(key.scheme, key.bits, key.spki)


def _check_usage(extensions: tuple[x509.Extension, ...]) -> None:
    for extension in extensions:
        if extension.oid == x509.KEY_USAGE and not x509.allows_signatures(extension.value):
            raise Unusable("a key usage without digitalSignature")
        if extension.oid == x509.EXTENDED_KEY_USAGE and _CODE_SIGNING.isdisjoint(x509.purposes(extension.value)):
            raise Unusable("an extended key usage without codeSigning")
        if extension.critical and extension.oid not in _KNOWN:
            raise Unusable(f"an unknown critical extension ({der.dotted(extension.oid)})")
