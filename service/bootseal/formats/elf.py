# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the name of an ELF file's interpreter, see elf(5). Only verified files come here."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PT_INTERP = 3


def interpreter(read: "Callable[[int, int], bytes]") -> str:
    """Return PT_INTERP of a 64-bit ELF file, or an empty text.

    `read(size, offset)` returns a part of the file.
    """
    head = read(64, 0)
    if head[:5] != b"\x7fELF\x02":
        return ""
    order = "little" if head[5:6] == b"\1" else "big"

    def number(data: bytes, at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    table, entry_size, count = number(head, 32, 8), number(head, 54, 2), number(head, 56, 2)
    for index in range(count):
        entry = read(entry_size, table + index * entry_size)
        if number(entry, 0, 4) == _PT_INTERP:
            return read(number(entry, 32, 8), number(entry, 8, 8)).rstrip(b"\0").decode()
    return ""
