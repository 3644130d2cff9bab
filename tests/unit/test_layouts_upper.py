# SPDX-License-Identifier: LGPL-2.1-or-later
"""layouts/upper.py: upper and work directories, of which none may be a link on the disk."""

import os
from pathlib import Path

import pytest

from bootseal.layouts import upper


def test_in_run(tmp_path: Path) -> None:
    made = upper.in_run(f"{tmp_path}/.private/root")
    assert made == (("upperdir", f"{tmp_path}/.private/root/upper"), ("workdir", f"{tmp_path}/.private/root/work"))
    assert [(tmp_path / ".private" / name).stat().st_mode & 0o777 for name in ("", "root/upper", "root/work")] == [
        0,
        0o755,
        0o700,
    ]
    assert upper.in_run(f"{tmp_path}/.private/root") == made


@pytest.mark.parametrize("there", [True, False])
def test_on_disk(there: bool, tmp_path: Path) -> None:  # noqa: FBT001
    if there:
        (tmp_path / "upper").mkdir(mode=0o711)
        (tmp_path / "work").mkdir()
    fd = os.open(tmp_path, os.O_PATH)
    options = dict(upper.on_disk(fd))
    assert {name: os.stat(path).st_ino for name, path in options.items()} == {
        f"{name}dir": (tmp_path / name).stat().st_ino for name in ("upper", "work")
    }
    assert (tmp_path / "upper").stat().st_mode & 0o777 == (0o711 if there else 0o755)
    os.close(fd)


@pytest.mark.parametrize("name", ["upper", "work"])
@pytest.mark.parametrize("kind", ["link", "link outside", "file", "fifo"])
def test_anything_else_on_the_disk_is_an_error(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / name
    if kind == "file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("real" if kind == "link" else "/run")
    fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
        upper.on_disk(fd)
    os.close(fd)
