# SPDX-License-Identifier: LGPL-2.1-or-later
"""contents.py: the directory that stands for an initrd."""

from __future__ import annotations

import os
from pathlib import Path

from bootseal.host.initrd.contents import written_out
from bootseal.stages import config, keyring

from .initrds import (
    Content,
    Symlink,
    cpio_archive,
    unpack,
)
from .program import certificate


def test_written_out_for_the_boots_own_code(tmp_path: Path) -> None:
    pem = certificate("p256").read_bytes()
    files: dict[str, Content] = {
        "etc/bootseal/keys.d/a.pem": pem,
        "etc/bootseal/keys.d/masked.crt": Symlink("/dev/null"),
        "usr/lib/bootseal/keys.d/masked.crt": pem,
        "usr/lib/bootseal/keys.d/link.crt": Symlink("/usr/share/certificate"),
        "usr/share/certificate": certificate("p384").read_bytes(),
        "etc/bootseal/keys.d/outside.crt": Symlink(f"{tmp_path}/outside.pem"),
        "etc/bootseal/bootseal.conf": b"[Enroll]\nMethod=none\n",
        "etc/bootseal/bootseal.conf.d/10.conf": b"[Enroll]\nMethod=fsverity\n",
    }
    (tmp_path / "outside.pem").write_bytes(pem)
    directories = ["etc/bootseal", "etc/bootseal/bootseal.conf.d", "etc/bootseal/keys.d", "usr/lib/bootseal/keys.d"]
    with written_out(unpack(cpio_archive(files)).contents(directories, ())) as top:
        assert config.load(top).method == "fsverity"
        paths = config.drop_ins(top, keyring.DIRECTORY, keyring.SUFFIXES)
        assert [Path(path).name for path in paths] == ["a.pem", "link.crt"]
        assert not [p for p in Path(top).rglob("*") if p.is_symlink() and os.readlink(p) != "/dev/null"]
    assert not Path(top).exists()
