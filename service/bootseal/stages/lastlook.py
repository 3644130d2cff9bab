# SPDX-License-Identifier: LGPL-2.1-or-later
"""List the mounts of the verified root for the last look, and explain a difference.

Right before the switch, the shell script dracut/52bootseal/last-look compares the list with the mounts. It is a shell script
because starting a second interpreter would cost each boot more than the check.
"""

import os

from .. import paths
from ..linux import mountapi

PATH = paths.RUN + "/attached"
SYSROOT = paths.SYSROOT
# Where mount.py may mount something in the root. Places without a mount of their own are not listed.
_PLACES = ("etc", "var", "boot", "sysroot")
_NONE = "-"


def serialize(tree_fd: int) -> bytes:
    """List the mounts of a detached root in two lines: by unique identity, and by number. Raises OSError.

    A line is the count of the mounts, then ";IDENTITY TARGET" for each, then ";". The first line is "-" on kernels without
    unique identities.
    """
    top = mountapi.identity(tree_fd, "")
    mounts = {SYSROOT: top}
    for name in _PLACES:
        try:
            identity = mountapi.identity(tree_fd, name)
        except FileNotFoundError:
            continue
        if identity.number != top.number:
            mounts[f"{SYSROOT}/{name}"] = identity
    unique = {target: identity.unique for target, identity in mounts.items()}
    numbers = {target: identity.number for target, identity in mounts.items()}
    return f"{_NONE if None in unique.values() else _format(unique)}\n{_format(numbers)}\n".encode()


def write(content: bytes) -> None:
    """Write the list. Raises OSError. Without this file the system does not switch root."""
    with open(PATH, "wb") as file:
        file.write(content)


def remove() -> None:
    """Remove the list if it exists. Raises OSError."""
    try:
        os.unlink(PATH)
    except FileNotFoundError:
        pass


def difference() -> str:
    """Describe mounts that were added or removed at and below /sysroot. Raises OSError, ValueError."""
    with open(PATH, encoding="utf-8") as file:
        unique, numbers = (line.split(";")[1:-1] for line in file.read().splitlines())
    present = [m for m in mountapi.mounts() if f"{m.target}/".startswith(f"{SYSROOT}/")]
    ours = [m for m in present if _name(m) in numbers and _is_same(m, unique)]
    added = [f"{m.target} is {m.fstype} from {m.source}" for m in present if m not in ours]
    gone = [f"{name.split(' ', 1)[1]} is gone" for name in numbers if name not in map(_name, ours)]
    return ", ".join(added + gone)


def _name(mount: mountapi.MountInfo) -> str:
    return f"{mount.id} {mount.target}"


def _is_same(mount: mountapi.MountInfo, unique: list[str]) -> bool:
    """Compare unique identities. Returns True without them, or if another mount covers this one."""
    try:
        identity = mountapi.identity(mountapi.AT_FDCWD, mount.target)
    except OSError:
        return True
    return not unique or identity.number != mount.id or f"{identity.unique} {mount.target}" in unique


def _format(identities: dict[str, int] | dict[str, int | None]) -> str:
    return ";".join([str(len(identities)), *(f"{identity} {target}" for target, identity in identities.items()), ""])
