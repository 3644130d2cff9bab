# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical roots with deployments, made by hand, and what a hostile disk may put into them."""

from __future__ import annotations

import json
import os
import subprocess
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootseal.formats import gvariant
from bootseal.host import deployments
from bootseal.host.commands import gate
from bootseal.host.deployed import Deployed
from bootseal.host.layouts import composefs, ostree
from bootseal.layouts import ostreebooted
from unit.support import deployment, root_config

from .initrds import Content, Symlink, cpio_archive
from .program import bootseal, certificate, key, signed

A, B, C = ("a" * 64, "b" * 64, "c" * 64)  # checksums
EVIL = "verified sha256:0 by vendor"  # a name of the disk


class Root:
    """A physical root with deployments, made by hand."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "ostree/repo/objects").mkdir(parents=True)
        (top / "boot/loader/entries").mkdir(parents=True)
        (top / "ostree/deploy/os/var").mkdir(parents=True)

    def add(self, checksum: str, version: int | None = None, *, etc: bool = True, initrd: str = "") -> str:
        """Add a deployment, with a boot entry of this version."""
        path = f"ostree/deploy/os/deploy/{checksum}.0"
        for name in ("usr/etc", "usr/lib/modules/6.12", *(["etc"] if etc else [])):
            (self.top / path / name).mkdir(parents=True)
        (self.top / path / ".ostree.cfs").write_bytes(b"image " + checksum.encode())
        if version is not None:
            link = self.top / "ostree/boot.1/os" / checksum / "0"
            link.parent.mkdir(parents=True)
            link.symlink_to(f"../../../../{path}")
            lines = [f"title x ({version})", f"version {version}", f"options quiet ostree=/ostree/boot.1/os/{checksum}/0 rw"]
            lines += [f"initrd {initrd}"] if initrd else []
            (self.top / f"boot/loader/entries/ostree-{version}.conf").write_text("\n".join(lines) + "\n")
        return path

    def set_initrd(self, content: bytes) -> None:
        (self.top / "boot/initrd.img").write_bytes(content)

    def found(self) -> list[Deployed]:
        return deployments.list_all(str(self.top))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    """Make the physical root of the running system, with nothing booted and nothing staged."""
    monkeypatch.setattr(deployments, "default_sysroot", lambda: str(tmp_path / "root"))
    monkeypatch.setattr(ostree, "STAGED", str(tmp_path / "staged"))
    monkeypatch.setattr(composefs, "STAGED", str(tmp_path / "staged-image"))
    monkeypatch.setattr(ostreebooted, "PATH", str(tmp_path / "ostree-booted"))
    return Root(tmp_path / "root")


def _strv(words: list[str]) -> bytes:
    """Serialize a GVariant of type as."""
    body, ends = b"", []
    for word in words:
        body += word.encode() + b"\0"
        ends.append(len(body))
    width = next(width for width in (1, 2, 4) if len(body) + width * len(ends) < 1 << (8 * width))
    return body + b"".join(end.to_bytes(width, "little") for end in ends)


def stage(root: Root, checksum: str, *arguments: str) -> None:
    """Write what ostree_sysroot_stage_tree() writes, with the serializer of the boot."""
    target = gvariant.write_vardict(
        {
            "name": ("s", f"{checksum}.0\0".encode()),
            "osname": ("s", b"os\0"),
            "bootcsum": ("s", b"d" * 64 + b"\0"),
        }
    )
    kargs = _strv(["quiet", "ostree=/ostree/boot.1/old", *arguments])
    content = gvariant.write_vardict({"target": ("a{sv}", target), "locked": ("b", b"\0"), "kargs": ("as", kargs)})
    Path(ostree.STAGED).write_bytes(content)
    (root.top.parent / "ostree-booted").touch()


def set_booted(root: Root, path: str) -> None:
    """Write /run/ostree-booted for a deployment."""
    fd = os.open(root.top / path, os.O_PATH)
    Path(ostreebooted.PATH).write_bytes(ostreebooted.serialize(deployment(fd), root_config(), ""))


def failing(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, end: str, number: int) -> None:
    """Make a function fail if one of its arguments ends with this text."""
    real = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if any(isinstance(a, str) and a.endswith(end) for a in arguments):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, call)


def make_initrd(**more: bytes | Symlink) -> bytes:
    """Make an initrd with bootseal and the key p256."""
    unit = "usr/lib/systemd/system/initrd-root-fs.target.requires/bootseal.service"
    files: dict[str, Content] = {
        unit: Symlink("../bootseal.service"),
        "usr/lib/systemd/system/bootseal.service": b"[Unit]\n",
        "usr/lib/bootseal/__main__.py": b"",
        "etc/bootseal/keys.d/a.pem": certificate("p256").read_bytes(),
        **more,
    }
    return cpio_archive(files)


@pytest.fixture
def signed_root(root: Root) -> Root:
    """Make one signed deployment with its initrd, without fs-verity, which this machine may lack."""
    path = root.add(A, 1, initrd="/initrd.img")
    root.set_initrd(make_initrd())
    signed(root.top / path / ".ostree.cfs", "--key", key("p256"), "--cert", certificate("p256"))
    return root


def run_verify(root: Root, *options: str | Path) -> tuple[int, dict[str, object]]:
    """Run 'bootseal verify', and return its exit status and record."""
    result = bootseal("verify", "--sysroot", root.top, "--json=short", *options)
    return result.returncode, json.loads(result.stdout)


def run_gate(monkeypatch: pytest.MonkeyPatch, switch: str) -> int:
    """Run the gate; `switch` is the answer of 'systemctl is-enabled'."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Namespace(stdout=switch + "\n"))
    return gate.run(Namespace(), [])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Make a directory beside the physical root, which links of the disk lead to."""
    path = tmp_path / "outside"
    path.mkdir()
    return path


@pytest.fixture
def tree(signed_root: Root) -> Path:
    """Return the directory of a signed deployment with a boot entry and an initrd."""
    return signed_root.top / f"ostree/deploy/os/deploy/{A}.0"


def link_to_fifo(path: Path, outside: Path) -> None:
    os.mkfifo(outside / "fifo")
    path.symlink_to(outside / "fifo")


def link_parent(path: Path, outside: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(outside)


def make_huge(path: Path, _: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def fill(directory: Path, count: int, suffix: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (directory / f"{number}{suffix}").touch()


# Replacements for an image on a hostile disk.
IMAGES: dict[str, Callable[[Path, Path], object]] = {
    "linked": lambda image, outside: image.symlink_to(outside / "image"),
    "fifo": lambda image, _: os.mkfifo(image),
    "linked fifo": link_to_fifo,
    "huge": make_huge,
}
