# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 7: /run/ostree-booted, by which ostree knows the booted deployment: a GVariant of type a{sv}.

Keys as in ostree's src/libotcore/otcore.h; the format as in the GVariant specification, for this one type.
"""

import os
import struct
from contextlib import suppress

from ..linux import blockdev
from ..values import Deployment, RootConfig

PATH = "/run/ostree-booted"
_TEMPORARY = PATH + ".new"
_SYSROOT = "/sysroot"
_VOLATILE_ROOT = "/run/systemd/volatile-root"


def serialize(deployment: Deployment, config: RootConfig, transient_etc: str) -> bytes:
    """The file's content; `transient_etc` is the directory of a transient /etc, or empty."""
    found = os.fstat(deployment.fd)
    values: dict[str, tuple[str, bytes]] = {
        "backing-root-device-inode": ("(tt)", struct.pack("=QQ", found.st_dev, found.st_ino)),
        "root.transient": ("b", bytes([config.root_transient])),
        "root.transient-ro": ("b", bytes([config.root_transient and config.root_readonly])),
        "composefs": ("b", b"\1"),
        "composefs.verity": ("b", b"\1"),
        "sysroot-ro": ("b", bytes([config.sysroot_readonly])),
    }
    if transient_etc:
        values["transient-etc"] = ("s", transient_etc.encode() + b"\0")
    return vardict(values)


def write(content: bytes) -> None:
    """Atomically, for nobody else writes it; and a link by which systemd finds the disk behind an overlay root."""
    with open(_TEMPORARY, "wb") as file:
        file.write(content)
    os.replace(_TEMPORARY, PATH)
    with suppress(OSError):
        _link_device()


def _link_device() -> None:
    """As ostree does: systemd-gpt-auto-generator(8) then finds the ESP, but also swap, /home, /srv on the same disk."""
    fd = os.open(_SYSROOT, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        device = blockdev.number(fd)
    finally:
        os.close(fd)
    os.symlink(f"/dev/block/{os.major(device)}:{os.minor(device)}", _VOLATILE_ROOT)


def remove() -> None:
    """Takes all of that away, whether or not it was finished, or begun. Raises OSError."""
    for path in (_TEMPORARY, PATH, _VOLATILE_ROOT):
        with suppress(FileNotFoundError):
            os.unlink(path)


def vardict(values: dict[str, tuple[str, bytes]]) -> bytes:
    """{key: (type, serialized value)} as a{sv}. Entries start at multiples of 8; their ends stand behind all of them."""
    body, ends = b"", []
    for key, (kind, value) in values.items():
        body = _padded(body) + _entry(key, kind, value)
        ends.append(len(body))
    return body + _offsets(ends, len(body))


def _entry(key: str, kind: str, value: bytes) -> bytes:
    name = key.encode() + b"\0"
    body = _padded(name) + value + b"\0" + kind.encode()
    return body + _offsets([len(name)], len(body))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _offsets(offsets: list[int], size: int) -> bytes:
    """Framing offsets are as wide as the whole container, with them, needs."""
    width = next(w for w in (1, 2, 4, 8) if size + w * len(offsets) < 1 << (8 * w))
    return b"".join(offset.to_bytes(width, "little") for offset in offsets)
