# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which mounts are the verified root: written down when it is attached, compared right before the switch to it.

The comparison itself is dracut/52bootseal/last-look, a shell script, because starting an interpreter again would cost each
boot more than the check. This file writes what the script reads, and names the difference that the script found.
"""

import os
from contextlib import suppress

from ..linux import mountapi

PATH = "/run/bootseal/attached"
SYSROOT = "/sysroot"
# Wherever mount.py mounts something in the root; a place without a mount of its own does not count.
_PLACES = ("etc", "var", "boot", "sysroot")
_NONE = "-"


def serialize(tree_fd: int) -> bytes:
    """The mounts of a detached root: a line by unique identities ("-" on kernels without them), and one by numbers.

    Each line is the count of the mounts and then ";IDENTITY TARGET" for each, with ";" at the end. Raises OSError.
    """
    top = mountapi.identity(tree_fd, "")
    mounts = {SYSROOT: top}
    for name in _PLACES:
        with suppress(FileNotFoundError):
            identity = mountapi.identity(tree_fd, name)
            if identity.number != top.number:
                mounts[f"{SYSROOT}/{name}"] = identity
    unique = {target: identity.unique for target, identity in mounts.items()}
    numbers = {target: identity.number for target, identity in mounts.items()}
    return f"{_NONE if None in unique.values() else _line(unique)}\n{_line(numbers)}\n".encode()


def write(content: bytes) -> None:
    """Raises OSError. Without this file nothing is switched to."""
    with open(PATH, "wb") as file:
        file.write(content)


def remove() -> None:
    """Raises OSError, but not where there is nothing to remove."""
    with suppress(FileNotFoundError):
        os.unlink(PATH)


def difference() -> str:
    """What is mounted at or below /sysroot and was not attached, and the other way round. Raises OSError, ValueError."""
    with open(PATH, encoding="ascii") as file:
        unique, numbers = (line.split(";")[1:-1] for line in file.read().splitlines())
    present = [m for m in mountapi.mounts() if f"{m.target}/".startswith(f"{SYSROOT}/")]
    ours = [m for m in present if _name(m) in numbers and _is_same(m, unique)]
    added = [f"{m.target} is {m.fstype} from {m.source}" for m in present if m not in ours]
    gone = [f"{name.split(' ', 1)[1]} is gone" for name in numbers if name not in map(_name, ours)]
    return ", ".join(added + gone)


def _name(mount: mountapi.MountInfo) -> str:
    return f"{mount.id} {mount.target}"


def _is_same(mount: mountapi.MountInfo, unique: list[str]) -> bool:
    """By the unique identity, where the kernel tells it and nothing covers the mount."""
    try:
        identity = mountapi.identity(mountapi.AT_FDCWD, mount.target)
    except OSError:
        return True
    return not unique or identity.number != mount.id or f"{identity.unique} {mount.target}" in unique


def _line(identities: dict[str, int] | dict[str, int | None]) -> str:
    return ";".join([str(len(identities)), *(f"{identity} {target}" for target, identity in identities.items()), ""])
