# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test linux/mountapi.py: parsing mountinfo, and, as root, the calls on this kernel."""

import os
from pathlib import Path
from typing import Any

import pytest

from bootseal.linux import mountapi, syscall
from unit.support import descriptors, run_python

LINES = {
    "plain": ("36 35 98:0 / /sysroot rw,noatime - ext4 /dev/vda rw,errors=continue", ("/sysroot", "ext4", "/dev/vda")),
    "optional fields": ("36 35 98:0 /a /b rw shared:1 master:2 - tmpfs tmpfs rw", ("/b", "tmpfs", "tmpfs")),
    "space in the target": ("36 35 98:0 / /a\\040b rw - ext4 /dev/vda rw", ("/a b", "ext4", "/dev/vda")),
    "a target that looks like a separator": (
        "36 35 98:0 / /a\\040-\\040b rw - ext4 /dev/vda rw",
        ("/a - b", "ext4", "/dev/vda"),
    ),
    "newline": ("36 35 98:0 / /a\\012b rw - ext4 /dev/vda rw", ("/a\nb", "ext4", "/dev/vda")),
    "backslash": ("36 35 98:0 / /a\\134040b rw - ext4 /dev/vda rw", ("/a\\040b", "ext4", "/dev/vda")),
    "UTF-8": ("36 35 98:0 / /ü rw - ext4 /dev/vda rw", ("/ü", "ext4", "/dev/vda")),
    "invalid UTF-8": ("36 35 98:0 / /\udcff rw - ext4 /dev/vda rw", ("/\udcff", "ext4", "/dev/vda")),
    "empty source": ("36 35 0:50 / /x rw - tmpfs  rw", ("/x", "tmpfs", "")),
    "ends of lines elsewhere": (
        "36 35 98:0 / /\r\v\f\x1c\x85\u2028 rw - ext4 /dev/\r rw",
        ("/\r\v\f\x1c\x85\u2028", "ext4", "/dev/\r"),
    ),
}


@pytest.mark.parametrize(("line", "expected"), LINES.values(), ids=LINES)
def test_line_of_mountinfo_is_parsed(line: str, expected: tuple[str, str, str]) -> None:
    (found,) = mountapi.parse([line])
    assert (found.target, found.fstype, found.source) == expected
    assert (found.id, found.parent) == (36, 35)


NONE = [
    "", " ", "x", "36", "36 35 98:0 / /x rw", "36 35 98:0 / /x rw -", "36 35 98:0 / /x rw - t d", "36 35 98:0 / /x - ext4 d rw",
    "x 35 98:0 / /x rw - ext4 d rw", "36 x 98:0 / /x rw - ext4 d rw", "36 35 98:0 / /\\ rw - ext4 d rw",
    "36 35 98:0 / /\\999 rw - ext4 d rw", "36 35 98:0 / /\\N{x} rw - ext4 d rw", "36 35 98:0 /\\x /x rw - ext4 d rw",
]  # fmt: skip


@pytest.mark.parametrize("line", NONE)
def test_malformed_line_is_skipped(line: str) -> None:
    with pytest.raises(ValueError):
        mountapi.MountInfo(line)
    good, _ = LINES["plain"]
    assert [mount.target for mount in mountapi.parse([good, line, good])] == ["/sysroot", "/sysroot"]


def test_root_of_a_mount_is_unescaped() -> None:
    assert mountapi.MountInfo("36 35 98:0 /a\\040b /c rw - ext4 /dev/vda rw").root == "/a b"


def test_superblock_options_are_kept() -> None:
    found = mountapi.MountInfo("1 0 0:1 / / ro - overlay composefs:ab ro,lowerdir+=/x,verity=require")
    assert found.super_options == "ro,lowerdir+=/x,verity=require"


def test_mount_of_a_descriptor_is_found() -> None:
    fd = os.open("/proc/self", os.O_PATH)
    assert mountapi.mount_of(fd).fstype == "proc"
    os.close(fd)


def test_mount_outside_the_namespace_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open("/", os.O_PATH)
    monkeypatch.setattr(mountapi, "mounts", list)
    with pytest.raises(LookupError):
        mountapi.mount_of(fd)
    os.close(fd)


START = """
import errno, os, sys
from bootseal.linux import mountapi, syscall
syscall.unshare(mountapi.CLONE_NEWNS)
syscall.mount(None, "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
place = sys.argv[1]
def here(): return [(m.fstype, m.source, m.options.split(",")[0]) for m in mountapi.mounts() if m.target == place]
"""


@pytest.mark.root
def test_detached_mount_is_attached(tmp_path: Path) -> None:
    code = (
        START
        + """
tree = mountapi.new_filesystem("tmpfs", [("source", "unit"), ("size", "64k"), ("ro", None)], mountapi.MOUNT_ATTR_RDONLY)
print(here())
mountapi.attach(tree, mountapi.AT_FDCWD, place)
print(here(), mountapi.mount_of(tree).source)
mountapi.set_attributes(tree, clear=mountapi.MOUNT_ATTR_RDONLY)
print(here())
mountapi.reconfigure(tree, "rw")
open(place + "/x", "w")
mountapi.reconfigure(tree, "ro")
try: open(place + "/y", "w")
except OSError as error: print(errno.errorcode[error.errno])
copy = mountapi.clone(tree)
mountapi.set_attributes(copy, set_=mountapi.MOUNT_ATTR_RDONLY)
print(os.listdir(f"/proc/self/fd/{copy}"))
"""
    )
    assert run_python(code, str(tmp_path)).splitlines() == [
        "[]", "[('tmpfs', 'unit', 'ro')] unit", "[('tmpfs', 'unit', 'rw')]", "EROFS", "['x']",
    ]  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record the system calls, each of which returns a descriptor."""
    seen: list[tuple[Any, ...]] = []

    def call(*arguments: Any) -> int:
        seen.append(arguments)
        return os.open("/", os.O_PATH)

    monkeypatch.setattr(mountapi, "call", call)
    return seen


@pytest.mark.parametrize(
    ("recursive", "flags"), [(False, 0x1000 | 1 | os.O_CLOEXEC), (True, 0x1000 | 1 | os.O_CLOEXEC | 0x8000)]
)
def test_clone_flags(flags: int, *, recursive: bool, calls: list[tuple[Any, ...]]) -> None:
    mountapi.clone(7, recursive=recursive)
    assert calls == [(syscall.OPEN_TREE, 7, b"", flags)]


@pytest.mark.parametrize(
    ("path", "beneath", "flags"), [("/x", False, 0x4), ("/x", True, 0x204), ("", False, 0x44), ("", True, 0x244)]
)
def test_attach_flags(path: str, flags: int, *, beneath: bool, calls: list[tuple[Any, ...]]) -> None:
    mountapi.attach(7, 8, path, beneath=beneath)
    assert calls == [(syscall.MOVE_MOUNT, 7, b"", 8, path.encode(), flags)]


def test_contexts_are_closed(calls: list[tuple[Any, ...]]) -> None:
    before = len(descriptors())
    mountapi.reconfigure(7, "ro")
    mountapi.new_filesystem("tmpfs", [], 0)
    # Each call opened a descriptor. Two of them are contexts, which must be closed.
    assert len(descriptors()) == before + len(calls) - 2


@pytest.mark.root
@pytest.mark.parametrize(
    "name", ["\r", "\n", "\v\f", "\x1c\x1d\x1e", "\x85", "\u2028\u2029", "\udc85\udcff", "\t \\ - #", "\r\n36 35"]
)
def test_mount_with_an_odd_name_is_listed(name: str, tmp_path: Path) -> None:
    """Unprivileged users may mount, for example with FUSE, and choose the name of the mount point."""
    code = (
        START
        + """
name = place + "/a" + eval(sys.argv[2]) + "z"
os.mkdir(name)
syscall.mount("unit", name, "tmpfs", 0)
print([m.target == name for m in mountapi.mounts() if m.source == "unit"])
print(mountapi.mount_of(os.open(name, os.O_PATH)).target == name)
from bootseal.host.live import drift
found = drift.mounts()
print(found.unread, len([m for m in found.everything if m.target == name]))
"""
    )
    assert run_python(code, str(tmp_path), ascii(name)).splitlines() == ["[True]", "True", "0 1"]


@pytest.mark.root
def test_error_has_the_log_of_the_kernel(tmp_path: Path) -> None:
    code = (
        START
        + """
for fstype, options in (("nonesuch", []), ("tmpfs", [("nonesuch", "1")])):
    try: mountapi.new_filesystem(fstype, options, 0)
    except OSError as error: print(errno.errorcode[error.errno], error.filename)
print(len(os.listdir("/proc/self/fd")))
"""
    )
    first, second, descriptors = run_python(code, str(tmp_path)).splitlines()
    assert first == "ENODEV None"
    assert second.startswith("EINVAL ")
    assert "nonesuch" in second
    assert int(descriptors) <= 5
