# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find what systemd-gpt-auto-generator(8) took from the disk's partition table, and active swap.

Nothing vouches for a partition table. The generator finds the disk by a link in /run, which bootseal makes as ostree does.
"""

import os

from ...linux import files, mountapi

WHO = ", by systemd-gpt-auto-generator"
_GENERATED = "/run/systemd/generator.late"
_SWAPS = "/proc/swaps"
_MARK = b"systemd-gpt-auto-generator"
_SIZE = 1 << 16  # bytes
_IN_MEMORY = "/dev/zram"


def units() -> dict[str, str]:
    """Return the mount points and swap devices of the generator's units, with the device of each."""
    try:
        names = [name for name in os.listdir(_GENERATED) if name.endswith((".mount", ".swap"))]
    except OSError:
        return {}
    return dict(unit for name in names if (unit := _read_unit(f"{_GENERATED}/{name}")))


def mounted(mount: mountapi.MountInfo, generated: dict[str, str]) -> bool:
    """Tell whether one of these units made this mount, or the automount before it."""
    device = generated.get(mount.target)
    return device is not None and (mount.fstype == "autofs" or os.path.realpath(mount.source) == device)


def swaps() -> list[str]:
    """List active swap outside the memory, by its device or file."""
    try:
        lines = files.read_lines(_SWAPS)[1:]
    except OSError:
        return []
    names = [mountapi.unescape(line.partition(" ")[0]) for line in lines]
    return [os.path.realpath(name) for name in names if not name.startswith(_IN_MEMORY)]


def _read_unit(path: str) -> tuple[str, str] | None:
    try:
        lines = files.read_start(path, _SIZE).split(b"\n")
    except (OSError, files.NotRegular):
        return None
    settings = {key: os.fsdecode(value) for key, _, value in (line.partition(b"=") for line in lines)}
    device = os.path.realpath(settings.get(b"What", ""))
    return (settings.get(b"Where", device), device) if _MARK in lines[0] else None
