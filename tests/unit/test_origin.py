# SPDX-License-Identifier: LGPL-2.1-or-later
"""stages/origin.py: variables, credentials and extensions in directories of the test."""

from pathlib import Path

import pytest

from bootseal.linux import efi
from bootseal.stages import origin

ON, OFF = b"\6\0\0\0\1", b"\6\0\0\0\0"


def info(text: str, attributes: bytes = b"\6\0\0\0") -> bytes:
    return attributes + f"{text}\0".encode("utf-16-le")


STUB = info("systemd-stub 257.13-1")
GOOD = {efi.SECURE_BOOT: ON, efi.SETUP_MODE: OFF, efi.STUB_INFO: STUB}
NOBODY = ["initrd", "kernel command line"]
INITRD = ["kernel command line (not known)"]
IMAGE = ["initrd (not known)", "kernel command line (not known)"]


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({}, INITRD),
        ({efi.SETUP_MODE: None}, INITRD),
        ({efi.SETUP_MODE: ON}, NOBODY),
        ({efi.SHIM_INSECURE: OFF}, INITRD),
        ({efi.SHIM_INSECURE: ON}, NOBODY),
        ({efi.SHIM_INSECURE: b"\7\0\0\0\1"}, NOBODY),
        ({efi.SHIM_INSECURE: b"\6\0\0\0"}, NOBODY),
        ({efi.SHIM_INSECURE: b"\6\0\0\0\0\1"}, NOBODY),
        ({efi.SECURE_BOOT: OFF}, NOBODY),
        ({efi.SECURE_BOOT: None}, NOBODY),
        ({efi.STUB_INFO: info("systemd-stub 257", b"\7\0\0\0")}, NOBODY),  # lasts: made by a running system
        ({efi.STUB_INFO: b"\6\0\0\0"}, NOBODY),
        ({efi.STUB_INFO: info("")}, NOBODY),
        ({efi.STUB_INFO: b""}, NOBODY),
        ({efi.STUB_INFO: None}, NOBODY),
        ({efi.STUB_INFO: info("systemd-stub 252.39-1~deb12u2")}, INITRD),
        ({efi.STUB_INFO: info("systemd-stub 260")}, INITRD),
        ({efi.STUB_INFO: info("systemd-stub 261~devel")}, IMAGE),
        ({efi.STUB_INFO: info("systemd-stub 262~rc1-1")}, IMAGE),
        ({efi.STUB_INFO: info("systemd-stub 1000")}, IMAGE),
        ({efi.STUB_INFO: info("systemd-stub 26")}, IMAGE),
        ({efi.STUB_INFO: info("systemd-stub " + "9" * 5000)}, IMAGE),
        ({efi.STUB_INFO: info("systemd-stub")}, IMAGE),
        ({efi.STUB_INFO: info("another-stub 257")}, IMAGE),
        ({efi.STUB_INFO: b"\6\0\0\0s"}, IMAGE),
    ],
    ids=[
        "good", "no-setup-mode", "setup-mode", "shim-validates", "shim", "shim-lasting", "shim-empty", "shim-longer", "off",
        "no-secure-boot", "lasting", "no-value", "no-text", "empty", "no-stub", "252", "260", "261", "262", "1000", "26",
        "huge", "no-version", "another", "odd",
    ],
)  # fmt: skip
def test_secure_boot_and_stub_vouch_for_the_initrd(changes: dict[str, bytes | None], listed: list[str], tmp_path: Path) -> None:
    for name, content in (GOOD | changes).items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    assert origin.unauthenticated(str(tmp_path)) == listed


@pytest.mark.parametrize("name", [*GOOD, efi.SHIM_INSECURE])
def test_unreadable_variable_vouches_for_nothing(name: str, tmp_path: Path) -> None:
    for other, content in GOOD.items():
        if other != name:
            (tmp_path / other).write_bytes(content)
    (tmp_path / name).mkdir()
    assert origin.unauthenticated(str(tmp_path)) == NOBODY


@pytest.mark.parametrize(
    ("places", "listed"),
    [
        ([], []),
        (["extra/profile", "extra/os-release", "imported/bootseal.service"], []),
        (["extra/credentials"], ["system credentials"]),
        (["extra/global_credentials"], ["system credentials"]),
        (["imported/@system"], ["system credentials"]),
        (["imported/@encrypted"], ["system credentials"]),
        (["extra/sysext"], ["initrd extensions"]),
        (["extra/global_sysext"], ["initrd extensions"]),
        (["extra/confext"], ["initrd extensions"]),
        (["extra/global_confext"], ["initrd extensions"]),
        (["extra/sysext", "extra/credentials", "imported/@encrypted"], ["system credentials", "initrd extensions"]),
    ],
    ids=lambda value: "+".join(value) or "none",
)
def test_credentials_and_extensions_are_listed(
    places: list[str], listed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in places:
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(origin, "_EXTRA", str(tmp_path / "extra"))
    monkeypatch.setattr(origin, "_IMPORTED", str(tmp_path / "imported"))
    monkeypatch.setattr(origin, "unauthenticated", lambda: list(NOBODY))
    assert origin.look().unauthenticated == (*NOBODY, *listed)


def test_unreadable_directory_counts_as_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for name in ("_EXTRA", "_IMPORTED"):
        monkeypatch.setattr(origin, name, str(tmp_path / "file"))
    assert origin.look().unauthenticated[-2:] == ("system credentials", "initrd extensions")
