# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps of make demo LAYOUT=composefs: the same as with ostree, in a repository of composefs-rs as bootc lays it out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from . import bootc
from .harness import composefs, guest
from .harness.ask import ask, put_file
from .harness.disk import Deployment
from .harness.parse import sections
from .harness.qemu import LONG
from .harness.signed import Key
from .show import (
    MOUNTS,
    SIGNER,
    STRANGER_NAME,
    SUITE,
    Show,
    console_lines,
    ended,
    enrolled,
    is_verified,
    make_key,
    record_of,
    show_first_boot,
    show_refused_boot,
    show_rest,
    sign,
)  # fmt: skip

RECORD = "cat /run/bootseal/boot.json"
FIRST_BOOT = {
    "systemctl status bootseal": "systemctl --no-pager --full --lines=0 status bootseal.service",
    RECORD: RECORD,
    "findmnt": "for top in / /etc /var /sysroot; do findmnt --noheadings --output TARGET,SOURCE,FSROOT $top; done",
}
UNITS = "journalctl -b -o cat -u bootseal-deploy.service -u bootseal-gate.service | grep '^bootseal:\\|^[0-9a-f]\\{12\\}'"

# The root user of the running system may write to the disk: that is the attacker. His image is as complete as the signed one.
SWAP = """
image=$1
cd /sysroot/composefs
mount -o remount,rw /sysroot
python3 -c 'import sys; sys.stdout.buffer.write(sys.stdin.buffer.read().replace(b"two\\n", b"bad\\n"))' <images/$image >altered
fsverity enable altered
new=$(fsverity measure altered | sed "s/sha256:\\([0-9a-f]*\\) .*/\\1/")
mkdir -p "objects/$(echo "$new" | cut -c 1-2)"
object=objects/$(echo "$new" | cut -c 1-2)/$(echo "$new" | cut -c 3-)
mv altered "$object"
fsverity measure images/$image
ln -sfn "../$object" images/$image
fsverity measure images/$image
sync
"""


@dataclass(frozen=True)
class Sealed:
    """A disk with two images of which the first is signed, signatures of the second, and the initrd with the certificate."""

    image: guest.Image
    disk: Path
    initrd: Path
    update: Deployment
    signature: bytes
    strangers: bytes

    @property
    def digest(self) -> str:
        return _digest(self.image.deployment)


def _digest(deployment: Deployment) -> str:
    return deployment.path.rpartition("/")[2]


def run(show: Show, work: Path) -> None:
    """Show all steps, up to the first of which something was not seen."""
    sealed = build(show, work)
    last = first_boot(show, sealed)
    for boot in (second_boot, third_boot, refused_boot):
        if not show.missed():  # each one needs what the boot before it did
            last = boot(show, sealed, last)


def build(show: Show, work: Path) -> Sealed:
    """Build a disk with a signed image, and its initrd, from Debian packages."""
    with show.step("A small operating system", f"Debian {SUITE}, from packages, and bootseal's own packages."):
        guest.os_tree(SUITE)
    why = "mkcomposefs makes two images and their objects; they lie on the disk as bootc puts them there."
    with show.step("Repository and disk", why):
        made, (one, two) = composefs.image(SUITE, files=False), composefs.root(SUITE).images.values()
        for image in (one, two):
            show.line(f"   composefs/images/{_digest(image)}, {image.cfs.stat().st_size:,} bytes")
    why = "openssl makes a key for this run alone, and another one for a stranger; 'fsverity sign' signs the images' digests."
    with show.step("Keys and signatures", why):
        key, stranger = make_key(work, SIGNER), make_key(work, STRANGER_NAME)
        update, strangers = (sign(two.cfs, work, by, composefs.PAIR)[f"{composefs.PAIR}.sig"] for by in (key, stranger))
    with show.step("Initrd", "dracut with the module 'bootseal', that certificate, and [Enroll] Method=fsverity."):
        conf = "[Enroll]\nMethod=fsverity\n"
        initrd = guest.initrd(SUITE, "bootseal", keys=[key.certificate], conf=conf, compress="zstd").built()
        show.line(f"   {initrd.stat().st_size:,} bytes")
    return Sealed(made, _complete(made, two, work, key, initrd), initrd, two, update, strangers)


def _complete(made: guest.Image, two: Deployment, work: Path, key: Key, initrd: Path) -> Path:
    """Copy the disk, with the first image's digest and signature, and this initrd in the boot entries."""
    pair = sign(made.deployment.cfs, work, key, composefs.PAIR)
    files = {f"{made.deployment.path}/{name}": content for name, content in pair.items()}
    content = initrd.read_bytes()
    files |= {f"boot/bootc_composefs-{_digest(image)}/initrd": content for image in (made.deployment, two)}
    return guest.replace_files(made.disk, files, work / "disk.raw")


def first_boot(show: Show, sealed: Sealed) -> guest.Result:
    """Boot for the first time."""
    why = "The initrd verifies the signature, enrolls it in the kernel, mounts the image; then the system starts."
    with show.step("First boot", why):
        result = guest.boot(
            sealed.image, sealed.initrd, whole=True, disk=sealed.disk, rw=True, script=ask(**FIRST_BOOT), title="first boot"
        )
        said, record = show_first_boot(show, result, sealed.digest)
    show.check("boot.json: the layout", seen=record.get("deployment", {}).get("layout") == "composefs")
    mounted = f"composefs:{sealed.digest}" in said.get("findmnt", "")
    show.check("the mounted root names that digest, as bootc expects it", seen=mounted)
    return result


def second_boot(show: Show, sealed: Sealed, before: guest.Result) -> guest.Result:
    """Boot again, and stage an update: signed by a stranger, then by the key of the initrd."""
    why = "Enrolled already, verified again. An update with a stranger's signature is held, and passes with the right one."
    two = _digest(sealed.update)

    def along(name: str, before: str = "") -> str:
        return bootc.write("boot", f"{before}cp /run/{name}.sig bootseal/{two}.sig")

    with show.step("Second boot, and an update", why):
        files = put_file("/run/stranger.sig", sealed.strangers) + put_file("/run/update.sig", sealed.signature)
        placed = f"until test -e /sysroot/{sealed.update.path}/bootseal.sig; do sleep 1; done"
        questions = {
            RECORD: RECORD,
            "systemctl enable --now bootseal-gate.path": "systemctl enable --now bootseal-gate.path 2>&1",
            "a signature by a stranger comes along": bootc.write(
                "boot", f"mkdir bootseal; cp /run/stranger.sig bootseal/{two}.sig"
            ),
            "the update is staged": f"stage {two}",
            "the units": f"gate_ran 1; {UNITS}",
            "the right signature comes along": along("update"),
            "the update is staged again": f"stage {two}; timeout 600 sh -c '{placed}'; gate_ran 2; {UNITS}",
        }
        result = _boot_on(sealed, before, files + bootc.shut_down(ask(**questions)), "second boot")
        said, lines = sections(result.report), console_lines(result.console)
        record = record_of(said)
        show.block("console", "\n".join(lines))
        show.block("enrollment in boot.json", json.dumps(record.get("enrollment", {})))
        show_rest(show, said)
    ended(show, result, guest.PASSED, "second boot reaches the system, stages an update, and shuts down")
    show.check("second boot: verified, same digest", seen=is_verified(record, sealed.digest) and bool(lines))
    enrollment = record.get("enrollment", {})
    show.check("second boot: enrolled before, nothing written", seen=enrolled(enrollment, first=False))
    held, passed = said.get("the units", ""), said.get("the update is staged again", "")
    show.check("the gate: with a stranger's signature, the update would not boot", seen="refused (untrusted-signer)" in held)
    show.check("the units put the right signature in place", seen="digest and signature are in place" in passed)
    show.check("the gate: the update would boot", seen="the staged deployment would boot: " in passed)
    show.check("the update is finalized at shutdown", seen="Result=success" in said.get("outcome", ""))
    return result


def third_boot(show: Show, sealed: Sealed, before: guest.Result) -> guest.Result:
    """Boot the update, and swap its image at the end."""
    why = "The update boots. Then root makes an image that nobody signed, and puts it in the place of the signed one."
    two = _digest(sealed.update)
    with show.step("Third boot, and an attack", why):
        questions = {
            RECORD: RECORD,
            "bootseal verify --all": "bootseal verify --all || :",
            "the swap": f"unshare -m sh -e /run/swap {two}",
        }
        script = put_file("/run/swap", SWAP.encode()) + ask(**questions)
        result = _boot_on(sealed, before, script, "third boot", karg=sealed.update.argument)
        said, lines = sections(result.report), console_lines(result.console)
        show.block("console", "\n".join(lines))
        show_rest(show, said)
    ended(show, result, guest.PASSED, "third boot reaches the system, and the image is swapped")
    updated = is_verified(record_of(said), two) and bool(lines)
    show.check("third boot: verified, with the digest of the update", seen=updated)
    swap = re.findall(r"sha256:([0-9a-f]{64}) ", said.get("the swap", ""))
    swapped = len(swap) == 2 and swap[0] == two != swap[1]
    show.check("an image with another digest, and fs-verity, stands in the place of the signed one", seen=swapped)
    return result


def refused_boot(show: Show, sealed: Sealed, before: guest.Result) -> guest.Result:
    """Check that the swapped image does not boot."""
    why = "The image is a valid one; its fs-verity digest is not the signed one. Nothing of it may be mounted."
    with show.step("Boot with the swapped image", why):
        result = guest.boot(
            sealed.image, sealed.initrd, whole=True, disk=before.overlay, rw=True, karg=sealed.update.argument,
            emergency_script=MOUNTS, title="refused boot",
        )  # fmt: skip
        show_refused_boot(show, result, f"composefs/images/{_digest(sealed.update)}")
    return result


def _boot_on(sealed: Sealed, before: guest.Result, script: str, title: str, karg: str | None = None) -> guest.Result:
    """Boot the disk that the boot before left."""
    return guest.boot(
        sealed.image, sealed.initrd, whole=True, disk=before.overlay, rw=True, karg=karg, snapshot=False, script=script,
        timeout=LONG, title=title,
    )  # fmt: skip
