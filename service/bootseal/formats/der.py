# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bounded, iterative reader of strict DER (X.690). Imports nothing; knows no structure.

Definite, minimal lengths of at most three bytes; one-byte tags; nothing after the last element. It never recurses: who
wants to go deeper asks for the items of an item.
"""

from typing import NamedTuple

INTEGER, OCTET_STRING, NULL, OID, SEQUENCE, SET = 0x02, 0x04, 0x05, 0x06, 0x30, 0x31
CONTEXT_0, CONTEXT_1 = 0xA0, 0xA1
MAX_ITEMS = 16


class Malformed(ValueError):
    """Not strict DER, or not the element that was asked for. The text is for people and names no bytes."""


class Item(NamedTuple):
    """One element: its tag byte, its content, and the whole of it as it stands in the input."""

    tag: int
    content: bytes
    raw: bytes


def oid(text: str) -> bytes:
    """The content of an OBJECT IDENTIFIER, from its dotted form."""
    first, second, *rest = (int(part) for part in text.split("."))
    encoded = bytes([first * 40 + second])
    for arc in rest:
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.insert(0, arc & 0x7F | 0x80)
        encoded += bytes(septets)
    return encoded


def items(data: bytes) -> list[Item]:
    """The elements that follow each other in `data`, which they must fill exactly. At most 16."""
    found: list[Item] = []
    while data:
        if len(found) == MAX_ITEMS:
            raise Malformed(f"more than {MAX_ITEMS} elements in one place")
        item, data = _first(data)
        found.append(item)
    return found


def only(data: bytes, tag: int) -> Item:
    """The single element that fills `data`, of this tag."""
    item, rest = _first(data)
    if item.tag != tag:
        raise Malformed(f"tag 0x{item.tag:02x} where 0x{tag:02x} belongs")
    if rest:
        raise Malformed(f"{len(rest)} bytes after the end")
    return item


def sequence(item: Item, *tags: int) -> list[Item]:
    """The elements of a SEQUENCE that has exactly these tags in this order."""
    if item.tag != SEQUENCE:
        raise Malformed(f"tag 0x{item.tag:02x} where a SEQUENCE belongs")
    found = items(item.content)
    if [i.tag for i in found] != list(tags):
        raise Malformed("elements missing, added, or in another order")
    return found


def unsigned(item: Item) -> int:
    """The value of an INTEGER that is minimal and not negative."""
    content = minimal(item)
    if content[0] & 0x80:
        raise Malformed("a negative INTEGER")
    return int.from_bytes(content, "big")


def minimal(item: Item) -> bytes:
    """The content bytes of an INTEGER, negative or not, without redundant leading bytes."""
    content = item.content
    if item.tag != INTEGER or not content:
        raise Malformed("no INTEGER")
    if len(content) > 1 and ((content[0] == 0 and content[1] < 0x80) or (content[0] == 0xFF and content[1] >= 0x80)):
        raise Malformed("an INTEGER with redundant leading bytes")
    return content


def _first(data: bytes) -> tuple[Item, bytes]:
    if len(data) < 2:
        raise Malformed("ends too early")
    if data[0] & 0x1F == 0x1F:
        raise Malformed("a tag of more than one byte")
    start, length = 2, data[1]
    if length >= 0x80:
        start, length = _long_length(data)
    end = start + length
    if end > len(data):
        raise Malformed("ends too early")
    return Item(data[0], data[start:end], data[:end]), data[end:]


def _long_length(data: bytes) -> tuple[int, int]:
    count = data[1] & 0x7F
    if not 1 <= count <= 3:
        raise Malformed("a length that is indefinite or longer than three bytes")
    encoded = data[2 : 2 + count]
    length = int.from_bytes(encoded, "big")
    if len(encoded) < count or encoded[0] == 0 or length < 0x80:
        raise Malformed("a length that is cut off or not minimal")
    return 2 + count, length
