# SPDX-License-Identifier: LGPL-2.1-or-later
"""signingkeys.py: forms of keys and certificates, passphrases, and the key that is never in a file."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from . import program
from .program import bootseal, certificate, files_of, image, key, signed, verdict


@pytest.mark.parametrize("form", ["pkcs8", "traditional"])
@pytest.mark.parametrize("encoding", ["PEM", "DER"])
@pytest.mark.parametrize("name", ["rsa2048", "p256"])
def test_key_and_certificate_forms(tmp_path: Path, name: str, encoding: str, form: str) -> None:
    private = serialization.load_pem_private_key(key(name).read_bytes(), None)
    encoded = private.private_bytes(
        getattr(serialization.Encoding, encoding),
        serialization.PrivateFormat.PKCS8 if form == "pkcs8" else serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    path, file = image(tmp_path), tmp_path / "key"
    file.write_bytes(encoded)
    signed(path, "--key", file, "--cert", certificate(name, encoding.lower()))
    assert verdict(path, name) == "verified"


@pytest.mark.parametrize("encoding", ["PEM", "DER"])
@pytest.mark.parametrize(("passphrase", "status"), [("secret\n", 0), ("wrong", 77), (None, 64)])
def test_encrypted_key(tmp_path: Path, encoding: str, passphrase: str | None, status: int) -> None:
    private = serialization.load_pem_private_key(key("p256").read_bytes(), None)
    file, path = tmp_path / "key", image(tmp_path)
    file.write_bytes(
        private.private_bytes(
            getattr(serialization.Encoding, encoding),
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    options: list[str | Path] = ["--key", file, "--cert", certificate("p256")]
    if passphrase is not None:
        (tmp_path / "passphrase").write_text(passphrase)
        options += ["--passphrase-file", tmp_path / "passphrase"]
    result = bootseal("sign", path, *options, stdin="")
    assert result.returncode == status, result.stderr
    assert ("bootseal: hint:" in result.stderr) == (status != 0)
    assert files_of(path) == ({path.name, path.name + ".digest", path.name + ".sig"} if status == 0 else {path.name})


def test_ephemeral_certificate(tmp_path: Path) -> None:
    path = image(tmp_path)
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        assert bootseal("sign", "--ephemeral", tmp_path / directory, path, "--", "true").returncode == 0
    loaded = [x509.load_pem_x509_certificate((tmp_path / d / "ephemeral.crt").read_bytes()) for d in ("a", "b")]
    assert loaded[0].public_key() != loaded[1].public_key()
    assert loaded[0].serial_number != loaded[1].serial_number
    usage = loaded[0].extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not loaded[0].extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("encrypted", [False, True])
def test_an_empty_passphrase(tmp_path: Path, *, encrypted: bool) -> None:
    """cryptography treats it as a missing passphrase, and raises TypeError a second time."""
    private = serialization.load_pem_private_key(key("p256").read_bytes(), None)
    protection = serialization.BestAvailableEncryption(b"secret") if encrypted else serialization.NoEncryption()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    (tmp_path / "key").write_bytes(private.private_bytes(*form))
    (tmp_path / "passphrase").write_bytes(b"\n")
    options = ("--key", tmp_path / "key", "--cert", certificate("p256"), "--passphrase-file", tmp_path / "passphrase")
    result = bootseal("sign", image(tmp_path), *options)
    assert result.returncode == (77 if encrypted else 0)
    assert ("wrong passphrase" in result.stderr) == encrypted


def test_no_passphrase_at_the_prompt(tmp_path: Path) -> None:
    """Reject Ctrl-D, bytes that are not UTF-8, and an empty line."""
    private = serialization.load_pem_private_key(key("p256").read_bytes(), None)
    protection = serialization.BestAvailableEncryption(b"secret")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    (tmp_path / "key").write_bytes(private.private_bytes(*form))
    for typed in (b"\x04", b"\xff\n", b"\n"):
        pid, terminal = pty.fork()
        if pid == 0:
            arguments = ["sign", str(tmp_path / "x"), "--digest", "sha256:" + "00" * 32, "--key", str(tmp_path / "key")]
            python = [sys.executable, "-I", str(program.TREE / "service")]
            os.execv(sys.executable, [*python, *arguments, "--cert", str(certificate("p256"))])
        seen = b""
        while b"Passphrase of" not in seen:
            seen += os.read(terminal, 1024)
        os.write(terminal, typed)
        with contextlib.suppress(OSError):  # the error of a terminal that the last process has closed
            while chunk := os.read(terminal, 1024):
                seen += chunk
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 77, seen
        os.close(terminal)


def test_the_hint_for_a_certificate_names_the_page_with_the_rules(tmp_path: Path) -> None:
    options = ("--key", key("p256"), "--cert", certificate("p256", usage="key_cert_sign"))
    result = bootseal("sign", image(tmp_path), *options)
    page, section = re.search(r"hint: .*: ([a-z.]+)\((\d)\) says", result.stderr).groups()  # type: ignore[union-attr]
    assert "digitalSignature" in (program.TREE / f"packaging/man/{page}.{section}").read_text()
