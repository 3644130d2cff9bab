# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in an initrd: cpio archives one after another, each plain or compressed with zstd."""

from __future__ import annotations

import subprocess
from pathlib import Path

_CPIO, _ZSTD = b"070701", b"\x28\xb5\x2f\xfd"
_HEADER, _FIELD = 110, 8
_SIZE, _NAME_SIZE = 6, 11  # which of the header's fields
_TRAILER = "TRAILER!!!"


def contents(initrd: Path) -> dict[str, bytes]:
    """Every file by its path, without a leading slash; for a link its target, for a directory nothing."""
    data, found = initrd.read_bytes(), dict[str, bytes]()
    while data := data.lstrip(b"\0"):
        if data.startswith(_ZSTD):
            data = subprocess.run(["zstd", "-dcq"], check=True, input=data, stdout=subprocess.PIPE).stdout
        data = _read(data, found)
    return found


def _read(data: bytes, found: dict[str, bytes]) -> bytes:
    """One archive; returns what follows."""
    at, name = 0, ""
    while name != _TRAILER:
        assert data[at : at + len(_CPIO)] == _CPIO, f"no cpio archive at {at}"
        fields = [int(data[i : i + _FIELD], 16) for i in range(at + len(_CPIO), at + _HEADER, _FIELD)]
        start = at + _HEADER
        name = data[start : start + fields[_NAME_SIZE] - 1].decode()
        body = _aligned(start + fields[_NAME_SIZE])
        found[name.removeprefix("./")] = data[body : body + fields[_SIZE]]
        at = _aligned(body + fields[_SIZE])
    del found[_TRAILER]
    return data[at:]


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3
