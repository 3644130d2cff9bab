# SPDX-License-Identifier: LGPL-2.1-or-later
"""objects.py: the objects that an image names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bootseal.host import objects
from bootseal.linux import files
from unit.support import raising


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
def test_an_object_that_is_no_file_is_missing(kind: str, tmp_path: Path, outside: Path) -> None:
    (tmp_path / "ab").mkdir()
    path = tmp_path / "ab" / ("c" * 62)
    (outside / "x").touch()
    {"fifo": os.mkfifo, "directory": os.mkdir, "link": lambda p: p.symlink_to(outside / "x")}[kind](path)
    directory = os.open(tmp_path, os.O_PATH)
    assert objects.Store(directory)._find_state("ab/" + "c" * 62) == "missing"
    os.close(directory)


@pytest.mark.parametrize(("features", "hint"), [((), "use a kernel with fs-verity"), (("verity",), "enable fs-verity in the")])
def test_the_kernel_may_lack_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], hint: str) -> None:
    for name in features:
        (tmp_path / name).touch()
    monkeypatch.setattr(objects, "_EXT4_FEATURES", str(tmp_path))
    assert objects.hint(OSError(errno.EOPNOTSUPP, "")).startswith(hint)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_an_object_that_cannot_be_opened_is_an_error(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open_regular", raising(error))
    with pytest.raises(OSError, match=os.strerror(error)):
        objects.Store(-1)._find_state("ab/x")


def _named(tmp_path: Path, content: bytes) -> set[str]:
    (tmp_path / "image").write_bytes(content)
    with (tmp_path / "image").open("rb") as file:
        return objects._find_names(file.fileno())


NAMES = [f"{n:02x}/{chr(97 + n) * 62}{suffix}" for n, suffix in enumerate(["", ".file"] * 3)]


@pytest.mark.parametrize("between", [0, 1, 3, 60, 75, 200])
def test_names_in_an_image_wherever_it_is_cut(between: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\0".join(b"x" * between + b"/" + name.encode() for name in NAMES)
    for chunk in range(1, 160):
        monkeypatch.setattr(objects, "_CHUNK", chunk)
        assert _named(tmp_path, content) == set(NAMES)


def test_an_image_that_names_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(b"/ab/%062x\0" % number for number in range(100)) + bytes(100)
    monkeypatch.setattr(objects, "MAX_OBJECTS", 100)
    assert len(_named(tmp_path, content)) == 100
    monkeypatch.setattr(objects, "MAX_OBJECTS", 99)
    with pytest.raises(OSError, match="File too large"):
        _named(tmp_path, content)
    monkeypatch.setattr(objects, "MAX_SIZE", len(content) - 1)
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("read"))
    with pytest.raises(OSError, match="File too large"):
        _named(tmp_path, content)
