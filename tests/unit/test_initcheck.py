# SPDX-License-Identifier: LGPL-2.1-or-later
"""initcheck.py: it reads init and its loader to the last byte, and never skips an existing file that it cannot read."""

import errno
import os
from pathlib import Path

import pytest

from bootseal.linux import files
from bootseal.stages import initcheck
from unit.support import descriptors, elf, oserror, refusal, run_python

SYSTEMD = "usr/lib/systemd/systemd"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place(tmp_path, SYSTEMD, elf("/lib64/ld.so"))
    place(tmp_path, "lib64/ld.so", elf("", size=3000))
    return tmp_path


def place(root: Path, name: str, data: bytes | str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        path.symlink_to(data)
    else:
        path.write_bytes(data)


def check(root: Path, init: str = "") -> None:
    fd = os.open(root, os.O_PATH)
    try:
        initcheck.check(fd, init, "/image")
    finally:
        os.close(fd)


def read_files(root: Path, monkeypatch: pytest.MonkeyPatch, init: str = "") -> dict[str, int]:
    """Record the files that are read, and how far."""
    seen: dict[str, int] = {}
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        data = real(fd, size, offset)
        name = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), root)
        seen[name] = max(seen.get(name, 0), offset + len(data))
        return data

    monkeypatch.setattr(os, "pread", pread)
    check(root, init)
    return seen


def test_init_and_its_loader_are_read_to_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_files(root, monkeypatch) == {SYSTEMD: 9000, "lib64/ld.so": 3000}


def test_larger_than_one_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / SYSTEMD).write_bytes(elf("", size=(2 << 20) + 5))
    assert read_files(root, monkeypatch) == {SYSTEMD: (2 << 20) + 5}


def test_no_descriptor_is_left(root: Path) -> None:
    before = descriptors()
    check(root)
    assert descriptors() == before


def test_init_of_the_command_line_comes_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(root, "sbin/other", b"#!/bin/sh\n")
    assert read_files(root, monkeypatch, "/sbin/other") == {"sbin/other": 10}


@pytest.mark.parametrize("name", ["sbin/init", "etc/init", "bin/init", "bin/sh"])
def test_what_switch_root_tries(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, name, b"x")
    assert read_files(tmp_path, monkeypatch) == {name: 1}


def test_links_stay_in_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(root, "sbin/init", "/usr/lib/systemd/systemd")
    assert SYSTEMD in read_files(root, monkeypatch, "/sbin/init")


def test_no_init_at_all(tmp_path: Path) -> None:
    found = refusal(check, tmp_path)
    assert (found.verdict.name, found.path) == ("mount-failed", "/image")


def test_init_is_a_directory(root: Path) -> None:
    (root / SYSTEMD).unlink()
    (root / SYSTEMD).mkdir()
    found = refusal(check, root)
    assert (found.verdict.name, found.path) == ("mount-failed", f"/{SYSTEMD}")
    assert found.what == "init or its loader cannot be read: not a regular file"


@pytest.mark.parametrize("name", [SYSTEMD, "lib64/ld.so"])
@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        (errno.EIO, "mount-failed"),
        (errno.ENOENT, "mount-failed"),
        (errno.ESTALE, "mount-failed"),
        (errno.ENOMEM, "mount-failed"),
        (errno.EUCLEAN, "io-error"),
        (errno.EBADMSG, "io-error"),
    ],
)
def test_an_object_that_cannot_be_opened(
    name: str, number: int, verdict: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refuse if the image has the name but overlay cannot open the object: EIO if changed, ENOENT if removed."""
    place(root, "bin/sh", b"still there")
    real = os.open

    def open_(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(path).startswith("/proc/self/fd/") and os.readlink(path).endswith(name):
            raise oserror(number)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", open_)
    found = refusal(check, root)
    assert found.verdict.name == verdict
    assert found.what.startswith("init or its loader cannot be read: ")


@pytest.mark.parametrize(
    ("number", "verdict"), [(errno.EIO, "mount-failed"), (errno.ELOOP, "mount-failed"), (errno.EUCLEAN, "io-error")]
)
def test_a_name_that_cannot_be_looked_up(number: int, verdict: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Continue with the next init only if the name does not exist."""
    place(root, "bin/sh", b"still there")
    real = files.openat2

    def openat2(dirfd: int, path: str, flags: int, resolve: int) -> int:
        if path.endswith(SYSTEMD):
            raise oserror(number)
        return real(dirfd, path, flags, resolve)

    monkeypatch.setattr(files, "openat2", openat2)
    assert refusal(check, root).verdict.name == verdict


def test_a_file_where_the_directory_of_an_init_belongs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(root, "sbin", b"a file")
    assert SYSTEMD in read_files(root, monkeypatch, "/sbin/other")


@pytest.mark.parametrize("name", [SYSTEMD, "lib64/ld.so"])
def test_a_block_that_cannot_be_read(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        if offset and os.readlink(f"/proc/self/fd/{fd}").endswith(name):
            raise oserror(errno.EIO)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    found = refusal(check, root)
    assert found.verdict.name == "mount-failed"
    assert "EIO" in found.what


def test_a_loader_that_is_missing(root: Path) -> None:
    """Refuse instead of trying the next init, because the root is damaged."""
    (root / "lib64/ld.so").unlink()
    place(root, "bin/sh", b"still there")
    assert refusal(check, root).verdict.name == "mount-failed"


@pytest.mark.root
@pytest.mark.parametrize("removed", [False, True], ids=["whole", "object removed"])
def test_on_a_real_overlay(removed: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """The layers as composefs has them, without fs-verity: names in one, content in a data-only layer."""
    image, objects, merged = (tmp_path / name for name in ("image", "objects", "merged"))
    for directory in (objects / "ab", merged):
        directory.mkdir(parents=True)
    place(image, SYSTEMD, b"")
    place(image, "bin/sh", b"#!\n")
    os.truncate(image / SYSTEMD, 5000)
    (objects / "ab/cd").write_bytes(b"x" * 5000)
    os.setxattr(image / SYSTEMD, "trusted.overlay.metacopy", b"")
    os.setxattr(image / SYSTEMD, "trusted.overlay.redirect", b"/ab/cd")
    if removed:
        (objects / "ab/cd").unlink()
    code = (
        "import os,sys;from bootseal.errors import Refusal;from bootseal.linux import mountapi\n"
        "from bootseal.stages import initcheck\n"
        "options=[('metacopy','on'),('redirect_dir','on'),('lowerdir',sys.argv[1]+'::'+sys.argv[2])]\n"
        "fd=mountapi.new_filesystem('overlay',options,1)\n"
        "try: initcheck.check(fd,'','/image');print('accepted')\n"
        "except Refusal as refusal: print(refusal.verdict.name)"
    )
    assert run_python(code, str(image), str(objects)) == ("mount-failed\n" if removed else "accepted\n")
