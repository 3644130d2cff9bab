# SPDX-License-Identifier: LGPL-2.1-or-later
"""Digest and signature: the one never without the other, at whichever step it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootseal.host import sidecars
from bootseal.host.sidecars import Pair, Place

OLD, NEW = Pair(b"old-digest", b"old-signature"), Pair(b"new-digest", b"new-signature")
_RENAME = os.rename
AGAIN = Pair(OLD.digest, b"another-signature")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield Place(fd, "image", fd, ".image.bootseal")
    os.close(fd)


def _write(place: Place, content: Pair) -> None:
    with sidecars.staged(place, content):
        sidecars.install(place, content)


def _files(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("before", [None, OLD, AGAIN, NEW])
def test_written(tmp_path: Path, place: Place, before: Pair | None) -> None:
    if before:
        _write(place, before)
    _write(place, NEW)
    assert _files(tmp_path) == {"image.digest": NEW.digest, "image.sig": NEW.signature}
    assert sidecars.read(place) == NEW


def _calls(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> list[int]:
    """Calls `before` ahead of each system call that changes the directory; returns the count."""
    count = [0]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            before(count[0])
            return real(*arguments, **named)

        return call

    for name in ("open", "link", "rename", "unlink", "fsync"):
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))
    return count


class Cut(BaseException):
    """The power fails: nothing that comes after is done."""


@pytest.mark.parametrize("before", [None, OLD], ids=["first", "second"])
@pytest.mark.parametrize("new", [NEW, AGAIN], ids=["new-digest", "same-digest"])
def test_cut_at_every_step(tmp_path: Path, place: Place, before: Pair | None, new: Pair) -> None:
    """Whatever was reached: the old pair, the new one, or one that is refused by name; and the next run completes it."""
    allowed = {before, new}
    between: set[Pair | None] = {None} if before is None else {Pair(before.digest, new.signature)}
    for step in range(1, 60):
        for entry in tmp_path.iterdir():
            entry.unlink()
        if before:
            _write(place, before)
        with pytest.MonkeyPatch.context() as patch:
            dead = [False]

            def stop(number: int, step: int = step, dead: list[bool] = dead) -> None:
                if number >= step or dead[0]:
                    dead[0] = True
                    raise Cut

            _calls(patch, stop)
            try:
                _write(place, new)
                done = True
            except Cut:
                done = False
        found = sidecars.read(place)
        assert found in allowed | between
        if before is not None and new.digest == before.digest:
            assert found in allowed
        assert not (tmp_path / "image.digest").exists() or (tmp_path / "image.sig").exists()
        _write(place, new)
        assert _files(tmp_path) == {"image.digest": new.digest, "image.sig": new.signature}
        if done:
            return
    pytest.fail("it never came to an end")


@pytest.mark.parametrize("before", [None, OLD], ids=["first", "second"])
def test_error_at_every_rename_takes_it_back(tmp_path: Path, place: Place, before: Pair | None) -> None:
    if before:
        _write(place, before)
    for failing in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            renames = [0]

            def rename(*arguments: Any, _failing: int = failing, _renames: list[int] = renames, **named: Any) -> None:
                _renames[0] += 1
                if _renames[0] == _failing:
                    raise OSError(errno.EIO, "injected")
                _RENAME(*arguments, **named)

            patch.setattr(os, "rename", rename)
            with pytest.raises(OSError, match="injected"):
                _write(place, NEW)
        assert _files(tmp_path) == ({"image.digest": OLD.digest, "image.sig": OLD.signature} if before else {})


def _fsyncs(monkeypatch: pytest.MonkeyPatch, place: Place, failing: int = 0) -> list[str]:
    """What comes to the disk from here on, in order, renames too; the fsync of the directory with this number fails."""
    real, seen = os.fsync, list[str]()

    def fsync(fd: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        seen.append("directory" if os.path.samestat(os.fstat(fd), os.fstat(place.directory)) else name)
        if seen.count("directory") == failing and seen[-1] == "directory":
            raise OSError(errno.EIO, "injected")
        real(fd)

    def rename(source: str, target: str, **named: int) -> None:
        seen.append(f"> {target}")
        _RENAME(source, target, **named)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    return seen


@pytest.mark.parametrize("before", [None, OLD], ids=["first", "second"])
def test_a_disk_that_fails_at_the_last_fsync(
    tmp_path: Path, place: Place, before: Pair | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken back, and that is on the disk: else a power cut would show what was reported as not done."""
    if before:
        _write(place, before)
    seen = _fsyncs(monkeypatch, place, failing=2)  # the first is the staging's
    with pytest.raises(OSError, match="injected"):
        _write(place, NEW)
    assert _files(tmp_path) == ({"image.digest": OLD.digest, "image.sig": OLD.signature} if before else {})
    assert seen[-1] == "directory"
    assert seen.count("directory") == 3


def test_an_error_that_was_taken_back_is_on_the_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(place, OLD)
    seen = _fsyncs(monkeypatch, place)
    failing = iter([False, True, False])
    real = os.rename

    def rename(source: str, target: str, **named: int) -> None:
        if next(failing):
            raise OSError(errno.EIO, "injected")
        real(source, target, **named)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="injected"):
        _write(place, NEW)
    assert seen[-2:] == ["> image.sig", "directory"]


def test_a_digest_that_stays_is_on_the_disk_first(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it need not have waited for that."""
    (tmp_path / "image.digest").write_bytes(NEW.digest)
    seen = _fsyncs(monkeypatch, place)
    _write(place, NEW)
    assert seen[-3:] == ["image.digest", "> image.sig", "directory"]


def test_leftovers_of_an_earlier_run_are_removed_unread(tmp_path: Path, place: Place) -> None:
    (tmp_path / ".image.bootseal.sig.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        _write(place, NEW)
    (tmp_path / ".image.bootseal.sig.new").rmdir()
    (tmp_path / ".image.bootseal.sig.new").symlink_to("/nowhere/else")
    _write(place, NEW)
    assert _files(tmp_path) == {"image.digest": NEW.digest, "image.sig": NEW.signature}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path, place: Place) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    for name in ("image.digest", "image.sig"):
        (tmp_path / name).symlink_to("elsewhere")
    _write(place, NEW)
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"
    assert not (tmp_path / "image.sig").is_symlink()
    assert sidecars.read(place) == NEW


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK], ids=errno.errorcode.get)
@pytest.mark.parametrize("failing", [0, 1, 2], ids=["none", "first", "second"])
def test_without_hard_links(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, failing: int, error: int) -> None:
    """vfat has none, and Linux makes none to a file of another user (fs.protected_hardlinks)."""
    _write(place, OLD)
    renames = [0]

    def link(*_: Any, **__: Any) -> None:
        raise OSError(error, "injected")

    def rename(*arguments: Any, **named: Any) -> None:
        renames[0] += 1
        if renames[0] == failing:
            raise OSError(errno.EIO, "injected")
        _RENAME(*arguments, **named)

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="injected") if failing else contextlib.nullcontext():
        _write(place, NEW)
    expected = OLD if failing else NEW
    assert _files(tmp_path) == {"image.digest": expected.digest, "image.sig": expected.signature}


def test_signals_wait_between_the_two_renames(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    real = os.rename

    def rename(*arguments: Any, **named: Any) -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        real(*arguments, **named)

    monkeypatch.setattr(os, "rename", rename)
    _write(place, NEW)
    assert len(masks) == 2
    assert all({signal.SIGINT, signal.SIGTERM} <= mask for mask in masks)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
