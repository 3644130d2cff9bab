# SPDX-License-Identifier: LGPL-2.1-or-later
"""What other dracut modules leave in an initrd; tests/project/test_dracut.py compares the list with the build's."""

from __future__ import annotations

import re

import pytest

from bootseal.host.initrd import archive, bypasses
from bootseal.host.initrd.contents import Contents

from .initrds import Content, Symlink, cpio_archive


def _initrd(**files: Content) -> Contents:
    tree = archive.unpack(memoryview(cpio_archive({"usr/lib/os-release": b"", **files})))
    return tree.contents((), bypasses.NAMES)


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("usr/lib/ostree/ostree-prepare-root", "ostree"),
        ("usr/lib/systemd/system/bootc-root-setup.service", "bootc"),
        ("etc/systemd/system/composefs-setup-root.service", "composefs"),
        ("var/lib/dracut/hooks/pre-pivot/01-fips-crypto-policies.sh", "fips-crypto-policies"),
        ("usr/lib/dracut/hooks/pre-pivot/01-fips-crypto-policies.sh", "fips-crypto-policies"),
        ("etc/dracut/hooks/pre-pivot/99-do-convertfs.sh", "convertfs"),
        ("var/lib/dracut/hooks/pre-pivot/20-apply-live-updates.sh", "dmsquash-live"),
        ("var/lib/dracut/hooks/mount/01-mount-overlayfs.sh", "overlayfs"),
        ("var/lib/dracut/hooks/cleanup/99-nfsroot-cleanup.sh", "nfs"),
        ("usr/sbin/livenetroot", "livenet"),
        ("usr/lib/systemd/system-generators/systemd-hibernate-resume-generator", "resume"),
    ],
)
def test_found(path: str, module: str) -> None:
    numbered = re.sub(r"/\d\d-", "/*-", path)
    assert list(bypasses.found(_initrd(**{path: b""}))) == [(module, numbered)]


def test_found_behind_links() -> None:
    hooks: dict[str, Content] = {
        "var/lib/dracut/hooks/pre-pivot/61-evm-enable.sh": b"",
        "usr/lib/dracut/hooks": Symlink("/var/lib/dracut/hooks"),
    }
    found = list(bypasses.found(_initrd(**hooks, lib=Symlink("usr/lib"))))
    assert found[0] == ("integrity", "var/lib/dracut/hooks/pre-pivot/*-evm-enable.sh")
    assert {module for module, _ in found} == {"integrity"}


@pytest.mark.parametrize(
    "path",
    [
        "var/lib/dracut/hooks/pre-pivot/01-fips-noboot.sh",
        "var/lib/dracut/hooks/pre-udev/01-fips-crypto-policies.sh",
        "var/lib/dracut/hooks/pre-pivot/01-not-masterkey.sh",
        "usr/share/ostree-prepare-root",
        "usr/lib/systemd/system/bootc-root-setup.service.d/x.conf",
        "usr/sbin/livenetroot.txt",
    ],
)
def test_not_found(path: str) -> None:
    assert list(bypasses.found(_initrd(**{path: b""}))) == []
