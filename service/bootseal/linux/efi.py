# SPDX-License-Identifier: LGPL-2.1-or-later
"""EFI variables about how this kernel was started; see efivarfs in the kernel's documentation, and systemd-stub(7)."""

VARIABLES = "/sys/firmware/efi/efivars"
SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SETUP_MODE = "SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c"
SHIM_INSECURE = "MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23"  # as 'mokutil --disable-validation' sets it
STUB_INFO = "StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_ATTRIBUTES = 4  # bytes, little endian, before the value
_NON_VOLATILE = 0x1


def secure_boot(variables: str = VARIABLES) -> bool:
    """Tell whether Secure Boot is on and enforced: without setup mode, and shim validates. Raises OSError."""
    on = _read(f"{variables}/{SECURE_BOOT}")[_ATTRIBUTES:] == b"\1"
    return on and not _is_set(f"{variables}/{SETUP_MODE}") and not shim_insecure(variables)


def shim_insecure(variables: str = VARIABLES) -> bool:
    """Tell whether shim reports that it validates nothing. Raises OSError."""
    return _is_set(f"{variables}/{SHIM_INSECURE}")


def stub(variables: str = VARIABLES) -> str:
    """Return name and version of the stub that started kernel and initrd from one file; empty if none. Raises OSError.

    The stub sets the variable for one boot. A running system could only have made one that lasts, which proves nothing.
    """
    data = _read(f"{variables}/{STUB_INFO}")
    if int.from_bytes(data[:_ATTRIBUTES], "little") & _NON_VOLATILE:
        return ""
    return data[_ATTRIBUTES::2].decode("latin-1").rstrip("\0")  # UTF-16, whose codec an initrd lacks


def _is_set(path: str) -> bool:
    """Tell whether a variable exists with another value than 0. Raises OSError."""
    try:
        return _read(path)[_ATTRIBUTES:] != b"\0"
    except FileNotFoundError:
        return False


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
