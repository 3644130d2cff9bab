# SPDX-License-Identifier: LGPL-2.1-or-later
"""linux/efi.py: the value of each variable; test_origin.py has the tables of what they vouch for."""

from pathlib import Path

import pytest

from bootseal.linux import efi


def variables(directory: Path, **values: bytes) -> str:
    for name, value in values.items():
        (directory / getattr(efi, name)).write_bytes(value)
    return str(directory)


def test_secure_boot_is_on(tmp_path: Path) -> None:
    assert efi.secure_boot(variables(tmp_path, SECURE_BOOT=b"\6\0\0\0\1"))


@pytest.mark.parametrize("name", ["SETUP_MODE", "SHIM_INSECURE"])
@pytest.mark.parametrize(("value", "on"), [(b"\6\0\0\0\0", True), (b"\6\0\0\0\1", False), (b"", False)])
def test_secure_boot_is_not_enforced(name: str, value: bytes, *, on: bool, tmp_path: Path) -> None:
    assert efi.secure_boot(variables(tmp_path, SECURE_BOOT=b"\6\0\0\0\1", **{name: value})) is on


def test_missing_secure_boot_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        efi.secure_boot(str(tmp_path))


@pytest.mark.parametrize(("attributes", "name"), [(b"\6\0\0\0", "stub 1"), (b"\7\0\0\0", "")], ids=["volatile", "lasting"])
def test_stub_counts_only_from_a_volatile_variable(attributes: bytes, name: str, tmp_path: Path) -> None:
    assert efi.stub(variables(tmp_path, STUB_INFO=attributes + "stub 1\0".encode("utf-16-le"))) == name
