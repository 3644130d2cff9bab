# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what a guest wrote to its disk, and make the disks that power cuts would leave."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
_ENTRY = struct.Struct("<QQQQ")  # as in the kernel's Documentation/admin-guide/device-mapper/log-writes.rst
_FLUSH, _FUA = 1, 2


class Write(NamedTuple):
    """One request."""

    offset: int
    data: bytes


def read_log(log: Path) -> list[Write]:
    """Read the log of a Machine with `writes`, without requests that only flush."""
    content, writes, at = log.read_bytes(), [], SECTOR
    while at < len(content):
        sector, count, flags, _ = _ENTRY.unpack_from(content, at)
        assert not flags & ~(_FLUSH | _FUA), "another request than to write or flush"
        start, at = at + SECTOR, at + SECTOR * (1 + count)
        if count:
            writes.append(Write(sector * SECTOR, content[start:at]))
    return writes


def replay(writes: Sequence[Write], overlay: Path) -> None:
    """Repeat these writes on an overlay of the disk that the guest began with."""
    with tempfile.TemporaryDirectory() as work:
        commands = []
        for number, write in enumerate(writes):
            (Path(work) / str(number)).write_bytes(write.data)
            commands += ["-c", f"write -q -s {work}/{number} {write.offset} {len(write.data)}"]
        if commands:
            subprocess.run(["qemu-io", "-f", "qcow2", *commands, overlay], check=True, stdout=subprocess.DEVNULL)
