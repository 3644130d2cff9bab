# SPDX-License-Identifier: LGPL-2.1-or-later
"""blockdevices.py: the devices behind a mount, with udev played by objects."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bootseal.host.live import blockdevices
from bootseal.linux.mountapi import MountInfo

SYSROOT_LINE = "31 30 254:1 / /sysroot ro - ext4 /dev/vda1 ro"


class Node:
    """A device as pyudev shows it."""

    def __init__(self, top: Path, name: str, kind: str, **others: Any) -> None:
        self.sys_name, self.device_type, self.device_node = name, kind, f"/dev/{name}"
        self.sys_path = str(top / name)
        self.attributes = {k: v.encode() for k, v in others.get("attributes", {}).items()}
        self.properties: dict[str, str] = others.get("properties", {})
        self.parent: Node | None = others.get("parent")
        self.is_initialized = others.get("known", True)
        for slave in others.get("slaves", ()):
            (top / name / "slaves" / slave).mkdir(parents=True)


@pytest.fixture
def udev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Node]:
    """LVM on LUKS on a RAID of two partitions."""
    nodes: dict[str, Node] = {}

    def node(name: str, kind: str, **others: Any) -> Node:
        nodes[name] = Node(tmp_path, name, kind, **others)
        return nodes[name]

    for name in ("a", "b"):
        disk = node(f"sd{name}", "disk", attributes={"ro": "0", "device/model": f"Model {name}   "})
        properties = {"ID_PART_ENTRY_NAME": "root"}
        node(f"sd{name}1", "partition", parent=disk, attributes={"ro": "1"}, properties=properties)
    node("md0", "disk", slaves=("sda1", "sdb1"), attributes={"md/level": "raid1", "ro": "0"})
    node("dm-0", "disk", slaves=("md0",), attributes={"dm/uuid": "CRYPT-LUKS2-00", "dm/name": "luks-root", "ro": "0"})
    node("dm-1", "disk", slaves=("dm-0",), attributes={"dm/uuid": "LVM-abc"}, properties={"DM_NAME": "vg-root\x1b[2J"})
    module = ModuleType("pyudev")
    lookup = SimpleNamespace(
        from_name=lambda _, __, name: nodes[name],
        from_device_number=lambda _, __, number: nodes["dm-1"] if number == os.makedev(254, 1) else _not_found(),
        from_device_file=lambda _, path: nodes[os.path.basename(path)],
    )
    monkeypatch.setattr(module, "Devices", lookup, raising=False)
    monkeypatch.setattr(module, "Context", object, raising=False)
    monkeypatch.setattr(module, "DeviceNotFoundError", LookupError, raising=False)
    monkeypatch.setitem(sys.modules, "pyudev", module)
    return nodes


def _not_found() -> Node:
    raise LookupError("no such device")


def test_everything_behind_the_root(udev: dict[str, Node]) -> None:
    found, notes = blockdevices.behind(MountInfo(SYSROOT_LINE))
    assert notes == []
    assert [tuple(device) for device in found] == [
        ("/dev/dm-1", "LVM", "vg-root\\x1b[2J", None, 0),
        ("/dev/dm-0", "LUKS", "luks-root", False, 1),
        ("/dev/md0", "RAID (raid1)", "", False, 2),
        ("/dev/sda1", "partition", "root", True, 3),
        ("/dev/sda", "disk", "Model a", False, 4),
        ("/dev/sdb1", "partition", "root", True, 3),
        ("/dev/sdb", "disk", "Model b", False, 4),
    ]


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        ({"dm/uuid": "CRYPT-VERITY-1"}, "dm-verity"),
        ({"dm/uuid": "CRYPT-PLAIN-x"}, "dm-crypt"),
        ({"dm/uuid": "x"}, "device mapper"),
        ({"loop/backing_file": "/a"}, "loop"),
        ({}, "disk"),
    ],
)
def test_kinds(attributes: dict[str, str], kind: str, tmp_path: Path) -> None:
    node = Node(tmp_path, "x", "disk", attributes=attributes)
    assert blockdevices._find_kind(node) == kind


@pytest.mark.parametrize("name", ["DM_NAME", "ID_PART_ENTRY_NAME", "ID_MODEL", "ID_SERIAL"])
def test_names_of_the_udev_database(name: str, tmp_path: Path) -> None:
    node = Node(tmp_path, "x", "disk", properties={"ID_SERIAL": "last", name: "first"})
    assert blockdevices._describe(node, 0).model == "first"


def test_empty_udev_database(udev: dict[str, Node]) -> None:
    udev["sda1"].is_initialized = False
    found, notes = blockdevices.behind(MountInfo(SYSROOT_LINE))
    assert len(found) == 7
    assert notes == ["the udev database has no entry for some devices"]


def test_btrfs_is_found_by_name(udev: dict[str, Node]) -> None:
    found, _ = blockdevices.behind(MountInfo("31 30 0:40 / /sysroot ro - btrfs /dev/sda1 ro"))
    assert [device.node for device in found] == ["/dev/sda1", "/dev/sda"]


def test_device_that_udev_does_not_know(udev: dict[str, Node]) -> None:
    with pytest.raises(blockdevices.Unavailable, match="udev does not know the device of /sysroot: no such device"):
        blockdevices.behind(MountInfo(SYSROOT_LINE.replace("254:1", "254:9")))


def test_devices_that_stand_on_each_other_end(udev: dict[str, Node], tmp_path: Path) -> None:
    (tmp_path / "sda" / "slaves" / "sda").mkdir(parents=True)
    found, _ = blockdevices.behind(MountInfo("31 30 0:40 / /sysroot ro - btrfs /dev/sda ro"))
    assert len(found) == 17


def test_pyudev_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyudev", None)
    with pytest.raises(blockdevices.Unavailable, match="install python3-pyudev"):
        blockdevices.behind(MountInfo(SYSROOT_LINE))
