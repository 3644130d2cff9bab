# SPDX-License-Identifier: LGPL-2.1-or-later
"""ostreebooted.py: the keys that ostree reads, and the file in /run."""

import os
import struct
from pathlib import Path

import pytest

from bootseal.formats import gvariant
from bootseal.layouts import ostreebooted
from unit.support import deployment, root_config

TRUE, FALSE = ("b", b"\1"), ("b", b"\0")


def text(value: str) -> tuple[str, bytes]:
    return "s", value.encode() + b"\0"


@pytest.mark.parametrize("transient_ro", [False, True])
@pytest.mark.parametrize("transient_etc", ["", "/run/ostree/transient-etc.abc"])
def test_serialize(transient_etc: str, *, transient_ro: bool, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    found = os.stat(tmp_path)
    config = root_config(root_transient=transient_ro, sysroot_readonly=not transient_ro)
    flag = TRUE if transient_ro else FALSE
    expected = {
        "backing-root-device-inode": ("(tt)", struct.pack("=QQ", found.st_dev, found.st_ino)),
        "root.transient": flag,
        "root.transient-ro": flag,
        "composefs": TRUE,
        "composefs.verity": TRUE,
        "sysroot-ro": FALSE if transient_ro else TRUE,
    } | ({"transient-etc": text(transient_etc)} if transient_etc else {})
    assert ostreebooted.serialize(deployment(fd=fd), config, transient_etc) == gvariant.write_vardict(expected)
    os.close(fd)


def test_a_writable_transient_root_is_not_called_read_only(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    config = root_config(root_transient=True, root_readonly=False)
    made = ostreebooted.serialize(deployment(fd=fd), config, "")
    assert b"root.transient\0\0\1\0b" in made
    assert b"root.transient-ro\0\0\0\0\0\0\0\0\0b" in made
    os.close(fd)


def test_write_and_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ostreebooted, "PATH", str(tmp_path / "ostree-booted"))
    ostreebooted.write(b"content")
    assert (tmp_path / "ostree-booted").read_bytes() == b"content"
    ostreebooted.remove()
    assert os.listdir(tmp_path) == []
    ostreebooted.remove()
