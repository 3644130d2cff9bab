# SPDX-License-Identifier: LGPL-2.1-or-later
"""Share among the program's tests: running it, keys and certificates of the vectors, programs to compare with."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from bootseal import verdicts
from bootseal.errors import Refusal
from bootseal.host import cli
from bootseal.stages import keyring, verify
from bootseal.values import BootKeyring, Unverified

TREE = Path(__file__).resolve().parents[3]
VECTORS = TREE / "tests" / "vectors"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
# Keep what the program remembers as root out of this machine's /run.
START = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from bootseal import paths
paths.RUN = sys.argv.pop(1)
from bootseal.host.cli import main
sys.exit(main())
"""
HANG = 900  # seconds: no program takes so long on any machine
KEYS = ("rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521")
_MAKERS: dict[str, Callable[[], PrivateKey]] = {
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa2048e3": lambda: rsa.generate_private_key(3, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@cache
def _home() -> Path:
    home = tempfile.mkdtemp(prefix="bootseal-test-keys-")
    atexit.register(shutil.rmtree, home)
    return Path(home)


@cache
def key(name: str) -> Path:
    """Make a private key for this test run, in PEM; return its path."""
    path = _home() / f"{name}.key"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(_MAKERS[name]().private_bytes(*form))
    return path


@cache
def certificate(name: str, encoding: str = "pem", *, usage: str = "digital_signature", expired: bool = False) -> Path:
    """Make a self-signed certificate of that key; return its path."""
    private: Any = serialization.load_pem_private_key(key(name).read_bytes(), None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test {name}")])
    builder = x509.CertificateBuilder(subject, subject, private.public_key(), int.from_bytes(name.encode()))
    builder = builder.not_valid_before(datetime.datetime(2001, 1, 1)).not_valid_after(
        datetime.datetime(2002 if expired else 2100, 1, 1)
    )
    builder = builder.add_extension(x509.KeyUsage(**{n: n == usage for n in _USAGES}), critical=True)
    made = builder.sign(private, None if name == "ed25519" else hashes.SHA256())
    path = _home() / f"{name}-{usage}-{expired}.{encoding}"
    path.write_bytes(made.public_bytes(getattr(serialization.Encoding, encoding.upper())))
    return path


def bootseal(*arguments: str | Path, stdin: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as it is installed: isolated, from its directory."""
    command = [sys.executable, "-I", "-c", START, str(TREE / "service"), str(_home() / "run"), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=HANG, cwd=cwd)


def signed(*arguments: str | Path) -> str:
    """Return the output of a 'bootseal sign' that must work. It runs in this process, which is faster."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = cli.main(["sign", *map(str, arguments)])
    assert status == 0, errors.getvalue()
    return output.getvalue()


def tool(name: str, *arguments: str | Path) -> str:
    """Return the output of another program, which must succeed. Without that program, skip the test."""
    if not shutil.which(name):
        pytest.skip(f"the program {name} is not installed")
    result = subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def image(directory: Path, size: int = 100_001) -> Path:
    """Make a file to sign, with the magic number of EROFS, whose content does not repeat."""
    path = directory / "image.cfs"
    content = b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]
    path.write_bytes(content[:1024] + bytes.fromhex("e2e1f5e0") + content[1028:])
    return path


def beside(path: Path) -> tuple[bytes, bytes]:
    """Read digest and signature of an image."""
    return Path(f"{path}.digest").read_bytes(), Path(f"{path}.sig").read_bytes()


def files_of(path: Path) -> set[str]:
    """List the names of an image's files, including temporary ones."""
    return {entry.name for entry in path.parent.iterdir() if path.name in entry.name}


def verdict(path: Path, by: str | Path) -> str:
    """Return the boot's verdict on the pair beside an image."""
    value, signature = beside(path)
    ring = BootKeyring(tuple(keyring.load_file(str(certificate(by) if isinstance(by, str) else by))), ())
    try:
        verify.verify(Unverified(value, stands_in=False, signature=signature, pair_path=str(path)), ring)
    except Refusal as refusal:
        return refusal.verdict.name
    return verdicts.VERIFIED.name
