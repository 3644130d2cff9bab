# SPDX-License-Identifier: LGPL-2.1-or-later
"""gvariant.py: a{sv} byte for byte as GLib 2.74 serializes it, and as an installed GLib reads it; reading gives it back."""

import hashlib
import importlib
import struct
from typing import Any

import pytest

from bootseal.formats import gvariant

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
    assert gvariant.write_vardict(values).hex() == expected


@pytest.mark.parametrize("size", WIDE)
def test_wide_offsets(size: int) -> None:
    made = gvariant.write_vardict({"k": text("x" * size), "l": TRUE})
    assert hashlib.sha256(made).hexdigest()[:16] == WIDE[size]


@pytest.mark.parametrize("values", [v for v, _ in KNOWN.values()], ids=KNOWN)
def test_glib_reads_it(values: dict[str, tuple[str, bytes]]) -> None:
    try:
        glib: Any = importlib.import_module("gi.repository.GLib")
    except ImportError:
        pytest.skip("no GLib for this Python")
    data = glib.Bytes.new(gvariant.write_vardict(values))
    read = glib.Variant.new_from_bytes(glib.VariantType("a{sv}"), data, False)
    assert read.is_normal_form()
    assert set(read.unpack()) == set(values)


@pytest.mark.parametrize("values", [v for v, _ in KNOWN.values()], ids=KNOWN)
def test_reading_gives_it_back(values: dict[str, tuple[str, bytes]]) -> None:
    assert gvariant.vardict(gvariant.write_vardict(values)) == values


@pytest.mark.parametrize("size", WIDE)
def test_reading_wide_offsets(size: int) -> None:
    values = {"k": text("x" * size), "l": TRUE}
    assert gvariant.vardict(gvariant.write_vardict(values)) == values


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", []), (b"\0\1", [""]), (b"quiet\0rw\0\6\x09", ["quiet", "rw"]), (b"\xff\0\2", ["\udcff"])],
    ids=["none", "empty", "two", "no UTF-8"],
)
def test_strings(data: bytes, words: list[str]) -> None:
    assert gvariant.strings(data) == words


@pytest.mark.parametrize(
    "data",
    [b"\5", b"ab\0\4", b"a\0b\0\4\2\4", b"a\0b\0\2\3", b"ab\2"],
    ids=["table behind the end", "table in the table", "order", "last is not the table", "no end of a string"],
)
def test_strings_refuses(data: bytes) -> None:
    with pytest.raises(gvariant.Malformed):
        gvariant.strings(data)


def test_every_cut_is_read_or_refused() -> None:
    """Never another exception, whatever a cut leaves."""
    whole = gvariant.write_vardict(KNOWN["all"][0])
    for size in range(len(whole)):
        try:
            gvariant.vardict(whole[:size])
        except gvariant.Malformed:
            continue
