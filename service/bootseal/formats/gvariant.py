# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads the GVariant types that ostree keeps in /run: a{sv} and as, little-endian. booted.py writes the first of them.

https://docs.gtk.org/glib/gvariant-specification-1.0.html
"""


class Malformed(ValueError):
    """Not a serialized value of the type that was asked for."""


def vardict(data: bytes) -> dict[str, tuple[str, bytes]]:
    """{key: (type, serialized value)} of an a{sv}. Raises Malformed."""
    found, start = {}, 0
    for end in _ends(data):
        entry = data[start + -start % 8 : end]
        name_end = _number(entry[-_width(entry) :])
        value = entry[name_end + -name_end % 8 : len(entry) - _width(entry)]
        content, _, kind = value.rpartition(b"\0")
        found[string(entry[:name_end])] = (kind.decode("ascii", "replace"), content)
        start = end
    return found


def strings(data: bytes) -> list[str]:
    """The strings of an as. Raises Malformed."""
    found, start = [], 0
    for end in _ends(data):
        found.append(string(data[start:end]))
        start = end
    return found


def string(data: bytes) -> str:
    """The text of an s. Raises Malformed."""
    if data[-1:] != b"\0":
        raise Malformed("a string without an end")
    return data[:-1].decode(errors="surrogateescape")


def _ends(data: bytes) -> list[int]:
    """Where each element of an array ends. The table of that stands at the end, and begins where the last element ends."""
    if not data:
        return []
    width = _width(data)
    table = _number(data[-width:])
    if table >= len(data) or (len(data) - table) % width:
        raise Malformed("an array whose table does not fit")
    ends = [_number(data[i : i + width]) for i in range(table, len(data), width)]
    if ends != sorted(ends) or ends[-1] != table:
        raise Malformed("an array whose elements overlap")
    return ends


def _width(data: bytes) -> int:
    return next(width for width in (1, 2, 4, 8) if len(data) < 1 << (8 * width))


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
