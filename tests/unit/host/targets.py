# SPDX-License-Identifier: LGPL-2.1-or-later
"""A deployment to complete, with fs-verity played by a recorder."""

from __future__ import annotations

import errno
import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootseal import digest
from bootseal.host import checker
from bootseal.host.commands import deploy
from bootseal.linux import files, fsverity

from .program import beside, certificate, key, signed
from .roots import A, Root


class Verity:
    """fs-verity of a filesystem that has it: by inode, with the real digest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.enabled: dict[int, tuple[int, bytes]] = {}
        self.calls: list[str] = []
        self.error = 0
        monkeypatch.setattr(fsverity, "enable", self.enable)
        monkeypatch.setattr(fsverity, "measure", self.measure)

    def enable(self, fd: int, algorithm: int, block_size: int, signature: bytes) -> None:
        assert (block_size, signature) == (4096, b"")
        self.calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if self.error:
            raise OSError(self.error, "injected")
        if os.fstat(fd).st_ino in self.enabled:
            raise FileExistsError(errno.EEXIST, "exists")
        content = os.pread(fd, 1 << 20, 0)
        self.enabled[os.fstat(fd).st_ino] = (algorithm, digest.of_bytes(content, fsverity.ALGORITHMS[algorithm]).value)

    def measure(self, fd: int) -> tuple[int, bytes]:
        try:
            return self.enabled[os.fstat(fd).st_ino]
        except KeyError:
            raise OSError(errno.ENODATA, "none") from None


class Target:
    """A root with one unsigned deployment whose directory is immutable, and a signature for it."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = Root(top / "root")
        self.directory = self.root.top / self.root.add(A, 1)
        self.object = self.root.top / f"ostree/repo/objects/ab/{'c' * 62}.file"
        self.object.parent.mkdir()
        self.object.write_bytes(b"object")
        self.image = self.directory / ".ostree.cfs"
        self.image.write_bytes(b"image naming /ab/" + b"c" * 62 + b".file\0" + b"/ab/" + b"d" * 62 + b".file")
        self.keys = top / "keys"
        self.keys.mkdir()
        (self.keys / "a.pem").write_bytes(certificate("p256").read_bytes())
        copy = top / "copy.cfs"
        copy.write_bytes(self.image.read_bytes())
        signed(copy, "--key", key("p256"), "--cert", certificate("p256"))
        self.pair = beside(copy)
        self.signature = Path(f"{copy}.sig")
        self.digest = Path(f"{copy}.digest")
        self.verity = Verity(monkeypatch)
        self.set_immutable(True)
        monkeypatch.setattr(checker, "judge", lambda *_: {"verdict": "verified", "exit_status": 0, "missing": [], "hint": ""})

    def set_immutable(self, immutable: bool) -> None:  # noqa: FBT001
        fd = os.open(self.directory, os.O_RDONLY)
        files.set_immutable(fd, immutable=immutable)
        os.close(fd)

    @property
    def immutable(self) -> bool:
        fd = os.open(self.directory, os.O_RDONLY)
        try:
            return files.is_immutable(fd)
        finally:
            os.close(fd)

    def run(self, **more: Any) -> int:
        options = {
            "deployment": None,
            "digest": None,
            "signature": str(self.signature),
            "objects": False,
            "offline": False,
            "all": False,
            "json": "short",
        }
        options |= {"sysroot": str(self.root.top), "initrd": None, "keys": str(self.keys), "system_keys": False}
        return deploy.run(Namespace(**(options | more)), [])

    def beside(self) -> set[str]:
        return {p.name for p in self.directory.iterdir() if ".ostree.cfs" in p.name} | {
            p.name for p in self.directory.parent.iterdir()
        }


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    made = Target(tmp_path, monkeypatch)
    yield made
    made.set_immutable(False)


NOTHING = {".ostree.cfs", f"{A}.0"}
BOTH = NOTHING | {".ostree.cfs.digest", ".ostree.cfs.sig"}
