# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal import: what openssl and fsverity make, in every encoding and in image layouts, becomes what the boot takes."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal.formats import pkcs7
from bootseal.host.commands import import_
from bootseal.host.output import Failure

from .imports import imported, openssl
from .program import VECTORS, beside, bootseal, certificate, key, signed, tool


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048"])
@pytest.mark.parametrize("options", [("-noattr", "-nocerts"), ("-noattr",)], ids=["bare", "certificates-inside"])
def test_what_openssl_makes(path: Path, kind: str, options: tuple[str, ...]) -> None:
    status, said, error = imported(openssl(path, *options, kind=kind), path, kind=kind)
    assert (status, error) == (0, "")
    assert said["files"] == [f"{path}.digest", f"{path}.sig"]
    assert pkcs7.deviations(beside(path)[1]) == []
    assert bootseal("verify", f"--image={path}", f"--cert={certificate(kind)}").returncode == 0


def _pem(path: Path) -> bytes:
    return openssl(path, "-noattr", form="PEM").read_bytes()


def _own(path: Path) -> bytes:
    signed(path, "--key", key("p256"), "--cert", certificate("p256"))
    return beside(path)[1]


ENCODINGS: dict[str, Callable[[Path], bytes]] = {
    "pem": _pem,
    "pem-after-text": lambda path: b"A text\n" + _pem(path),
    "pem-pkcs7": lambda path: _pem(path).replace(b"CMS", b"PKCS7"),
    "base64": lambda path: base64.b64encode(openssl(path, "-noattr").read_bytes()),
    "base64-in-lines": lambda path: base64.encodebytes(openssl(path, "-noattr").read_bytes()),
    "trailing": lambda path: openssl(path, "-noattr").read_bytes() + b"\0",
    "own": _own,
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_encodings(path: Path, encode: Callable[[Path], bytes]) -> None:
    source = path.with_name("source")
    source.write_bytes(encode(path))
    assert imported(source, path)[0] == 0
    assert pkcs7.deviations(beside(path)[1]) == []


def test_a_digest_instead_of_the_image(path: Path) -> None:
    signed(path, "--key", key("p256"), "--cert", certificate("p256"))
    source = openssl(path, "-noattr")
    path.unlink()
    assert imported(source, path, by="digest")[0] == 0
    assert bootseal("import", source, f"--digest={source}", f"--cert={certificate('p256')}").returncode == 64


REFUSED: dict[str, tuple[Callable[[Path], object], int, str, str]] = {
    "attributes": (openssl, 65, "bad-signature", "sign again without attributes (openssl: -noattr)"),
    "content-inside": (lambda path: openssl(path, "-noattr", "-nodetach"), 65, "bad-signature", "must be detached"),
    "stranger": (lambda path: openssl(path, "-noattr", kind="p384"), 77, "untrusted-signer", "theirs"),
    "junk": (lambda path: path.with_name("tbs"), 65, "", "neither DER nor PEM nor base64"),
    "absent": (lambda path: path.with_name("absent"), 74, "", "No such file"),
}


@pytest.mark.parametrize(("make", "status", "verdict", "what"), REFUSED.values(), ids=REFUSED)
def test_refused(path: Path, make: Callable[[Path], object], status: int, verdict: str, what: str) -> None:
    found, said, error = imported(make(path), path)
    assert (found, said.get("verdict", "")) == (status, verdict)
    assert what in error
    assert not Path(f"{path}.sig").exists()


def test_the_natural_mistake_has_a_name(path: Path, tmp_path: Path) -> None:
    """'fsverity sign IMAGE' signs the image's digest, where the boot by default wants that of the digest file."""
    tool("fsverity", "sign", path, tmp_path / "theirs", f"--key={key('p256')}", f"--cert={certificate('p256')}")
    status, said, error = imported(tmp_path / "theirs", path)
    assert (status, said["form"]) == (0, "image")
    assert "the boot accepts it with [Policy] Signed=image" in error
    refused = bootseal("verify", f"--image={path}", f"--cert={certificate('p256')}")
    assert refused.returncode == 77
    assert "is over the image's own digest, not over that of the digest file" in refused.stderr
    assert "hint: sign with 'bootseal sign', or run 'fsverity sign' on IMAGE.digest instead of IMAGE" in refused.stderr


@pytest.mark.parametrize("options", [["--image=x"], ["--cert=c"], ["--image=x", "--digest=d", "--cert=c"]], ids=" ".join)
def test_usage(path: Path, options: list[str]) -> None:
    assert bootseal("import", path, *options).returncode == 64


def test_many_beginnings_take_no_time() -> None:
    """In quadratic time, this would take an hour of the processor, and the limit of the tests would end it."""
    with pytest.raises(Failure, match="neither DER nor PEM nor base64"):
        import_._decode("theirs", b"-----BEGIN PKCS7-----\n" * 120_000)


@pytest.mark.parametrize("command", ["import", "verify"])
@pytest.mark.parametrize("keys", ["missing", "image.cfs"])
def test_a_directory_of_keys_that_is_none(path: Path, command: str, keys: str) -> None:
    signature = openssl(path, "-noattr", "-nocerts")
    more = (signature, f"--image={path}") if command == "import" else (f"--signature={signature}", f"--image={path}")
    result = bootseal(command, *more, f"--keys={path.parent / keys}")
    assert (result.returncode, "Failed to read the certificates in" in result.stderr) == (74, True)


def test_a_sha512_image(path: Path) -> None:
    signed(path, "--key", key("p256"), "--cert", certificate("p256"), "--algorithm=sha512")
    value, signature = beside(path)
    path.with_name("theirs").write_bytes(signature)
    for name in (f"{path}.digest", f"{path}.sig"):
        os.unlink(name)
    arguments = ("import", path.with_name("theirs"), f"--image={path}", f"--cert={certificate('p256')}")
    assert bootseal(*arguments).returncode == 77
    assert bootseal(*arguments, "--algorithm=sha512").returncode == 0
    assert beside(path) == (value, signature)


# 'systemd-keyutil pkcs7' of systemd 262 made it of the bare signature, by the vectors' key p256, of the image below.
KEYUTIL = base64.b64decode(
    "MIICQAYJKoZIhvcNAQcCoIICMTCCAi0CAQExDzANBglghkgBZQMEAgEFADALBgkqhkiG9w0BBwGgggFkMIIBYDCCAQWgAwIBAgIU"
    "bH5ztsejdyzILtXqkCqDKQgAv7UwCgYIKoZIzj0EAwIwHTEbMBkGA1UEAwwSYm9vdHNlYWwgdGVzdCBwMjU2MCAXDTIwMDEwMTAw"
    "MDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAdMRswGQYDVQQDDBJib290c2VhbCB0ZXN0IHAyNTYwWTATBgcqhkjOPQIBBggqhkjOPQMB"
    "BwNCAAQZIsw6b8Q1Vv1foLGu6GaMfRsqf3LMX4sJtcgUSs/P/Ah14slEQxfhh3f856JRp9DlzEd5Lh6r4EAeO6ZvmiDmoyEwHzAd"
    "BgNVHQ4EFgQUSJpp6r/pPWXAC/J66+xabi4MOO8wCgYIKoZIzj0EAwIDSQAwRgIhAKThYly52n1W1xglEur+l3wR9dmWrVpXEoEb"
    "qMrdu9GIAiEA/cEpjeQGtAlC+XENcz9Sg0hIy1g+0Hq1BtLtsH26Et4xgaEwgZ4CAQEwNTAdMRswGQYDVQQDDBJib290c2VhbCB0"
    "ZXN0IHAyNTYCFGx+c7bHo3csyC7V6pAqgykIAL+1MA0GCWCGSAFlAwQCAQUAMAsGByqGSM49AgEFAARGMEQCIEZzKRQ7MmAnAgB4"
    "FsrIPRELWT5Wo2hpZT7JaVtWO7jmAiAf4i7fKJ2zZ9bLJjXJ3KC4167pkjHz1t/ktmyAXlBGyg=="
)


def test_what_systemd_keyutil_makes(path: Path) -> None:
    path.write_bytes(bytes(20_000))
    path.with_name("theirs").write_bytes(KEYUTIL)
    trusted = f"--cert={VECTORS / 'certs/p256.pem'}"
    arguments = (path.with_name("theirs"), f"--image={path}", trusted)
    assert bootseal("import", *arguments).returncode == 0
    assert bootseal("verify", f"--image={path}", trusted).returncode == 0
    path.with_name("theirs").write_bytes(KEYUTIL[:-1] + bytes([KEYUTIL[-1] ^ 1]))
    assert bootseal("import", *arguments).returncode == 77
