# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks that guests of the program's tests read beside their own."""

from __future__ import annotations

from vm.harness import guest, signed
from vm.harness.cache import output_of, temporary
from vm.harness.changes import Change, changed
from vm.harness.qemu import Disk

INITRD, THIN = "/dev/disk/by-id/virtio-initrd", "/dev/disk/by-id/virtio-thin"


def initrd_disk(suite: str = "forky", *, compressed: bool = False) -> Disk:
    """Make the suite's initrd a disk of the guest, INITRD; unpacking a compressed one takes seconds there."""
    source, path = signed.initrd(suite), temporary() / "initrd"
    if compressed:
        packed = temporary() / "packed"
        output_of("zstd", "-1", "-q", source, "-o", packed)
        source = packed
    guest.with_files(source, {}, path)
    return Disk(path, "raw", INITRD.rpartition("virtio-")[2], readonly=True)


def thin_initrd_disk(suite: str = "forky") -> Disk:
    """Make a disk of the guest, THIN, of signed.thin_initrd()."""
    path = temporary() / "thin"
    path.write_bytes(signed.thin_initrd(suite))
    return Disk(path, "raw", THIN.rpartition("virtio-")[2], readonly=True)


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
