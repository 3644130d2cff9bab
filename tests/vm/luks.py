# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks below LUKS, and initrds that open them."""

from __future__ import annotations

from pathlib import Path

from vm.harness import guest, signed, tree
from vm.harness.cache import output_of, temporary

PASSPHRASE = b"not a secret"
_UUID = "01234567-89ab-cdef-0123-456789abcdef"
_UUID_AT = slice(168, 208)  # in the header of version 1, which has no checksum
CMDLINE = f"rd.luks.name={_UUID}=root root=/dev/mapper/root"
KEY_FILE = f"rd.luks.key={_UUID}=/etc/guest.key"
_MODULES = ("systemd-cryptsetup", "crypt", "dm")


def encrypt(_: guest.Image, disk: Path) -> None:
    """Change a copied disk to a LUKS container with its content."""
    made = temporary() / "luks.raw"
    secret = ("--object", f"secret,id=key,data={PASSPHRASE.decode()}", "-O", "luks", "-o", "key-secret=key,iter-time=10")
    while not _converted("qemu-img", "convert", *secret, "-f", "raw", disk, made):
        pass
    with made.open("r+b") as file:
        file.seek(_UUID_AT.start)
        file.write(_UUID.encode().ljust(_UUID_AT.stop - _UUID_AT.start, b"\0"))
    made.replace(disk)


def _converted(*command: str | Path) -> bool:
    """Convert; False if qemu-img measured no time for its key derivation, as it may on any machine."""
    try:
        output_of(*command)
    except guest.GuestError as error:
        if "accurate CPU usage" in str(error):
            return False
        raise
    return True


def initrd(suite: str) -> Path:
    """Build an initrd that can open the disk."""
    kept = " ".join(name for name in tree.OMITTED_MODULES.split() if name not in _MODULES)
    conf = f'omit_dracutmodules=" ostree {kept} "\nadd_dracutmodules+=" {" ".join(_MODULES)} "\n'
    return guest.initrd(suite, keys=[signed.named(signed.key().certificate)], dracut_conf=conf).built()
