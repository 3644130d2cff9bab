# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the sections of a PE file, such as the initrd and the command line in a unified kernel image."""

import struct
from collections.abc import Collection

from .decompress import Damaged


def find_initrd(content: memoryview) -> memoryview:
    """Return the initrd in this file: a UKI's section, or all of it. Raises Damaged."""
    return find_sections(content, (".initrd",)).get(".initrd", content)


def find_sections(content: memoryview, names: Collection[str]) -> dict[str, memoryview]:
    """Return sections of a PE file, such as .initrd and .cmdline of a UKI. Raises Damaged.

    Other files have none.

    Of sections with the same name, the first counts, as it does for systemd-stub.
    """
    if bytes(content[:2]) != b"MZ":
        return {}
    try:
        header: int = struct.unpack_from("<I", content, 0x3C)[0]
        signature, _, count, optional = struct.unpack_from("<4sHH12xH2x", content, header)
        if signature != b"PE\0\0":
            raise Damaged("no PE header")
        table = content[header + 24 + optional :][: 40 * count]
        if len(table) < 40 * count:
            raise Damaged("a truncated PE file")
    except struct.error as error:
        raise Damaged("a truncated PE file") from error
    sections: dict[str, memoryview] = {}
    for name, virtual, _, size, offset in struct.iter_unpack("<8sIIII16x", table):
        text = name.rstrip(b"\0").decode("ascii", "replace")
        if text in names:
            sections.setdefault(text, content[offset : offset + min(virtual, size)])
    return sections
