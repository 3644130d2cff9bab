# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the program's guest tests share: files for a guest, initrds and changed disks as disks of one, signing, reports."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import guest
import support
import support_refusals as refusals
from guest_qemu import Disk
from support_refusals import Change

from bootseal.host.initrd import archive

INITRD = "/dev/disk/by-id/virtio-initrd"


def put_file(path: str, content: bytes) -> str:
    """Shell commands that make a file in the guest."""
    return f"mkdir -p {Path(path).parent}\nbase64 -d >{path} <<'END'\n{base64.encodebytes(content).decode()}END\n"


def initrd_disk(suite: str = "forky", *, compressed: bool = True) -> Disk:
    """The suite's initrd as INITRD, a disk of the guest; to unpack it takes seconds there."""
    source, path = support.initrd(suite), support.temporary() / "initrd"
    if not compressed:
        archives = [b"".join(map(bytes, chunks)) for chunks in archive.split_archives(source.read_bytes())]
        archives = [archive + bytes(-len(archive) % 512) for archive in archives]
        source = support.temporary() / "unpacked"
        source.write_bytes(b"".join(archives))
    guest.with_files(source, {}, path)
    return Disk(path, "raw", INITRD.rpartition("virtio-")[2], readonly=True)


def changed_disk(change: Change | None, serial: str, *, algorithm: str = "sha256", readonly: bool = True) -> Disk:
    """A disk with a change, kept as the difference to the good one."""
    image = support.image(algorithm=algorithm)
    changed = refusals.changed(image, change)
    delta = support.temporary() / "delta.qcow2"
    if changed == image.disk:
        support.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.disk, "-F", "raw", delta)
    else:
        support.run("qemu-img", "convert", "-O", "qcow2", "-B", image.disk, "-F", "raw", changed, delta)
        changed.unlink()
    return Disk(delta, "qcow2", serial, readonly=readonly)


def signed(cfs: Path, *options: str | Path) -> dict[str, bytes]:
    """What `bootseal sign` on this machine puts beside an image."""
    copy = support.temporary() / support.IMAGE
    copy.write_bytes(cfs.read_bytes())
    source = Path(__file__).resolve().parents[2] / "service"
    subprocess.run([sys.executable, "-I", source, "sign", copy, *options], check=True, stdout=subprocess.PIPE)
    return {name: copy.with_name(name).read_bytes() for name in (support.DIGEST, support.SIGNATURE)}


def json_of(section: str) -> dict[str, Any]:
    """The JSON line of a section."""
    line = next(line for line in section.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert isinstance(found, dict)
    return found
