# SPDX-License-Identifier: LGPL-2.1-or-later
"""cache.py: no content is unpacked twice, and no entry stands for another content."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from bootseal.host.initrd import cache, confined, reader
from bootseal.host.initrd.contents import Contents
from bootseal.host.initrd.decompress import Damaged
from bootseal.host.inside import File

from .initrds import GOOD, THIRD, cpio_archive, do_instead

DIRECTORIES = ("etc",)
SECOND: dict[str, bytes | None] = {"etc/name": b"second", "etc/only-second": b"x" * 5000}


class Reads:
    """Counts the runs of the confined process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._run = 0, confined.run
        monkeypatch.setattr(confined, "run", self.run)
        self.before: Callable[[], object] = lambda: None

    def run(self, question: str, descriptors: Sequence[int]) -> bytes:
        self.count += 1
        self.before()
        return self._run(question, descriptors)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Let the user of the tests be the one who may use the cache."""
    monkeypatch.setattr(cache, "OWNER", os.geteuid())
    return Reads(monkeypatch)


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(GOOD)
    return path


def contents(*paths: Path, directories: Sequence[str] = DIRECTORIES) -> Contents:
    with reader.opened([File("", "", str(path)) for path in paths]) as files:
        return cache.contents(files, directories, ())


def entries() -> list[Path]:
    return sorted(Path(cache.DIRECTORY).iterdir())


def test_no_content_is_read_twice(reads: Reads, initrd: Path, tmp_path: Path) -> None:
    assert contents(initrd).files == SECOND
    (tmp_path / "copy").write_bytes(GOOD)
    assert contents(initrd) == contents(tmp_path / "copy") == Contents(SECOND, {})
    assert reads.count == 1
    assert stat.S_IMODE(Path(cache.DIRECTORY).stat().st_mode) == 0o700
    assert [stat.S_IMODE(entry.stat().st_mode) for entry in entries()] == [0o600]


def test_a_changed_file_of_the_same_size_and_time(reads: Reads, initrd: Path) -> None:
    before = initrd.stat()
    contents(initrd)
    with initrd.open("r+b") as file:
        file.write(GOOD.replace(b"second", b"SECOND"))
    os.utime(initrd, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = initrd.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert contents(initrd).files["etc/name"] == b"SECOND"


def test_the_order_of_files_and_where_one_ends(reads: Reads, tmp_path: Path) -> None:
    parts = {"1": GOOD, "2": cpio_archive(THIRD), "both": GOOD + cpio_archive(THIRD)}
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    names = [contents(*(tmp_path / name for name in order)).files["etc/name"] for order in (["1", "2"], ["2", "1"], ["both"])]
    assert (names, reads.count) == ([b"third", b"second", b"third"], 3)


def test_another_question(reads: Reads, initrd: Path) -> None:
    """The answer to the first one would also be a valid answer to the second."""
    contents(initrd)
    assert contents(initrd, directories=("etc", "usr/bin")).files == {**SECOND, "usr/bin/init": b"#!"}
    assert reads.count == 2


@pytest.mark.parametrize("changed", ["version", "code"])
def test_an_update_of_bootseal(
    reads: Reads, initrd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    contents(initrd)
    if changed == "version":
        monkeypatch.setattr(cache, "__version__", "99")
    else:
        (tmp_path / "code.py").touch()
        monkeypatch.setattr(cache, "_CODE", tmp_path)
    contents(initrd)
    assert reads.count == 2
    if changed == "code":
        (tmp_path / "code.py").write_text("patched")
        contents(initrd)
        assert reads.count == 3


def test_a_file_that_changes_while_it_is_read(reads: Reads, initrd: Path) -> None:
    def change() -> None:
        initrd.write_bytes(GOOD.replace(b"second", b"SECOND"))

    reads.before = change
    assert contents(initrd).files["etc/name"] == b"SECOND"
    initrd.write_bytes(GOOD)
    reads.before = lambda: None
    assert contents(initrd).files["etc/name"] == b"second"


def test_failures_are_not_kept(reads: Reads, initrd: Path) -> None:
    initrd.write_bytes(b"junk")
    for count in (1, 2):
        with pytest.raises(Damaged):
            contents(initrd)
        assert reads.count == count
    assert not Path(cache.DIRECTORY).exists()


def test_an_invalid_answer_is_not_kept(reads: Reads, initrd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    do_instead(monkeypatch, "b'junk'")
    with pytest.raises(Damaged, match="invalid answer"):
        contents(initrd)
    assert not Path(cache.DIRECTORY).exists()


def give_away(entry: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root on this machine")
    os.chown(entry, 1, 1)


def link(entry: Path) -> None:
    """Put a link to a valid entry in its place."""
    other = entry.parent.parent / "other"
    entry.rename(other)
    entry.symlink_to(other)


def make_fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry, 0o600)


def exchange(entry: Path) -> None:
    """Put a valid entry of other content in its place."""
    kept = entry.read_bytes()
    (entry.parents[2] / "third").write_bytes(cpio_archive(THIRD))
    contents(entry.parents[2] / "third")
    (other,) = set(entries()) - {entry}
    assert other.read_bytes() != kept
    other.rename(entry)


INVALID: dict[str, Callable[[Path], object]] = {
    "empty": lambda entry: entry.write_bytes(b""),
    "truncated": lambda entry: entry.write_bytes(entry.read_bytes()[:-1]),
    "no-answer": lambda entry: entry.write_bytes(entry.read_bytes()[:32]),
    "changed": lambda entry: entry.write_bytes(entry.read_bytes().replace(b"second", b"SECOND")),
    "of-other-content": exchange,
    "malformed": lambda entry: entry.write_bytes(cache._make_entry(entry.name, b"junk")),
    "huge": lambda entry: os.truncate(entry, 1 << 40),
    "for-group": lambda entry: entry.chmod(0o640),
    "for-others": lambda entry: entry.chmod(0o602),
    "of-other-user": give_away,
    "linked": link,
    "fifo": make_fifo,
}


@pytest.mark.parametrize("break_", INVALID.values(), ids=INVALID)
def test_an_invalid_entry_is_replaced(reads: Reads, initrd: Path, break_: Callable[[Path], object]) -> None:
    contents(initrd)
    (entry,) = entries()
    good = entry.read_bytes()
    break_(entry)
    reads.count = 0
    assert contents(initrd).files == SECOND
    assert reads.count == 1
    assert entry.read_bytes() == good
    assert stat.S_ISREG(entry.lstat().st_mode)
    assert contents(initrd).files == SECOND
    assert reads.count == 1


def link_directory(directory: Path) -> None:
    directory.rename(directory.parent / "other")
    directory.symlink_to("other")


def replace_directory(directory: Path) -> None:
    for entry in directory.iterdir():
        entry.unlink()
    directory.rmdir()
    directory.touch()


UNSAFE: dict[str, Callable[[Path], object]] = {
    "for-others": lambda directory: directory.chmod(0o702),
    "for-group": lambda directory: directory.chmod(0o770),
    "of-other-user": give_away,
    "linked": link_directory,
    "file": replace_directory,
}


@pytest.mark.parametrize("break_", UNSAFE.values(), ids=UNSAFE)
def test_a_directory_that_others_may_write_is_not_used(
    reads: Reads, initrd: Path, tmp_path: Path, break_: Callable[[Path], object]
) -> None:
    contents(initrd)
    break_(Path(cache.DIRECTORY))
    (tmp_path / "third").write_bytes(cpio_archive(THIRD))
    before = set((tmp_path / "run").rglob("*"))
    assert contents(initrd).files == SECOND
    assert contents(tmp_path / "third").files == THIRD
    assert reads.count == 3
    assert set((tmp_path / "run").rglob("*")) == before


def test_another_user(reads: Reads, initrd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unprivileged user neither reads nor writes entries, and reads no file twice for them."""
    monkeypatch.setattr(cache, "OWNER", os.geteuid() + 1)
    monkeypatch.setattr(cache, "_hash_file", lambda *_: pytest.fail("hashed"))
    assert contents(initrd).files == contents(initrd).files == SECOND
    assert reads.count == 2
    assert not Path(cache.DIRECTORY).exists()


@pytest.mark.parametrize("call", ["mkdir", "open", "link", "unlink", "scandir", "pread"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_errors_change_nothing(reads: Reads, initrd: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    real: Callable[..., object] = getattr(os, call)

    def fail(*arguments: Any, **named: Any) -> object:
        if call == "open" and not _is_temporary(arguments[1]):
            return real(*arguments, **named)
        raise OSError(number, "")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        assert contents(initrd).files == SECOND
    assert contents(initrd).files == SECOND


def _is_temporary(flags: int) -> bool:
    return flags & os.O_TMPFILE == os.O_TMPFILE


def test_a_full_disk_leaves_no_part(reads: Reads, initrd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def open_full(path: str, flags: int, *rest: int, **named: int) -> int:
        return real("/dev/full", os.O_WRONLY) if _is_temporary(flags) else real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", open_full)
    linked: list[object] = []
    monkeypatch.setattr(os, "link", lambda *names, **_: linked.append(names))
    initrd.write_bytes(cpio_archive(THIRD))  # less than one buffer
    assert contents(initrd).files == THIRD
    assert linked == entries() == []


def test_the_oldest_entries_go(reads: Reads, initrd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ENTRIES", 2)
    for number in range(3):
        initrd.write_bytes(GOOD.replace(b"second", b"%06d" % number))
        contents(initrd)
        for entry in entries():  # the clock of a filesystem may stand still between two of them
            os.utime(entry, ns=(0, entry.stat().st_mtime_ns - 1_000_000_000))
    assert len(entries()) == 2
    assert reads.count == 3
    for number, count in ((2, 3), (1, 3), (0, 4)):
        initrd.write_bytes(GOOD.replace(b"second", b"%06d" % number))
        contents(initrd)
        assert reads.count == count


def test_a_large_answer_is_not_kept(reads: Reads, initrd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ANSWER", 5000)
    contents(initrd)
    assert not Path(cache.DIRECTORY).exists()


def test_a_large_initrd_is_not_hashed(reads: Reads, initrd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_SIZE", 2 * len(GOOD) - 1)
    assert contents(initrd).files == SECOND
    assert len(entries()) == 1
    monkeypatch.setattr(cache, "_hash_file", lambda *_: pytest.fail("hashed"))
    assert contents(initrd, initrd).files == SECOND
    assert len(entries()) == 1


def test_two_runs_at_once(reads: Reads, initrd: Path) -> None:
    """Both find no entry, read, and write it."""
    barrier, results = Barrier(2), list[Contents]()
    reads.before = lambda: barrier.wait(60)
    runs = [Thread(target=lambda: results.append(contents(initrd))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert results == [Contents(SECOND, {})] * 2
    reads.before = lambda: None
    assert contents(initrd).files == SECOND
    assert (reads.count, len(entries())) == (2, 1)
