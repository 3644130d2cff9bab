# SPDX-License-Identifier: LGPL-2.1-or-later
"""Private keys and certificates for signing, from files or only in memory."""

import ctypes
import datetime
import getpass
import os
import resource
import sys

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import printable
from ..linux import files
from ..stages import keyring
from ..values import Certificate
from . import inside
from .output import DATA, IO_ERROR, NO_PERMISSION, OS_ERROR, USAGE, Failure, os_failure, warning

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
# As 'fsverity sign', which hashes with SHA-256 for every key.
HASH_NAME = "sha256"
_MAX_SIZE = 1 << 20  # bytes of a file with a key or passphrase
_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE = 1, 2


def load_key(path: str, passphrase_file: str | None) -> PrivateKey:
    """Load a private key in PEM or DER, encrypted or not. Raises Failure."""
    data = inside.read_named(path, "the private key", _MAX_SIZE)
    try:
        key = _parse(data, None)
    except TypeError:  # cryptography's way to say that a passphrase is needed
        key = _decrypt(
            data, path, ask_passphrase(f"Failed to decrypt the private key {path}", "passphrase", path, passphrase_file)
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "give an RSA or ECDSA key in PEM or DER: PKCS#8, PKCS#1 or SEC1"
        raise Failure(DATA, f"Failed to read the private key {path}: unknown format", hint) from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Failure(
            DATA,
            f"Failed to use the private key {path}: neither RSA nor ECDSA",
            "use an RSA or ECDSA key: the kernel cannot check other signatures",
        )
    return key


def load_certificates(path: str) -> list[Certificate]:
    """Load the certificates of a file by the boot's own rules. Raises Failure."""
    try:
        return keyring.load_file(path)
    except keyring.Unusable as error:
        hint = "use a certificate that the boot accepts: bootseal.conf(5) says which"
        raise Failure(DATA, f"Failed to use the certificate {path}: {error}", hint) from error
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read the certificate {path}", error) from error


def choose(certificates: list[Certificate], key: PrivateKey, path: str) -> Certificate:
    """Return the certificate that belongs to a private key. Raises Failure."""
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for certificate in certificates:
        if certificate.key.spki == spki:
            return certificate
    raise Failure(
        DATA, f"Failed to sign: the certificate {path} does not belong to the private key", "give the key's own certificate"
    )


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Sign the data's SHA-256, and return the bare signature: PKCS#1 v1.5 or the DER of an ECDSA value."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def make_ephemeral() -> tuple[PrivateKey, bytes]:
    """Make a P-256 key, and its certificate in PEM.

    It never expires, because the key is gone within the hour.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"bootseal ephemeral {now:%Y-%m-%d %H:%M:%S} UTC")])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
         "encipher_only", "decipher_only"), False
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))  # RFC 5280, 4.1.2.5: no well-defined expiration
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(serialization.Encoding.PEM)


def keep_memory_private() -> None:
    """Forbid swapping, core dumps, and ptrace by the same user.

    Raises Failure if the memory could be swapped out.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        warning(f"Failed to forbid core dumps: {os.strerror(ctypes.get_errno())}")
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0:
        return
    what = f"Failed to lock the memory against swapping: {os.strerror(ctypes.get_errno())}"
    if _swap_in_use():
        raise Failure(OS_ERROR, what, "run as root, raise the limit ('ulimit -l unlimited'), or switch swap off")


def _swap_in_use() -> bool:
    try:
        return len(files.read_lines("/proc/swaps")) > 1
    except OSError:
        return True


def _parse(data: bytes, passphrase: bytes | None) -> object:
    load = serialization.load_pem_private_key if b"-----BEGIN" in data else serialization.load_der_private_key
    return load(data, passphrase)


def _decrypt(data: bytes, path: str, passphrase: bytes) -> object:
    what = f"Failed to decrypt the private key {path}"
    try:
        return _parse(data, passphrase)
    except UnsupportedAlgorithm as error:
        hint = "encrypt it again with 'openssl pkcs8 -topk8'"
        raise Failure(DATA, f"{what}: unsupported encryption", hint) from error
    except (ValueError, TypeError) as error:  # TypeError: cryptography ignores an empty passphrase
        raise Failure(NO_PERMISSION, f"{what}: wrong passphrase, or damaged", "check the passphrase") from error


def ask_passphrase(failure: str, kind: str, key: str, passphrase_file: str | None) -> bytes:
    """Return a key's passphrase or PIN (`kind`), from the file or the terminal. Raises Failure, which begins with `failure`."""
    if passphrase_file:
        return inside.read_named(passphrase_file, f"the {kind}", _MAX_SIZE).rstrip(b"\r\n")
    if not sys.stdin.isatty():
        raise Failure(USAGE, f"{failure}: cannot ask for the {kind} without a terminal", "give it with --passphrase-file=")
    try:
        return os.fsencode(getpass.getpass(f"{kind[0].upper()}{kind[1:]} of {printable(key)}: "))
    except (EOFError, UnicodeError):  # Ctrl-D, or bytes that are not text
        return b""
