# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read and write strict DER (X.690). This module imports nothing of ours and knows no message.

Lengths are definite, minimal, and of at most three bytes. Tags have one byte. The reader never recurses: a caller that wants
to go deeper asks for the items of an item.
"""

from ..namedtuple import NamedTuple

INTEGER, OCTET_STRING, NULL, OID, SEQUENCE, SET = 0x02, 0x04, 0x05, 0x06, 0x30, 0x31
CONTEXT_0, CONTEXT_1 = 0xA0, 0xA1
MAX_ITEMS = 16
# Names of deviations: the bytes are not strict DER; they are, but not the element that the caller asked for.
NOT_DER, STRUCTURE = "not-der", "structure"


class Malformed(ValueError):
    """A deviation from what the caller expects: the text is for people, `name` for programs."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class Item(NamedTuple):
    """One element: its tag byte, its content, and all its bytes as in the input."""

    tag: int
    content: bytes
    raw: bytes


def oid(text: str) -> bytes:
    """Encode the dotted form of an OBJECT IDENTIFIER as the content of its element."""
    first_arc, second_arc, *rest = (int(part) for part in text.split("."))
    encoded = bytes([first_arc * 40 + second_arc])
    for arc in rest:
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.insert(0, arc & 0x7F | 0x80)
        encoded += bytes(septets)
    return encoded


def dotted(content: bytes) -> str:
    """Return the dotted form of the content of an OBJECT IDENTIFIER: the reverse of oid(). Raises Malformed."""
    arcs, arc = list[int](), 0
    for position, byte in enumerate(content):
        if byte == 0x80 and (position == 0 or not content[position - 1] & 0x80):
            raise Malformed("an OBJECT IDENTIFIER that is not minimal", STRUCTURE)
        arc = arc << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(arc)
            arc = 0
    if not content or content[-1] & 0x80:
        raise Malformed("an OBJECT IDENTIFIER that is cut off", STRUCTURE)
    first_arc = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first_arc, arcs[0] - first_arc * 40, *arcs[1:])))


def items(data: bytes) -> list[Item]:
    """Split `data` into the elements that fill it exactly, at most 16. Raises Malformed."""
    read: list[Item] = []
    while data:
        if len(read) == MAX_ITEMS:
            raise Malformed(f"more than {MAX_ITEMS} elements in one place", STRUCTURE)
        item, data = first(data)
        read.append(item)
    return read


def only(data: bytes, tag: int) -> Item:
    """Return the single element, of this tag, that fills `data`. Raises Malformed."""
    item, rest = first(data)
    if item.tag != tag:
        raise Malformed(f"tag 0x{item.tag:02x} where 0x{tag:02x} belongs", STRUCTURE)
    if rest:
        raise Malformed(f"{len(rest)} bytes after the end", STRUCTURE)
    return item


def sequence(item: Item, *tags: int) -> list[Item]:
    """Return the elements of a SEQUENCE that has exactly these tags in this order. Raises Malformed."""
    if item.tag != SEQUENCE:
        raise Malformed(f"tag 0x{item.tag:02x} where a SEQUENCE belongs", STRUCTURE)
    fields = items(item.content)
    if [i.tag for i in fields] != list(tags):
        raise Malformed("elements missing, added, or in another order", STRUCTURE)
    return fields


def unsigned(item: Item) -> int:
    """Return the value of an INTEGER that is minimal and not negative. Raises Malformed."""
    content = minimal(item)
    if content[0] & 0x80:
        raise Malformed("a negative INTEGER", STRUCTURE)
    return int.from_bytes(content, "big")


def minimal(item: Item) -> bytes:
    """Return the content of an INTEGER without redundant leading bytes. Raises Malformed."""
    content = item.content
    if item.tag != INTEGER or not content:
        raise Malformed("no INTEGER", STRUCTURE)
    if len(content) > 1 and ((content[0] == 0 and content[1] < 0x80) or (content[0] == 0xFF and content[1] >= 0x80)):
        raise Malformed("an INTEGER with redundant leading bytes", STRUCTURE)
    return content


def first(data: bytes) -> tuple[Item, bytes]:
    """Split `data` into its first element and the bytes after that. Raises Malformed."""
    if len(data) < 2:
        raise Malformed("ends too early", NOT_DER)
    if data[0] & 0x1F == 0x1F:
        raise Malformed("a tag of more than one byte", NOT_DER)
    start, length = 2, data[1]
    if length >= 0x80:
        start, length = _long_length(data)
    end = start + length
    if end > len(data):
        raise Malformed("ends too early", NOT_DER)
    return Item(data[0], data[start:end], data[:end]), data[end:]


def _long_length(data: bytes) -> tuple[int, int]:
    count = data[1] & 0x7F
    if not 1 <= count <= 3:
        raise Malformed("a length that is indefinite or longer than three bytes", NOT_DER)
    encoded = data[2 : 2 + count]
    length = int.from_bytes(encoded, "big")
    if len(encoded) < count or encoded[0] == 0 or length < 0x80:
        raise Malformed("a length that is cut off or not minimal", NOT_DER)
    return 2 + count, length


def element(tag: int, *content: bytes) -> bytes:
    """Encode one element around others, with a definite and minimal length."""
    body = b"".join(content)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def integer(value: int) -> bytes:
    """Encode an INTEGER that is not negative."""
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
