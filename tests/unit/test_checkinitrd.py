# SPDX-License-Identifier: LGPL-2.1-or-later
"""checkinitrd.py: a build fails where a boot would, and on any certificate that a boot would skip."""

import os
from pathlib import Path

import pytest

from bootseal import checkinitrd, libcrypto
from bootseal.stages import config, keyring
from bootseal.values import BootKeyring
from unit.support import VECTORS, policy, trusting


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let config.py look below this directory instead of /."""
    load, certificates, voa = config.load, config.certificates, config.voa
    monkeypatch.setattr(config, "load", lambda: load(str(tmp_path)))
    monkeypatch.setattr(config, "certificates", lambda _, *arguments: certificates(str(tmp_path), *arguments))
    monkeypatch.setattr(config, "voa", lambda _, name: voa(str(tmp_path), name))
    keys = tmp_path / "etc/bootseal/keys.d"
    keys.mkdir(parents=True)
    add(tmp_path, "p256.der")
    return tmp_path


def add(tree: Path, name: str) -> None:
    (tree / "etc/bootseal/keys.d" / name).write_bytes((VECTORS / "certs" / name).read_bytes())


@pytest.mark.parametrize("on_refusal", ["emergency", "reboot", "poweroff"])
def test_good(on_refusal: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "etc/bootseal/bootseal.conf").write_text(f"[Policy]\nOnRefusal={on_refusal}\n")
    assert checkinitrd.check() == 0
    assert capsys.readouterr() == (f"{on_refusal} FS_VERITY EROFS_FS OVERLAY_FS\n", "")


@pytest.mark.parametrize(
    ("enroll", "more"),
    [
        ("Required=yes", " FS_VERITY_BUILTIN_SIGNATURES ASYMMETRIC_PUBLIC_KEY_SUBTYPE"),
        ("Required=yes\nMethod=none", ""),
        ("Method=fsverity", ""),
    ],
)
def test_kernel_options(enroll: str, more: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "etc/bootseal/bootseal.conf").write_text(f"[Enroll]\n{enroll}\n")
    assert checkinitrd.check() == 0
    assert capsys.readouterr().out == f"emergency FS_VERITY EROFS_FS OVERLAY_FS{more}\n"


@pytest.mark.parametrize("name", ["rsa1024.der", "odd-key-in-cert.pem", "odd-trailing.der", "p256-eku-server.der"])
def test_a_certificate_that_a_boot_would_skip(name: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tree, name)
    assert checkinitrd.check() == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert name in err
    assert err.count("\n") == 1


def test_no_certificate(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.unlink(tree / "etc/bootseal/keys.d/p256.der")
    assert checkinitrd.check() == 78
    assert "no usable certificate" in capsys.readouterr().err


def test_library_that_fails_its_self_test(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libcrypto, "verify", lambda *_: True)
    assert checkinitrd.check() == 70
    assert capsys.readouterr().err == f"the verifier of signatures fails its self-test: {libcrypto.PATH}\n"


def test_bad_configuration(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "etc/bootseal/bootseal.conf").write_text("[Policy]\nOnrefusal=reboot\n")
    assert checkinitrd.check() == 78
    assert "Onrefusal" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["p256.pem", "rsa1024.pem", None])
def test_certificates_of_voa(name: str | None, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "etc/bootseal/bootseal.conf").write_text("[Keyring]\nVOA=os\n")
    directory = tree / "usr/share/voa/os/kernel-keyring/fs-verity/x509"
    directory.mkdir(parents=True)
    if name:
        (directory / "a-certificate.pem").write_bytes((VECTORS / "certs" / name).read_bytes())
    assert checkinitrd.check() == (0 if name == "p256.pem" else 78)
    said = {
        "p256.pem": "",
        "rsa1024.pem": f"no usable certificate: {directory}/a-certificate.pem: ",
        None: "[Keyring] VOA=os: ",
    }
    err = capsys.readouterr().err
    assert err.startswith(said[name])
    assert err.count("\n") == (name != "p256.pem")


def test_it_reads_what_a_boot_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(config, "load", lambda: policy(voa="os"))
    monkeypatch.setattr(config, "voa", lambda *_: ["x"])

    def certificates(*arguments: object) -> list[str]:
        asked.append(arguments)
        return []

    monkeypatch.setattr(config, "certificates", certificates)
    monkeypatch.setattr(keyring, "load", lambda _: BootKeyring(trusting("p256").certificates, ()))
    assert checkinitrd.check() == 0
    assert asked == [("/", "bootseal/keys.d", (".crt", ".pem", ".cer", ".der"), "os")]
