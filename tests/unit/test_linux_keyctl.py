# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test linux/keyctl.py: the arguments of system calls, /proc/keys, and, as root, real keys."""

import errno
import struct
from pathlib import Path
from typing import Any

import pytest

from bootseal.linux import keyctl
from unit.support import oserror, run_python

# A line of /proc/keys, and the answer of KEYCTL_DESCRIBE for that key.
LINES = {
    "keyring": (
        "3727d9b7 I--Q---     2 perm 1f3f0000     0 65534 keyring   .fs-verity: empty\n",
        (0x3727D9B7, 0x1F3F0000, 0, "keyring", ".fs-verity"),
    ),
    "certificate": (
        "2d9a8507 I--Q---     1 perm 39010000     0     0 asymmetri bootseal:ab12: X509.rsa 2b38d545 []\n",
        (0x2D9A8507, 0x39010000, 0, "asymmetric", "bootseal:ab12"),
    ),
    "user key": (
        "00c6d75c I--Q---     1 5d 3f010000  1000  1000 user      a;b: c: 32\n",
        (0x00C6D75C, 0x3F010000, 1000, "user", "a;b: c"),
    ),
}
DESCRIBED = {expected for _, expected in LINES.values()}


class Keys:
    """A fake /proc/keys, and a kernel that describes only the keys of LINES."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, text: str) -> None:
        (directory / "keys").write_bytes(text.encode())
        real = open

        def open_(path: str, *arguments: Any, **named: Any) -> Any:
            return real(directory / "keys" if path == "/proc/keys" else path, *arguments, **named)

        monkeypatch.setattr("builtins.open", open_)
        monkeypatch.setattr(keyctl, "syscall", self._call)

    def _call(self, _number: int, operation: int, serial: int, buffer: Any, _size: int) -> int:
        assert operation == 6  # KEYCTL_DESCRIBE
        for key, permissions, uid, kind, description in DESCRIBED:
            if key == serial:
                buffer.value = f"{kind};{uid};0;{permissions:08x};{description}".encode()
                return len(buffer.value) + 1
        raise oserror(errno.ENOKEY)


@pytest.mark.parametrize(
    "extra", ["", "zz\nabc: 1\n", "\n", "zzzzzzzz\n", "0000dead I--Q---     1 perm 3f010000     0     0 user gone: 1\n"]
)
def test_listed_keys(extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A malformed line, or one of a key that expired, is skipped."""
    lines = [line for line, _ in LINES.values()]
    Keys(monkeypatch, tmp_path, lines[0] + extra + "".join(lines[1:]))
    assert {tuple(key) for key in keyctl.listed_keys()} == DESCRIBED


@pytest.mark.parametrize(("line", "serial"), [("2d9a8507 I--Q", 0x2D9A8507), ("zz\n", 0), ("", 0)])
def test_serial_of_a_line_is_parsed(line: str, serial: int) -> None:
    assert keyctl._parse_serial(line) == serial


def test_failed_describe_skips_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Keys(monkeypatch, tmp_path, "")
    with pytest.raises(OSError, match="Required key") as caught:
        keyctl.describe(1)
    assert caught.value.errno == errno.ENOKEY


# Unprivileged users may add a key with a newline in its description, which /proc/keys does not escape (Linux 6.18).
FORGED = "05e1f00d I------     1 perm 3f3f0000     0     0 keyring   .fs-verity: empty"


@pytest.mark.root
def test_newline_in_a_description_cannot_fake_a_keyring() -> None:
    code = f"""
from bootseal.linux import keyctl
keyctl.add_key("user", "x\\n" + {FORGED!r}, b"payload", keyctl.PROCESS_KEYRING)
print([key for key in keyctl.listed_keys() if key.serial == 0x05e1f00d])
"""
    assert run_python(code) == "[]\n"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []

    def call(number: int, *arguments: Any) -> int:
        seen.append(arguments)
        return 7

    monkeypatch.setattr(keyctl, "syscall", call)
    return seen


def test_add_key(calls: list[tuple[Any, ...]]) -> None:
    assert keyctl.add_key("user", "name", b"payload", -2) == 7
    keyctl.add_key("keyring", "ring", None, -4)
    assert calls == [(b"user", b"name", b"payload", 7, -2), (b"keyring", b"ring", None, 0, -4)]


def test_operations_reach_the_kernel(calls: list[tuple[Any, ...]]) -> None:
    keyctl.set_permissions(1, 0x08030000)
    keyctl.link(2, 3)
    keyctl.restrict(4)
    assert calls == [(5, 1, 0x08030000), (8, 2, 3), (29, 4, None, None)]


def test_buffer_holds_the_longest_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    """KEYCTL_READ does not fill a buffer that is too short."""
    sizes: list[int] = []

    def call(_number: int, _operation: int, _key: int, buffer: Any, size: int) -> int:
        sizes.extend((len(buffer), size))
        return 0

    monkeypatch.setattr(keyctl, "syscall", call)
    assert keyctl.read(1) == b""
    assert sizes == [32767, 32767]


def test_verify_signature_packs_its_parameters(calls: list[tuple[Any, ...]]) -> None:
    keyctl.verify_signature(5, "enc=pkcs1 hash=sha256", b"d" * 32, b"s" * 256)
    assert calls == [(28, struct.pack("=iII7I", 5, 32, 256, *[0] * 7), b"enc=pkcs1 hash=sha256", b"d" * 32, b"s" * 256)]


@pytest.mark.root
def test_real_keys() -> None:
    code = """
from bootseal.linux import keyctl
ring = keyctl.add_key("keyring", "unit", None, keyctl.PROCESS_KEYRING)
assert keyctl.members(ring) == ()
key = keyctl.add_key("user", "unit key", b"payload", keyctl.PROCESS_KEYRING)
keyctl.link(key, ring)
assert keyctl.members(ring) == (key,)
assert keyctl.read(key) == b"payload"
keyctl.set_permissions(key, 0x3f010000)
assert (key, 0x3f010000, 0, "user", "unit key") in [tuple(k) for k in keyctl.listed_keys()]
keyctl.restrict(ring)
try: keyctl.restrict(ring)
except FileExistsError: print("restricted")
try: keyctl.add_key("user", "another", b"x", ring)
except PermissionError as error: print(error.errno)
"""
    assert run_python(code).splitlines() == ["restricted", str(errno.EPERM)]
