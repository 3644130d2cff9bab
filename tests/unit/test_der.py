# SPDX-License-Identifier: LGPL-2.1-or-later
"""der.py: strict DER only, bounded, no recursion."""

import pytest

from bootseal.formats import der
from unit.support import oid, tlv

GOOD = {
    "empty": b"",
    "null": b"\x05\x00",
    "short length": b"\x04\x7f" + bytes(127),
    "one length byte": b"\x04\x81\x80" + bytes(128),
    "two length bytes": b"\x04\x82\x01\x00" + bytes(256),
    "three length bytes": b"\x04\x83\x01\x00\x00" + bytes(65536),
    "two elements": b"\x05\x00\x02\x01\x01",
}

BAD = {
    "tag alone": b"\x05",
    "content cut off": b"\x04\x02a",
    "second element cut off": b"\x05\x00\x04\x01",
    "indefinite length": b"\x30\x80\x00\x00",
    "indefinite length, 128 bytes behind it": b"\x30\x80" + bytes(128),
    "reserved length byte": b"\x30\xff" + bytes(300),
    "length of four bytes": b"\x04\x84\x00\x00\x00\x01a",
    "length of four bytes, minimal": b"\x04\x84\x01\x00\x00\x00" + bytes(1 << 24),
    "length of nine bytes": b"\x04\x89" + bytes(8) + b"\x01a",
    "long form below 128": b"\x04\x81\x7f" + bytes(127),
    "leading zero in length": b"\x04\x82\x00\x80" + bytes(128),
    "length byte missing": b"\x04\x81",
    "one of two length bytes": b"\x04\x82\x01",
    "length beyond the end": b"\x04\x83\xff\xff\xff",
    "tag of two bytes": b"\x1f\x81\x00",
    "context tag of two bytes": b"\xbf\x21\x00",
    "17 elements": b"\x05\x00" * 17,
}


@pytest.mark.parametrize("text", ["1.2.3", "1.2.840.113549.1.7.2", "2.16.840.1.101.3.4.2.1", "1.2.127.128.16383.16384.2097152"])
def test_oid(text: str) -> None:
    assert tlv(6, der.oid(text)) == oid(text)


DOTTED = [
    "0.0",
    "0.39",
    "1.0",
    "1.39",
    "2.0",
    "1.2.840.113549.1.1.1",
    "2.5.4.3",
    "2.16.840.1.101.3.4.2.1",
    "1.2.128",
    "1.2.16384",
]


@pytest.mark.parametrize("text", DOTTED)
def test_dotted_is_the_reverse_of_oid(text: str) -> None:
    assert der.dotted(der.oid(text)) == text


@pytest.mark.parametrize(("content", "text"), [("883703", "2.999.3"), ("7f", "2.47"), ("8100", "2.48")])
def test_dotted_reads_the_second_arc_of_joint_iso_itu(content: str, text: str) -> None:
    assert der.dotted(bytes.fromhex(content)) == text


def test_dotted_reads_a_zero_within_a_number() -> None:
    assert der.dotted(bytes.fromhex("2a868048")) == "1.2.98376"


@pytest.mark.parametrize("content", ["", "80", "8001", "2a80", "2a8001", "2a88"])
def test_dotted_refuses(content: str) -> None:
    with pytest.raises(der.Malformed, match="OBJECT IDENTIFIER"):
        der.dotted(bytes.fromhex(content))


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_items_join_to_the_input(data: bytes) -> None:
    assert b"".join(item.raw for item in der.items(data)) == data


def test_item_parts() -> None:
    (item,) = der.items(b"\x04\x03abc")
    assert item == (4, b"abc", b"\x04\x03abc")


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_items_refuses(data: bytes) -> None:
    with pytest.raises(der.Malformed):
        der.items(data)


def test_sixteen_elements_are_allowed() -> None:
    assert len(der.items(b"\x05\x00" * 16)) == 16


def test_only_returns_the_element() -> None:
    assert der.only(b"\x30\x02\x05\x00", der.SEQUENCE).content == b"\x05\x00"


@pytest.mark.parametrize(
    "data",
    [b"\x31\x00", b"\x30\x00\x00", b"\x30\x00\x30\x00", b"", b"\x10\x00"],
    ids=["tag", "byte after", "second", "empty", "primitive"],
)
def test_only_refuses(data: bytes) -> None:
    with pytest.raises(der.Malformed):
        der.only(data, der.SEQUENCE)


@pytest.mark.parametrize(
    ("data", "tags"),
    [
        (tlv(0x31, b"\x05\x00"), [der.NULL]),
        (tlv(0x30, b"\x05\x00"), []),
        (tlv(0x30), [der.NULL]),
        (tlv(0x30, b"\x05\x00\x02\x01\x01"), [der.INTEGER, der.NULL]),
        (tlv(0x30, b"\x05\x00\x05\x00"), [der.NULL]),
    ],
    ids=["a set", "one too many", "missing", "order", "doubled"],
)
def test_sequence_refuses(data: bytes, tags: list[int]) -> None:
    (item,) = der.items(data)
    with pytest.raises(der.Malformed):
        der.sequence(item, *tags)


@pytest.mark.parametrize(
    ("content", "value"), [("00", 0), ("01", 1), ("7f", 127), ("0080", 128), ("00ffff", 65535), ("01" + "00" * 20, 1 << 160)]
)
def test_unsigned(content: str, value: int) -> None:
    (item,) = der.items(tlv(2, bytes.fromhex(content)))
    assert der.unsigned(item) == value


@pytest.mark.parametrize("content", ["", "0001", "007f", "80", "ff", "ff80", "00000080"])
def test_unsigned_refuses(content: str) -> None:
    (item,) = der.items(tlv(2, bytes.fromhex(content)))
    with pytest.raises(der.Malformed):
        der.unsigned(item)


def test_unsigned_refuses_another_tag() -> None:
    with pytest.raises(der.Malformed):
        der.unsigned(der.Item(4, b"\x01", b"\x04\x01\x01"))


@pytest.mark.parametrize("content", ["80", "ff", "ff7f", "0080", "01"])
def test_minimal_keeps_the_sign(content: str) -> None:
    (item,) = der.items(tlv(2, bytes.fromhex(content)))
    assert der.minimal(item) == bytes.fromhex(content)


@pytest.mark.parametrize("content", ["", "ff80", "ffff", "0000", "0001"])
def test_minimal_refuses(content: str) -> None:
    (item,) = der.items(tlv(2, bytes.fromhex(content)))
    with pytest.raises(der.Malformed):
        der.minimal(item)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_element_is_read_back(size: int) -> None:
    (item,) = der.items(der.element(der.OCTET_STRING, bytes(size)))
    assert (item.tag, item.content) == (der.OCTET_STRING, bytes(size))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 1 << 159, 1 << 160])
def test_integer_is_read_back(value: int) -> None:
    (item,) = der.items(der.integer(value))
    assert der.unsigned(item) == value


@pytest.mark.parametrize(
    ("data", "name"), [(b"\x30\x80", "not-der"), (b"\5\0" * 17, "structure")], ids=["length", "too many elements"]
)
def test_the_deviation_has_a_name(data: bytes, name: str) -> None:
    with pytest.raises(der.Malformed) as caught:
        der.items(data)
    assert caught.value.name == name


def test_every_input_of_two_bytes_is_read_or_refused() -> None:
    accepted = []
    for number in range(1 << 16):
        data = number.to_bytes(2, "big")
        try:
            der.items(data)
        except der.Malformed:
            continue
        accepted.append(data)
    # a one-byte tag and a length of nothing: 8 classes of 31 numbers
    assert accepted == [bytes([tag, 0]) for tag in range(256) if tag & 0x1F != 0x1F]


def test_imports_nothing_of_ours() -> None:
    assert not [name for name in vars(der) if name in ("os", "cms", "errors")]
