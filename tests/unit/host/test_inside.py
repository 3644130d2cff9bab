# SPDX-License-Identifier: LGPL-2.1-or-later
"""inside.py and its users: links, FIFOs, devices, huge files and full directories of a hostile disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootseal.host import deviations, inside, objects
from bootseal.host.live import drift
from bootseal.host.output import Failure
from bootseal.linux import files
from bootseal.record import parse
from unit.support import descriptors, raising, run_python

from .roots import (
    fill,
)

_NOT_FOUND = r"No such file|symbolic links|Not a directory"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root/place/a").mkdir(parents=True)
    (tmp_path / "root/place/a/file").write_bytes(b"content")
    (tmp_path / "root/other").write_bytes(b"other")
    with inside.opened(str(tmp_path / "root"), "place") as fd:
        yield fd


@pytest.mark.parametrize("target", ["/a/file", "a/file", "../../../a/file"])
def test_links_within_the_place_are_followed(target: str, place: int) -> None:
    os.symlink(target, "link", dir_fd=place)
    assert inside.read(place, "link", 4) == b"cont"


@pytest.mark.parametrize("target", ["../other", "/proc/self/fd/0", "/proc/kmsg", "/dev/zero", "/etc/passwd", "link"])
def test_links_out_of_the_place_are_not(target: str, place: int) -> None:
    os.symlink(target, "link", dir_fd=place)
    for path in ("link", "link/x"):
        with pytest.raises(OSError, match=_NOT_FOUND):
            inside.read(place, path, 4)
        assert inside.list_names(place, path) == []


@pytest.mark.parametrize("path", ["link", "link/a", "nowhere", "other", ""])
def test_no_link_leads_to_a_place(path: str, place: int, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to("place")
    assert place
    with pytest.raises(OSError, match=_NOT_FOUND):
        inside.open_place(str(tmp_path / "root"), path)


KINDS: dict[str, Callable[[Path], object]] = {
    "directory": os.mkdir,
    "fifo": os.mkfifo,
    "device": lambda path: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5)),  # /dev/zero
}


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files(kind: str, place: int, tmp_path: Path) -> None:
    path = tmp_path / "root/place/x"
    KINDS[kind](path)
    with pytest.raises(files.NotRegular):
        inside.read(place, "x", 4)
    with pytest.raises(OSError, match="symbolic links"):
        objects.open_file("x", place)
    assert inside.list_names(place, "x") == []


def test_a_full_directory(place: int, tmp_path: Path) -> None:
    fill(tmp_path / "root/place/a", inside.MAX_NAMES - 1)
    assert len(inside.list_names(place, "a")) == inside.MAX_NAMES
    assert inside.list_names(place, "a", "file") == ["file"]
    (tmp_path / "root/place/a/one more").touch()
    with pytest.raises(Failure, match=f"/place/a: more than {inside.MAX_NAMES} names"):
        inside.list_names(place, "a", "file")


def test_a_file_that_the_user_names_may_be_anywhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with inside.File("", "", str(tmp_path / "link")).opened() as fd:
        assert os.read(fd, 4) == b"cont"


def test_no_descriptor_is_left(place: int, tmp_path: Path) -> None:
    before = len(descriptors())
    for path in ("a", "a/file", "nowhere"):
        inside.list_names(place, path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "scandir", raising(errno.EIO))
            with pytest.raises(Failure, match="EIO"):
                inside.list_names(place, "a")
    with inside.File(str(tmp_path / "root"), "place", "a/file").opened():
        pass
    assert len(descriptors()) == before


MOUNTS = """
import os, sys
from bootseal.host import inside
from bootseal.linux import mountapi, syscall
top = sys.argv[1]
syscall.unshare(mountapi.CLONE_NEWNS)
syscall.mount(None, "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
for place in ("boot", "boot/efi"):
    os.makedirs(f"{top}/{place}", exist_ok=True)
    syscall.mount("tmpfs", f"{top}/{place}", "tmpfs", 0)
    os.makedirs(f"{top}/{place}/EFI/Linux")
    open(f"{top}/{place}/EFI/Linux/x.efi", "w").write(place)
for place, path in (("boot", "EFI/Linux/x.efi"), ("boot/efi", "EFI/Linux/x.efi"), ("boot", "efi/EFI/Linux/x.efi")):
    try:
        with inside.opened(top, place) as fd:
            print(inside.read(fd, path, 9).decode(), inside.list_names(fd, os.path.dirname(path)))
    except OSError as error: print(error.strerror)
"""


@pytest.mark.root
def test_a_place_may_be_a_mount_point_and_what_is_below_it_may_not(tmp_path: Path) -> None:
    said = run_python(MOUNTS, str(tmp_path)).splitlines()
    assert said == ["boot ['x.efi']", "boot/efi ['x.efi']", "Invalid cross-device link"]


def test_a_signature_outside_is_not_explained(tmp_path: Path, outside: Path) -> None:
    (outside / "sig").write_bytes(b"-----BEGIN")
    (tmp_path / "d").mkdir()
    with inside.opened(str(tmp_path), "d") as directory:
        os.symlink(outside / "sig", ".ostree.cfs.sig", dir_fd=directory)
        assert deviations.signature_in(directory, ".ostree.cfs") == []
        os.unlink(".ostree.cfs.sig", dir_fd=directory)
        (tmp_path / "d/.ostree.cfs.sig").write_bytes(b"-----BEGIN")
        assert [finding.name for finding in deviations.signature_in(directory, ".ostree.cfs")] == ["pem"]


def test_a_linked_deployment_is_not_compared(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "d").symlink_to(outside)
    record = {"deployment": {"path": "d"}, "image": {"algorithm": "sha256", "digest": "00"}}
    found = drift._check_image(parse(record), str(tmp_path))
    assert (found.state, "ELOOP" in found.text) == (drift.DIFFERS, True)


def test_read_named(tmp_path: Path) -> None:
    """Read a file or a pipe that the user names: whole or not at all."""
    (tmp_path / "file").write_bytes(b"1234")
    assert inside.read_named(str(tmp_path / "file"), "the key", 4) == b"1234"
    with pytest.raises(Failure, match=rf"Failed to read the key {tmp_path}/file: larger than 3 bytes") as caught:
        inside.read_named(str(tmp_path / "file"), "the key", 3)
    assert caught.value.status == 65
    with pytest.raises(Failure, match="Failed to read the key /nowhere: No such file or directory") as caught:
        inside.read_named("/nowhere", "the key", 3)
    assert caught.value.status == 74
    reader, writer = os.pipe()
    os.write(writer, b"12")
    os.close(writer)
    assert inside.read_named(f"/proc/self/fd/{reader}", "the key", 2) == b"12"
    os.close(reader)
