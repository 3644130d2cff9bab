# SPDX-License-Identifier: LGPL-2.1-or-later
"""booted.py: a{sv} byte for byte as GLib 2.74 serializes it, and as the installed one does where there is one."""

import errno
import hashlib
import importlib
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from bootseal.linux import blockdev
from bootseal.stages import ostreebooted
from unit.support import deployment, oserror, policy

TRUE, FALSE = ("b", b"\1"), ("b", b"\0")
DEVICE = ("(tt)", struct.pack("=QQ", 0xFD01, (1 << 40) + 3))
FLAGS = {
    "root.transient": FALSE, "root.transient-ro": FALSE, "composefs": TRUE, "composefs.verity": TRUE, "sysroot-ro": TRUE,
}  # fmt: skip


def text(value: str) -> tuple[str, bytes]:
    return "s", value.encode() + b"\0"


KNOWN: dict[str, tuple[dict[str, tuple[str, bytes]], str]] = {
    "empty": ({}, ""),
    "one boolean": ({"composefs": TRUE}, "636f6d706f73656673000000000000000100620a14"),
    "string": (
        {"transient-etc": text("/run/ostree/transient-etc.abc")},
        "7472616e7369656e742d6574630000002f72756e2f6f73747265652f7472616e7369656e742d6574632e6162630000730e31",
    ),
    "pair": (
        {"backing-root-device-inode": ("(tt)", struct.pack("=QQ", 2049, 131073))},
        "6261636b696e672d726f6f742d6465766963652d696e6f6465000000000000000108000000000000010002000000000000287474291a36",
    ),
    "all": (
        {"backing-root-device-inode": DEVICE, **FLAGS},
        "6261636b696e672d726f6f742d6465766963652d696e6f64650000000000000001fd000000000000030000000001000000287474291a0000726f6f742e"
        "7472616e7369656e7400000000620f00000000726f6f742e7472616e7369656e742d726f000000000000000000621200000000636f6d706f7365667300"
        "0000000000000100620a00000000636f6d706f736566732e76657269747900000000000000000100621100000000737973726f6f742d726f0000000000"
        "000100620b364c6c84a4bc",
    ),
    "all, and a transient /etc": (
        {"backing-root-device-inode": DEVICE, **FLAGS, "transient-etc": text("/run/ostree/transient-etc.0123456789ab")},
        "6261636b696e672d726f6f742d6465766963652d696e6f64650000000000000001fd000000000000030000000001000000287474291a0000726f6f742e"
        "7472616e7369656e7400000000620f00000000726f6f742e7472616e7369656e742d726f000000000000000000621200000000636f6d706f7365667300"
        "0000000000000100620a00000000636f6d706f736566732e76657269747900000000000000000100621100000000737973726f6f742d726f0000000000"
        "000100620b000000007472616e7369656e742d6574630000002f72756e2f6f73747265652f7472616e7369656e742d6574632e30313233343536373839"
        "61620000730e36004c006c008400a400bc00fa00",
    ),
}
# Framing offsets get wider: SHA-256 of {"k": a string of so many x, "l": true}.
WIDE = {
    200: "40ab6d9e5a7303d1", 230: "6c3aa446172c5ed6", 240: "adc5891515ba2a23", 245: "9d9a84590aacc8a2",
    246: "be086d5c42ebbc9b", 247: "c3cc73458d2819d5", 248: "64980eeb3b0dfa90", 250: "e55ce2871040e12b",
    65000: "4761bd8a7582a109", 65500: "371d79bdc75bff19", 70000: "ae3a57eaf3bfe137",
}  # fmt: skip


@pytest.mark.parametrize(("values", "expected"), KNOWN.values(), ids=KNOWN)
def test_known_answer(values: dict[str, tuple[str, bytes]], expected: str) -> None:
    assert ostreebooted.vardict(values).hex() == expected


@pytest.mark.parametrize("size", WIDE)
def test_wide_offsets(size: int) -> None:
    made = ostreebooted.vardict({"k": text("x" * size), "l": TRUE})
    assert hashlib.sha256(made).hexdigest()[:16] == WIDE[size]


@pytest.mark.parametrize("values", [v for v, _ in KNOWN.values()], ids=KNOWN)
def test_glib_reads_it(values: dict[str, tuple[str, bytes]]) -> None:
    try:
        glib: Any = importlib.import_module("gi.repository.GLib")
    except ImportError:
        pytest.skip("no GLib for this Python")
    data = glib.Bytes.new(ostreebooted.vardict(values))
    read = glib.Variant.new_from_bytes(glib.VariantType("a{sv}"), data, False)
    assert read.is_normal_form()
    assert set(read.unpack()) == set(values)


@pytest.mark.parametrize("transient_ro", [False, True])
@pytest.mark.parametrize("transient_etc", ["", "/run/ostree/transient-etc.abc"])
def test_serialize(transient_etc: str, *, transient_ro: bool, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    found = os.stat(tmp_path)
    config = policy().root._replace(root_transient=transient_ro, sysroot_readonly=not transient_ro)
    flag = TRUE if transient_ro else FALSE
    expected = {
        "backing-root-device-inode": ("(tt)", struct.pack("=QQ", found.st_dev, found.st_ino)),
        "root.transient": flag,
        "root.transient-ro": flag,
        "composefs": TRUE,
        "composefs.verity": TRUE,
        "sysroot-ro": FALSE if transient_ro else TRUE,
    } | ({"transient-etc": text(transient_etc)} if transient_etc else {})
    assert ostreebooted.serialize(deployment(fd=fd), config, transient_etc) == ostreebooted.vardict(expected)
    os.close(fd)


def test_a_writable_transient_root_is_not_called_read_only(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    config = policy().root._replace(root_transient=True, root_readonly=False)
    made = ostreebooted.serialize(deployment(fd=fd), config, "")
    assert b"root.transient\0\0\1\0b" in made
    assert b"root.transient-ro\0\0\0\0\0\0\0\0\0b" in made
    os.close(fd)


DEVICES = [(os.makedev(252, 3), ["/dev/block/252:3"]), (oserror(errno.ENODEV), [])]


@pytest.mark.parametrize(("device", "links"), DEVICES, ids=["one-device", "several-devices"])
def test_write_and_remove(device: int | OSError, links: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ostreebooted, "PATH", str(tmp_path / "ostree-booted"))
    monkeypatch.setattr(ostreebooted, "_VOLATILE_ROOT", str(tmp_path / "volatile-root"))
    monkeypatch.setattr(ostreebooted, "_SYSROOT", str(tmp_path))
    asked: list[str] = []

    def number(fd: int) -> int:
        asked.append(os.readlink(f"/proc/self/fd/{fd}"))
        if isinstance(device, OSError):
            raise device
        return device

    monkeypatch.setattr(blockdev, "number", number)
    ostreebooted.write(b"content")
    assert (tmp_path / "ostree-booted").read_bytes() == b"content"
    assert asked == [str(tmp_path)]
    assert [os.readlink(tmp_path / name) for name in os.listdir(tmp_path) if name == "volatile-root"] == links
    ostreebooted.remove()
    assert os.listdir(tmp_path) == []
    ostreebooted.remove()
