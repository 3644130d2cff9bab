# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the block devices behind the physical root with pyudev: the mounted one, and those below it.

The kernel's attributes tell the kind of a device; the udev database adds names. With an empty database only names are missing.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...errors import printable
from ...linux.mountapi import MountInfo

# The beginning of a device mapper UUID names the program that made the device.
_MAPPER = {"CRYPT-LUKS": "LUKS", "CRYPT-VERITY": "dm-verity", "CRYPT-": "dm-crypt", "LVM-": "LVM", "mpath-": "multipath"}
_MAX_DEPTH = 16


class Device(NamedTuple):
    """`below`: how many devices stand between it and the mounted file system.

    `read_only` is None when unknown.
    """

    node: str
    kind: str
    model: str
    read_only: bool | None
    below: int


class Unavailable(Exception):
    """udev did not answer; the text says why, in one line."""


def behind(mounted: MountInfo, context: Any = None) -> tuple[list[Device], list[str]]:
    """Return the devices of a mount, the nearest first, and notes on unknown facts. Raises Unavailable."""
    try:
        import pyudev
    except ImportError as error:
        raise Unavailable("Python module 'pyudev' not found: install python3-pyudev") from error
    try:
        udev = pyudev.Context() if context is None else context
        first = _find_first(pyudev, udev, mounted)
        devices = list(_walk(pyudev, udev, first, 0))
        notes = (
            [] if all(device.is_initialized for device, _ in devices) else ["the udev database has no entry for some devices"]
        )
        return [_describe(device, below) for device, below in devices], notes
    except (pyudev.DeviceNotFoundError, OSError, ValueError) as error:
        raise Unavailable(f"udev does not know the device of {mounted.target}: {printable(str(error))}") from error


def _find_first(pyudev: Any, udev: Any, mounted: MountInfo) -> Any:
    """Find the mounted device.

    The device number of a btrfs mount is not a block device's, but the source of the mount names one.
    """
    major, minor = map(int, mounted.device.split(":"))
    if not major and mounted.source.startswith("/dev/"):
        return pyudev.Devices.from_device_file(udev, mounted.source)
    return pyudev.Devices.from_device_number(udev, "block", os.makedev(major, minor))


def _walk(pyudev: Any, udev: Any, device: Any, below: int) -> Iterator[tuple[Any, int]]:
    """Yield a device and those below it: members of a mapped device or array, disks of partitions."""
    yield device, below
    if below == _MAX_DEPTH:
        return
    slaves = os.path.join(device.sys_path, "slaves")
    for name in sorted(os.listdir(slaves)) if os.path.isdir(slaves) else ():
        yield from _walk(pyudev, udev, pyudev.Devices.from_name(udev, "block", name), below + 1)
    if device.device_type == "partition" and device.parent is not None:
        yield from _walk(pyudev, udev, device.parent, below + 1)


def _describe(device: Any, below: int) -> Device:
    node = device.device_node or device.sys_name
    names = [device.properties.get(name) for name in ("DM_NAME", "ID_PART_ENTRY_NAME", "ID_MODEL", "ID_SERIAL")]
    model = _read_attribute(device, "device/model") or _read_attribute(device, "dm/name") or next(filter(None, names), "")
    read_only = {"0": False, "1": True}.get(_read_attribute(device, "ro"))
    return Device(node, _find_kind(device), printable(model), read_only, below)


def _find_kind(device: Any) -> str:
    if mapped := _read_attribute(device, "dm/uuid"):
        return next((kind for start, kind in _MAPPER.items() if mapped.startswith(start)), "device mapper")
    if level := _read_attribute(device, "md/level"):
        return f"RAID ({level})"
    if _read_attribute(device, "loop/backing_file"):
        return "loop"
    return str(device.device_type or "block device")


def _read_attribute(device: Any, name: str) -> str:
    value: bytes | None = device.attributes.get(name)
    return value.decode(errors="replace").strip() if value else ""
