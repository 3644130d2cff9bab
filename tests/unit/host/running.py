# SPDX-License-Identifier: LGPL-2.1-or-later
"""The running system that `bootseal status` asks: /run, mounts, systemd and udev of a test."""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bootseal import report
from bootseal.digest import Digest
from bootseal.host.commands import status
from bootseal.host.live import blockdevices, chain, drift, gptauto, systemd
from bootseal.linux import keyctl
from bootseal.record import Trail, as_json, of, success
from bootseal.stages import image, kernelkeys, origin
from bootseal.values import Mounted, Origin, Release
from unit.support import deployment, enrolled, kernel_keys, pinned, trusting, verified

DIGEST = pinned().verified.digest
SOURCE = f"composefs:{DIGEST.value.hex()}"
ROOT_LINE = f"30 1 0:25 / / ro - overlay {SOURCE} ro,lowerdir=x,redirect_dir=on,metacopy=on,verity=require"
SYSROOT_LINE = "31 30 254:1 / /sysroot ro - ext4 /dev/vda1 ro"
USUAL = (
    ROOT_LINE, SYSROOT_LINE, "32 30 254:1 /e /etc rw - ext4 /dev/vda1 ro", "33 30 254:1 /v /var rw - ext4 /dev/vda1 ro",
    "34 30 0:5 / /proc rw - proc proc rw", "35 30 0:6 / /dev rw - devtmpfs udev rw", "36 35 0:7 / /dev/shm rw - tmpfs tmpfs rw",
    "37 30 0:8 / /run rw - tmpfs tmpfs rw", "38 30 0:9 / /tmp rw - tmpfs tmpfs rw", "39 33 0:10 / /var/tmp rw - tmpfs t rw",
)  # fmt: skip


def table(*lines: str) -> drift.Mounts:
    found = [drift.Mount(line) for line in (*USUAL, *lines)]
    return drift.Mounts(found[0], found)


def recorded(*not_covered: str, missing: tuple[Any, ...] = (), **changes: Any) -> dict[str, Any]:
    """The content of boot.json after a good boot, as the boot itself makes it."""
    seen = Trail()
    release = changes.pop("release", Release("edge", "41.3"))
    for value in (
        report.this_machine(), trusting("p256"), kernel_keys(sealed=changes.pop("sealed", True)), deployment(), verified(),
        pinned(), enrolled(missing, **changes), Origin(()) if not_covered else origin.look(),
        Mounted(-1, "ro,verity=require", b"", b"", not_covered or ("/etc", "/var"), release),
    ):  # fmt: skip
        seen(value)
    content: dict[str, Any] = json.loads(json.dumps(as_json(of(seen, success(seen)))))
    return content


def named(checks: list[drift.Check], name: str) -> drift.Check:
    (found,) = (check for check in checks if check.name == name)
    return found


INITRD, LINE = "initrd (not known)", "kernel command line (not known)"


class World:
    """What the functions of the program find, each of which a test may change."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.run, self.patch = directory / "run", patch
        self.run.mkdir()
        patch.setattr(report, "PATH", str(self.run / "boot.json"))
        self.write(recorded())
        self.sysroot = directory / "sysroot"
        (self.sysroot / deployment().path / "etc").mkdir(parents=True)
        self.etc("/etc")
        for module, name in ((origin, "_IMPORTED"), (origin, "_EXTRA"), (gptauto, "_GENERATED"), (gptauto, "_SWAPS")):
            patch.setattr(module, name, str(directory / name))
        self.mounted()
        self.measured(lambda *_: DIGEST)
        self.keys(str(DIGEST))
        self.firmware = chain.Firmware(secure_boot=False, unified=False)
        self.unit = systemd.Unit("loaded", "active", "exited", "success", "verified", 0)
        self.soft_reboots: int | None = 0
        own = drift.checks
        patch.setattr(drift, "checks", lambda record, now: own(record, now, str(self.sysroot)))
        patch.setattr(chain, "firmware", lambda: self.firmware)
        patch.setattr(systemd, "ask", lambda: systemd.Answer(self.unit, self.soft_reboots))
        disk = blockdevices.Device("/dev/vda", "disk", "", False, 0)
        patch.setattr(blockdevices, "behind", lambda _: ([disk], []))

    def write(self, record: object) -> None:
        (self.run / "boot.json").write_text(json.dumps(record))

    def etc(self, target: str) -> None:
        """What the deployment's own /etc is: a directory that is seen at /etc, or not."""
        own = str(self.sysroot / deployment().path / "etc")
        self.patch.setattr(drift, "_ETC", own if target == "/etc" else target)

    def mounted(self, *lines: str) -> None:
        self.patch.setattr(drift, "mounts", lambda: table(*lines))

    def measured(self, enforced: Callable[..., Digest]) -> None:
        self.patch.setattr(image, "enforced_digest", enforced)

    def keys(self, *held: str, locked: bool = True, ring: bool = True, uid: int = 0) -> None:
        self.patch.setattr(os, "geteuid", lambda: uid)
        self.patch.setattr(kernelkeys, "find_fsverity_keyring", lambda: 1)
        self.patch.setattr(kernelkeys, "is_locked", lambda _: locked)
        self.patch.setattr(kernelkeys, "list_members", lambda _: {kernelkeys.DIGEST_KEYRING: 2} if ring else {})
        self.patch.setattr(keyctl, "members", lambda _: tuple(range(10, 10 + len(held))))
        self.patch.setattr(keyctl, "read", lambda key: held[key - 10].encode())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    def call(mode: str = "off") -> Said:
        capfd.readouterr()
        result = status.run(argparse.Namespace(json=mode), [])
        return Said(result, *capfd.readouterr())

    yield call
