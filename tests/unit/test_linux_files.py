# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test linux/files.py: openat2(2) confines paths, and only regular files are opened for reading."""

import errno
import os
from pathlib import Path

import pytest

from bootseal.linux import files, syscall
from unit.support import descriptors, oserror, raising


@pytest.fixture
def root(tmp_path: Path) -> int:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("/a/file")
    (tmp_path / "magic").symlink_to("/proc/self/fd/0")
    return os.open(tmp_path, os.O_PATH)


def test_confined_link_is_followed(root: int) -> None:
    fd = files.open_regular(root, "/link", follow=True)
    assert os.read(fd, 10) == b"content"


@pytest.mark.parametrize("path", ["../../../../a/file", "/a/../../a/file", "/a/file"])
def test_path_out_of_the_root_fails(path: str, root: int) -> None:
    assert os.read(files.open_regular(root, path), 10) == b"content"


def test_link_as_the_last_component_fails(root: int) -> None:
    with pytest.raises(files.NotRegular):
        files.open_regular(root, "link")


def test_descriptors_are_close_on_exec(root: int) -> None:
    fd = files.open_regular(root, "a/file")
    assert not os.get_inheritable(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")


@pytest.mark.parametrize("target", ["a", "/a", "/"])
def test_link_before_the_last_component_fails(target: str, root: int, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(target)
    path = "there/file" if target != "/" else "there/a/file"
    with pytest.raises(OSError, match="symbolic links"):
        files.open_regular(root, path)
    assert os.read(files.open_regular(root, path, follow=True), 10) == b"content"


LINES = {
    "none": (b"", []),
    "one": (b"a\n", ["a"]),
    "without an end": (b"a\nb", ["a", "b"]),
    "empty ones": (b"\n\na\n\n", ["", "", "a", ""]),
    "invalid UTF-8": (b"\xff\n\x85\n", ["\udcff", "\udc85"]),
    "other ends": ("a\rb\vc\fd\x1ce\x1df\x1eg\x85h\u2028i\u2029j\n".encode(), ["a\rb\vc\fd\x1ce\x1df\x1eg\x85h\u2028i\u2029j"]),
    "DOS": (b"a\r\nb\r\n", ["a\r", "b\r"]),
}


@pytest.mark.parametrize(("content", "expected"), LINES.values(), ids=LINES)
def test_lines_are_split_at_newlines_only(content: bytes, expected: list[str], tmp_path: Path) -> None:
    assert files.lines(content) == expected
    (tmp_path / "file").write_bytes(content)
    assert files.read_lines(str(tmp_path / "file")) == expected


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_irregular_file_is_rejected(kind: str, root: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(files.NotRegular):
        files.open_regular(root, "x")


@pytest.mark.root
def test_device_is_not_opened(root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mknod(tmp_path / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(files.NotRegular):
        files.open_regular(root, "zero")


def test_descriptor_of_an_irregular_file_is_closed(root: int) -> None:
    before = len(descriptors())
    with pytest.raises(files.NotRegular):
        files.open_regular(root, "a")
    assert len(descriptors()) == before


def test_magic_link_fails() -> None:
    with pytest.raises(OSError, match="symbolic links") as caught:
        files.openat2(-100, "/proc/self/fd/0", os.O_PATH, files.RESOLVE_NO_MAGICLINKS)
    assert caught.value.errno == errno.ELOOP


def test_other_mount_fails() -> None:
    with pytest.raises(OSError, match="cross-device") as caught:
        files.openat2(os.open("/", os.O_PATH), "proc", os.O_PATH, files.CONFINED)
    assert caught.value.errno == errno.EXDEV


def test_confinement_has_all_three_flags() -> None:
    assert files.CONFINED == 0x10 | 0x02 | 0x01


def busy(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    calls: list[int] = []

    def call(*_: object) -> int:
        calls.append(1)
        if len(calls) <= times:
            raise oserror(errno.EAGAIN)
        return 42

    monkeypatch.setattr(syscall, "syscall", call)
    return calls


def test_openat2_retries_eagain(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = busy(monkeypatch, 15)
    assert files.openat2(3, "x", 0, 0) == 42
    assert len(calls) == 16


def test_openat2_retries_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = busy(monkeypatch, 1000)
    with pytest.raises(BlockingIOError):
        files.openat2(3, "x", 0, 0)
    assert len(calls) == 16


def test_openat2_does_not_retry_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscall, "syscall", raising(errno.ENOSYS))
    with pytest.raises(OSError, match="not implemented"):
        files.openat2(3, "x", 0, 0)


@pytest.mark.parametrize(("size", "limit"), [(0, 0), (0, 10), (10, 10), (9, 10)])
def test_read_bounded_reads_up_to_the_limit(size: int, limit: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * size)
    assert files.read_bounded(os.open(tmp_path / "x", os.O_RDONLY), limit) == b"x" * size


@pytest.mark.parametrize(("size", "limit"), [(1, 0), (11, 10), (1 << 30, 10)])
def test_read_bounded_above_the_limit_is_none(size: int, limit: int, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    os.truncate(tmp_path / "x", size)
    assert files.read_bounded(os.open(tmp_path / "x", os.O_RDONLY), limit) is None


def test_read_bounded_of_a_growing_file_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"x" * size)
    assert files.read_bounded(os.open(tmp_path / "x", os.O_RDONLY), 10) is None


def test_read_bounded_reads_on_after_a_short_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 3), offset))
    assert files.read_bounded(os.open(tmp_path / "x", os.O_RDONLY), 10) == b"0123456789"


def test_read_bounded_asks_for_one_byte_more_than_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file grew after fstat, and the first read ends at the limit."""
    (tmp_path / "x").touch()
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"x" * min(size, 5))
    assert files.read_bounded(os.open(tmp_path / "x", os.O_RDONLY), 10) is None


def test_read_bounded_ignores_the_file_offset(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    os.read(fd, 5)
    assert files.read_bounded(fd, 10) == b"0123456789"


def test_read_start_reads_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert files.read_start(str(tmp_path / "link"), 4) == b"cont"
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(files.NotRegular):
            files.read_start(str(path), 4)


@pytest.mark.root
def test_immutable_flag_is_set_and_read(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        before = files._read_flags(fd)
    except OSError:
        pytest.skip("the filesystem of the temporary directory has no inode flags")
    assert not files.is_immutable(fd)
    files.set_immutable(fd, immutable=True)
    try:
        assert files.is_immutable(fd)
        with pytest.raises(PermissionError):
            (tmp_path / "x").touch()
    finally:
        files.set_immutable(fd, immutable=False)
    assert files._read_flags(fd) == before
    (tmp_path / "x").touch()
