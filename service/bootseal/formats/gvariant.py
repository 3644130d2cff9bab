# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read and write the GVariant types of ostree that bootseal needs: a{sv} and as, little-endian, and the first of a tuple.

https://docs.gtk.org/glib/gvariant-specification-1.0.html
"""


class Malformed(ValueError):
    """Not a serialized value of the type that the caller expects."""


def vardict(data: bytes) -> dict[str, tuple[str, bytes]]:
    """Return {key: (type, serialized value)} of an a{sv}. Raises Malformed."""
    values, start = {}, 0
    for end in _find_ends(data):
        entry = data[start + -start % 8 : end]
        name_end = _read_number(entry[-_choose_width(len(entry)) :])
        value = entry[name_end + -name_end % 8 : len(entry) - _choose_width(len(entry))]
        content, _, kind = value.rpartition(b"\0")
        values[string(entry[:name_end])] = (kind.decode("ascii", "replace"), content)
        start = end
    return values


def first_of_tuple(data: bytes) -> bytes:
    """Return the first member of a tuple. It and a later member must have a variable size. Raises Malformed."""
    width = _choose_width(len(data))
    end = _read_number(data[-width:])  # the table has the ends in reverse order
    if not data or end > len(data) - width:
        raise Malformed("a tuple whose table does not fit")
    return data[:end]


def strings(data: bytes) -> list[str]:
    """Return the strings of an as. Raises Malformed."""
    ends = _find_ends(data)
    return [string(data[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def string(data: bytes) -> str:
    """Return the text of an s. Raises Malformed."""
    if data[-1:] != b"\0":
        raise Malformed("a string without an end")
    return data[:-1].decode(errors="surrogateescape")


def write_vardict(values: dict[str, tuple[str, bytes]]) -> bytes:
    """Serialize {key: (type, serialized value)} as a{sv}. Entries begin at multiples of 8."""
    body, ends = b"", []
    for key, (kind, value) in values.items():
        body = _pad(body) + _write_entry(key, kind, value)
        ends.append(len(body))
    return body + _write_offsets(ends, len(body))


def _find_ends(data: bytes) -> list[int]:
    """Return where each element of an array ends. This table follows the last element."""
    if not data:
        return []
    width = _choose_width(len(data))
    table = _read_number(data[-width:])
    if table >= len(data) or (len(data) - table) % width:
        raise Malformed("an array whose table does not fit")
    ends = [_read_number(data[i : i + width]) for i in range(table, len(data), width)]
    if ends != sorted(ends) or ends[-1] != table:
        raise Malformed("an array whose elements overlap")
    return ends


def _write_entry(key: str, kind: str, value: bytes) -> bytes:
    name = key.encode() + b"\0"
    body = _pad(name) + value + b"\0" + kind.encode()
    return body + _write_offsets([len(name)], len(body))


def _write_offsets(offsets: list[int], size: int) -> bytes:
    """Serialize framing offsets, as wide as the container of `size` bytes needs together with them."""
    width = _choose_width(size, len(offsets))
    return b"".join(offset.to_bytes(width, "little") for offset in offsets)


def _choose_width(size: int, offsets: int = 0) -> int:
    return next(width for width in (1, 2, 4, 8) if size + width * offsets < 1 << (8 * width))


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _read_number(data: bytes) -> int:
    return int.from_bytes(data, "little")
