# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test release.py: os-release is parsed strictly, and damage cannot hide the name of the image."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal.linux import files
from bootseal.stages import release
from bootseal.values import Release
from unit.support import descriptors, oserror, raising, refusal

NOTHING = Release("", "")
TEXTS: dict[str, tuple[str, Release]] = {
    "image": ("IMAGE_ID=edge\nIMAGE_VERSION=41.3\nID=debian\nVERSION_ID=13\n", Release("edge", "41.3")),
    "distribution": ('NAME="x"\nID=debian\nVERSION_ID="13"\n', Release("debian", "13")),
    "image without a version": ("IMAGE_ID=edge\nID=debian\nVERSION_ID=13", Release("edge", "13")),
    "no version at all": ("ID=debian\nVERSION_CODENAME=forky\n", Release("debian", "")),
    "version alone": ("VERSION_ID=13\n", Release("", "13")),
    "quoted": ("ID='debian'\nVERSION_ID=\"13\"\n", Release("debian", "13")),
    "blanks, comments, empty lines": ("# ID=a\n\n \tID=debian \t\n#VERSION_ID=1\n", Release("debian", "")),
    "the last one counts": ("ID=a\nID=b\n", Release("b", "")),
    "the last one counts, also if it is bad": ("ID=a\nID=$(id)\n", NOTHING),
    "every character": ("ID=Az09._-+~^\n", Release("Az09._-+~^", "")),
    "64": ("ID=" + "x" * 64, Release("x" * 64, "")),
    "65": ("ID=" + "x" * 65, NOTHING),
    "64 in quotation marks": ('ID="' + "x" * 64 + '"', Release("x" * 64, "")),
    "empty": ("ID=\nVERSION_ID=''\n", NOTHING),
    "no file content": ("", NOTHING),
    "other keys": ("ID_LIKE=debian\nXID=a\nid=b\nVERSION=1\n", NOTHING),
    "exported": ("export ID=debian\n", NOTHING),
    "blank before the sign": ("ID =debian\n", NOTHING),
    "blank after the sign": ("ID= debian\n", NOTHING),
    "no sign": ("ID\n", NOTHING),
    "open quotation mark": ("ID=\"debian\nVERSION_ID='\n", NOTHING),
    "other quotation mark": ("ID=\"debian'\n", NOTHING),
    "quoted twice": ("ID=\"'debian'\"\n", NOTHING),
    "two strings": ("ID='a''b'\n", NOTHING),
    "escape": ("ID=deb\\ian\n", NOTHING),
    "space inside": ('ID="a b"\n', NOTHING),
    "what ends a line elsewhere": ("ID=a\rVERSION_ID=1\x0bVERSION_ID=2\x85\u2028VERSION_ID=3\n", NOTHING),
    "carriage return": ("ID=debian\r\n", NOTHING),
    "words of the verdict": ('ID="x sha256:0, signed by"\nVERSION_ID="1(2)"\n', NOTHING),
    "escape sequence": ("ID=\x1b[2J\n", NOTHING),
    "not ASCII": ("ID=\u0661\nVERSION_ID=\u00e9\n", NOTHING),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
def test_names_are_parsed(text: str, expected: Release) -> None:
    assert release.parse(text) == expected


def read(root: Path) -> Release:
    fd = os.open(root, os.O_PATH)
    try:
        return release.read(fd)
    finally:
        os.close(fd)


def place(path: Path, text: str | bytes = "ID=debian\nVERSION_ID=13\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_usr_lib_is_read(tmp_path: Path) -> None:
    place(tmp_path / "usr/lib/os-release")
    assert read(tmp_path) == ("debian", "13")


def test_etc_is_read_before_usr_lib(tmp_path: Path) -> None:
    place(tmp_path / "usr/lib/os-release")
    place(tmp_path / "etc/os-release", "ID=own\n")
    assert read(tmp_path) == ("own", "")


@pytest.mark.parametrize("target", ["../usr/lib/os-release", "/usr/lib/os-release", "../../../usr/lib/os-release"])
def test_link_is_followed_inside_the_root(target: str, tmp_path: Path) -> None:
    place(tmp_path / "root/usr/lib/os-release")
    place(tmp_path / "usr/lib/os-release", "ID=outside\n")
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/etc/os-release").symlink_to(target)
    assert read(tmp_path / "root") == ("debian", "13")


UNKNOWN: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "directory": Path.mkdir,
    "64 KiB and a byte": lambda path: place(path, b"ID=debian\n" + b"#" * (65537 - 10)),
}
PASSED_OVER: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: None,
    "dangling": lambda path: path.symlink_to("nothing"),
    "loop": lambda path: path.symlink_to(path.name),
    "through a file": lambda path: path.symlink_to("../file/x"),
    "magic link": lambda path: path.symlink_to("/proc/self/exe"),
}


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_irregular_or_large_file_gives_empty_names(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    make(tmp_path / "usr/lib/os-release")
    assert read(tmp_path) == NOTHING


@pytest.mark.parametrize("make", PASSED_OVER.values(), ids=PASSED_OVER)
def test_path_that_leads_nowhere_is_skipped(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "etc").mkdir()
    make(tmp_path / "etc/os-release")
    assert read(tmp_path) == NOTHING
    place(tmp_path / "usr/lib/os-release")
    assert read(tmp_path) == ("debian", "13")


def test_empty_root_gives_empty_names(tmp_path: Path) -> None:
    assert read(tmp_path) == NOTHING


def test_file_of_64_kib_is_read(tmp_path: Path) -> None:
    place(tmp_path / "usr/lib/os-release", b"ID=debian\n" + b"#" * (65536 - 10))
    assert read(tmp_path) == ("debian", "")


def test_invalid_utf8_is_replaced(tmp_path: Path) -> None:
    place(tmp_path / "usr/lib/os-release", b"NAME=\xff\xfe\nID=debian\nVERSION_ID=\xff\n")
    assert read(tmp_path) == ("debian", "")


@pytest.mark.parametrize(
    ("number", "verdict"),
    [(errno.EIO, "io-error"), (errno.EUCLEAN, "io-error"), (errno.ENOENT, "mount-failed"), (errno.EACCES, "mount-failed")],
)
@pytest.mark.parametrize("call", ["open_regular", "read_bounded"])
def test_damaged_object_is_refused(
    call: str, number: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its object is missing or changed, a file exists but cannot be opened or read."""
    place(tmp_path / "usr/lib/os-release")
    monkeypatch.setattr(files, call, raising(number))
    found = refusal(read, tmp_path)
    assert (found.verdict.name, found.path) == (verdict, "/usr/lib/os-release")


def test_damaged_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def openat2(*_: object) -> int:
        raise oserror(errno.EIO)

    monkeypatch.setattr(files, "openat2", openat2)
    assert refusal(read, tmp_path).verdict.name == "io-error"


def test_descriptors_are_closed(tmp_path: Path) -> None:
    place(tmp_path / "usr/lib/os-release")
    before = descriptors()
    read(tmp_path)
    assert descriptors() == before
