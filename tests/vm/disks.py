# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks that guests of the program's tests read beside their own."""

from __future__ import annotations

from bootseal.host.initrd import archive
from vm.harness import guest, signed
from vm.harness.cache import output_of, temporary
from vm.harness.changes import Change, changed
from vm.harness.qemu import Disk

INITRD = "/dev/disk/by-id/virtio-initrd"


def initrd_disk(suite: str = "forky", *, compressed: bool = True) -> Disk:
    """Make the suite's initrd a disk of the guest, INITRD; unpacking it takes seconds there."""
    source, path = signed.initrd(suite), temporary() / "initrd"
    if not compressed:
        archives = [b"".join(map(bytes, chunks)) for chunks in archive.split_archives(source.read_bytes())]
        archives = [archive + bytes(-len(archive) % 512) for archive in archives]
        source = temporary() / "unpacked"
        source.write_bytes(b"".join(archives))
    guest.with_files(source, {}, path)
    return Disk(path, "raw", INITRD.rpartition("virtio-")[2], readonly=True)


def changed_disk(change: Change | None, serial: str, *, algorithm: str = "sha256", readonly: bool = True) -> Disk:
    """Make a disk with a change, stored as the difference to the good one."""
    image = signed.image(algorithm=algorithm)
    disk = changed(image, change)
    delta = temporary() / "delta.qcow2"
    if disk == image.disk:
        output_of("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.disk, "-F", "raw", delta)
    else:
        output_of("qemu-img", "convert", "-O", "qcow2", "-B", image.disk, "-F", "raw", disk, delta)
        disk.unlink()
    return Disk(delta, "qcow2", serial, readonly=readonly)
