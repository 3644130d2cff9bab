# SPDX-License-Identifier: LGPL-2.1-or-later
"""pkcs11.py: keys in a token of SoftHSM, through openssl, in one step and in two."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootseal.host import pkcs11

from .program import bootseal, certificate, image, key, signed

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "1234-secret"


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a token with the tests' keys; each has the name of its kind."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("PKCS11_MODULE_PATH", MODULE)
    run("softhsm2-util", "--init-token", "--free", "--label", "signing", "--pin", PIN, "--so-pin", "0000")
    for number, kind in enumerate(("p256", "rsa2048"), 1):
        pkcs8 = tmp_path / "pkcs8.pem"
        run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", key(kind), "-out", pkcs8)
        identity = ("--label", kind, "--id", f"0{number}")
        run("softhsm2-util", "--import", pkcs8, "--token", "signing", "--pin", PIN, *identity)
        pkcs8.unlink()
    (tmp_path / "pin").write_text(f"{PIN}\n")
    return tmp_path


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def uri(kind: str) -> str:
    return f"pkcs11:token=signing;object={kind};type=private"


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
@pytest.mark.parametrize("pin", ["file", "uri"])
def test_in_one_step(token: Path, kind: str, pin: str) -> None:
    path = image(token)
    name = uri(kind) + (f"?pin-value={PIN}" if pin == "uri" else "")
    more = () if pin == "uri" else ("--passphrase-file", token / "pin")
    result = bootseal("sign", path, "--key", name, "--cert", certificate(kind), *more)
    assert (result.returncode, result.stderr) == (0, "")
    assert bootseal("verify", f"--image={path}", f"--cert={certificate(kind)}").returncode == 0


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_in_two_steps(token: Path, kind: str) -> None:
    path = image(token)
    signed(path, "--to-be-signed", token / "tbs")
    engine = ("-engine", "pkcs11", "-keyform", "engine", "-passin", f"file:{token / 'pin'}")
    run("openssl", "dgst", "-sha256", *engine, "-sign", uri(kind), "-out", token / "raw", token / "tbs")
    signed(path, "--signature", token / "raw", "--cert", certificate(kind))


@pytest.mark.parametrize("where", ["file", "uri"])
def test_a_wrong_pin_is_never_shown(token: Path, where: str) -> None:
    path = image(token)
    (token / "pin").write_text("wrong-secret")
    name = uri("p256") + ("?pin-value=wrong-secret" if where == "uri" else "")
    more = () if where == "uri" else ("--passphrase-file", token / "pin")
    result = bootseal("sign", path, "--key", name, "--cert", certificate("p256"), *more)
    assert result.returncode == 71
    assert result.stderr.startswith(f"bootseal: Failed to sign with {uri('p256')}")
    assert "wrong-secret" not in result.stdout + result.stderr
    assert not Path(f"{path}.sig").exists()


def test_an_absent_key(token: Path) -> None:
    more = ("--cert", certificate("p256"), "--passphrase-file", token / "pin")
    result = bootseal("sign", image(token), "--key", uri("absent"), *more)
    assert (result.returncode, "p11tool" in result.stderr) == (71, True)


def test_a_pin_that_cannot_be_asked_for(token: Path) -> None:
    result = bootseal("sign", image(token), "--key", uri("p256"), "--cert", certificate("p256"), stdin="")
    assert (result.returncode, "--passphrase-file=" in result.stderr) == (64, True)


def test_a_pin_in_the_file_that_the_uri_names(token: Path) -> None:
    name = uri("p256") + f"?pin-source=file:{token / 'pin'}"
    result = bootseal("sign", image(token), "--key", name, "--cert", certificate("p256"), stdin="")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_file_that_is_no_pin(token: Path) -> None:
    (token / "pin").write_bytes(b"x" * 100_000)
    more = ("--cert", certificate("p256"), "--passphrase-file", token / "pin")
    assert bootseal("sign", image(token), "--key", uri("p256"), *more).returncode == 65


def test_another_certificate(token: Path) -> None:
    more = ("--cert", certificate("p384"), "--passphrase-file", token / "pin")
    result = bootseal("sign", image(token), "--key", uri("p256"), *more)
    assert (result.returncode, "it does not verify" in result.stderr) == (65, True)


@pytest.mark.parametrize(
    ("name", "rest", "pin"),
    [
        ("pkcs11:a=b", "pkcs11:a=b", None),
        ("pkcs11:a=b?pin-value=x%20y", "pkcs11:a=b", b"x y"),
        ("pkcs11:a=b?pin-value=x&module-path=/m", "pkcs11:a=b?module-path=/m", b"x"),
        ("pkcs11:a=b?module-path=/m&pin-value=x", "pkcs11:a=b?module-path=/m", b"x"),
        ("pkcs11:a=b?pin-value=", "pkcs11:a=b", b""),
        ("pkcs11:a=b?pin-value=x&pin-value=y", "pkcs11:a=b", b"y"),
    ],
)
def test_the_pin_in_a_uri(name: str, rest: str, pin: bytes | None) -> None:
    assert pkcs11._split_pin(name) == (rest, pin)


def test_openssl_without_pkcs11(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (token / "openssl").write_text("#!/bin/sh\nexit 1\n")
    (token / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", str(token))
    more = ("--cert", certificate("p256"), "--passphrase-file", token / "pin")
    result = bootseal("sign", image(token), "--key", uri("p256"), *more)
    assert (result.returncode, "libengine-pkcs11-openssl" in result.stderr) == (69, True)
