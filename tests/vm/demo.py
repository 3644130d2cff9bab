#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""make demo [LAYOUT=composefs]: a signed root boots, is updated, keeps a stranger's update out, and is refused once swapped.

All of it is shown from inside. Everything is real: Debian packages, ostree, dracut, QEMU. The keys are gone with this run.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this package is
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "service"))
from vm import democomposefs
from vm.harness import guest, updates
from vm.harness.cache import output_of, scratch
from vm.harness.parse import sections
from vm.harness.qemu import LONG, Disk
from vm.harness.signed import DIGEST, IMAGE
from vm.show import (
    MOUNTS,
    SIGNER,
    STRANGER_NAME,
    SUITE,
    Show,
    console_lines,
    end_on_sigterm,
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
from vm.staging import SERVE, default_entry, roomy, shut_down, upgrade

ALTERED = "An operating system that nobody signed"

# In the guest that seals the disk: a second image from a commit of its own, as complete and valid as the first one.
MAKE_ALTERED = f"""
mkdir -p /altered/usr/lib
echo 'PRETTY_NAME="{ALTERED}"' >/altered/usr/lib/os-release
echo 'ID=altered' >>/altered/usr/lib/os-release
ostree --repo=/mnt/ostree/repo commit --branch=altered --tree=ref=guest --tree=dir=/altered
ostree --repo=/mnt/ostree/repo checkout --composefs altered /mnt/altered.cfs
fsverity measure /mnt/altered.cfs
"""  # that checkout also enables fs-verity

FIRST_BOOT = """
echo '=== systemctl status bootseal'
systemctl --no-pager --full --lines=0 status bootseal.service
echo '=== cat /run/bootseal/boot.json'
cat /run/bootseal/boot.json
echo '=== ostree admin status'
ostree admin status
echo '=== findmnt /'
findmnt --noheadings --output SOURCE,FSTYPE /
"""

# As on any machine: systemd's units do the rest.
GATE = "journalctl -b -o cat -u bootseal-deploy.service -u bootseal-gate.service | grep '^bootseal:\\|^guest/'"
UPDATE = {
    "cat /run/bootseal/boot.json": "cat /run/bootseal/boot.json",
    f"fsverity measure {IMAGE}.digest": f"cd /sysroot/DEPLOYMENT; fsverity measure {IMAGE}.digest",
    "systemctl enable --now bootseal-gate.path": "systemctl enable --now bootseal-gate.path 2>&1",
    "serve": SERVE,
    "ostree admin upgrade": upgrade("update"),
    "the units": f"gate_ran 1; {GATE}",
}

# The root user of the running system may write to the disk: that is the attacker.
SWAP = f"""cd /sysroot/$(python3 -c 'import json; print(json.load(open("/run/bootseal/boot.json"))["deployment"]["path"])')
mount -o remount,rw /sysroot
chattr -i .
fsverity measure {IMAGE} ../../../../../altered.cfs
mv -f /sysroot/altered.cfs {IMAGE}
chattr +i .
fsverity measure {IMAGE}
"""
LOOK = """mkdir /run/altered
mount -t composefs -o basedir=/sysroot/ostree/repo/objects,verity /sysroot/altered.cfs /run/altered
grep PRETTY_NAME /usr/lib/os-release /run/altered/usr/lib/os-release
umount /run/altered
"""
STRANGER = {
    "cat /run/bootseal/boot.json": "cat /run/bootseal/boot.json",
    "what was updated": "cat /usr/share/bootseal-test/update",
    "serve": SERVE,
    "ostree admin upgrade": upgrade("stranger"),
    "the units": f"gate_ran 1; {GATE}",
    "the other image, mounted with all its fs-verity digests checked": LOOK,
    "the swap": SWAP,
}


@dataclass(frozen=True)
class Sealed:
    """A disk with the signature on it, and the initrd with the certificate."""

    image: guest.Image
    disk: Path
    initrd: Path
    digest: str
    updates: Disk


def build(show: Show, work: Path) -> Sealed:
    """Build a signed disk and its initrd from Debian packages."""
    with show.step("A small operating system", f"Debian {SUITE}, from packages, and bootseal's own packages."):
        guest.os_tree(SUITE)
        show.line(f"   {guest.kernel(SUITE).name}")
    why = "ostree commits that tree and deploys it; composefs makes one image of all its metadata."
    with show.step("Commit and deploy", why):
        deployed = guest.deployment(SUITE)
        show.line(f"   commit {deployed.checksum}")
        show.line(f"   image  {deployed.path}/{IMAGE}, {deployed.cfs.stat().st_size:,} bytes")
    why = "fs-verity is enabled on all objects and the image. A guest makes a second image, of an altered system."
    with show.step("Disk", why):
        image = guest.image(SUITE, commands=MAKE_ALTERED)
    why = "openssl makes a key for this run alone; 'fsverity sign' signs the image's digest."
    with show.step("Key and signature", why):
        key = make_key(work, SIGNER)
        signed = sign(deployed.cfs, work, key)
        beside = {f"{deployed.path}/{name}": content for name, content in signed.items()}
        disk = roomy(guest.replace_files(image.disk, beside, work / "disk.raw"))
        digest = signed[DIGEST].hex()
        show.line(f"   sha256:{digest}")
        show.line("   " + ", ".join(f"{name} ({len(content)} bytes)" for name, content in signed.items()))
    with show.step("Initrd", "dracut with the module 'bootseal', that certificate, and [Enroll] Method=fsverity."):
        conf = "[Enroll]\nMethod=fsverity\n"
        made = guest.initrd(SUITE, "bootseal", keys=[key.certificate], conf=conf, compress="zstd").built()
        show.line(f"   {made.stat().st_size:,} bytes")
    why = "'bootseal sign --repo=' signs one commit with that key; a stranger signs another with a key of his own."
    with show.step("Updates, for a web server", why):
        repo = updates.make(work, deployed, made, {"update": key, "stranger": make_key(work, STRANGER_NAME)})
        updates.finish(work)
        show.line("   " + output_of("ostree", f"--repo={repo}", "refs").strip().replace("\n", ", "))
    return Sealed(image, disk, made, digest, updates.disk(work))


def first_boot(show: Show, sealed: Sealed) -> guest.Result:
    """Boot for the first time."""
    why = "The initrd verifies the signature, enrolls it in the kernel, mounts the image; then the system starts."
    with show.step("First boot", why):
        result = guest.boot(sealed.image, sealed.initrd, whole=True, disk=sealed.disk, script=FIRST_BOOT, title="first boot")
        said, _ = show_first_boot(show, result, sealed.digest)
    booted = f"* guest {sealed.image.deployment.checksum}.0"
    show.check("ostree admin status: this deployment is booted", seen=booted in said.get("ostree admin status", ""))
    show.check("the mounted root names that digest", seen=sealed.digest in said.get("findmnt /", ""))
    return result


def second_boot(show: Show, sealed: Sealed, before: guest.Result) -> guest.Result:
    """Boot again, and fetch an update."""
    why = "The same disk: enrolled already, verified again. Then ostree fetches a signed update."
    with show.step("Second boot, and an update", why):
        script = shut_down(
            **{title: text.replace("DEPLOYMENT", sealed.image.deployment.path) for title, text in UPDATE.items()}
        )
        result = _boot_on(sealed, before, script, "second boot")
        said, lines = sections(result.report), console_lines(result.console)
        record = record_of(said)
        enrollment = record.get("enrollment", {})
        show.block("console", "\n".join(lines))
        show.block("enrollment in boot.json", json.dumps(enrollment))
        show_rest(show, said)
    ended(show, result, guest.PASSED, "second boot reaches the system, fetches an update, and shuts down")
    show.check("second boot: verified, same digest", seen=is_verified(record, sealed.digest) and bool(lines))
    show.check("second boot: enrolled before, nothing written", seen=enrolled(enrollment, first=False))
    show.check(
        "the units put the signature beside the update", seen="digest and signature are in place" in said.get("the units", "")
    )
    show.check("the gate: the update would boot", seen="the staged deployment would boot: " in said.get("the units", ""))
    show.check("ostree finalizes the update at shutdown", seen="Result=success" in said.get("outcome", ""))
    return result


def third_boot(show: Show, sealed: Sealed, before: guest.Result) -> guest.Result:
    """Boot the update, fetch the stranger's, and swap the image at the end."""
    why = "The update boots. A stranger's update stays out. Then root swaps the image for the other one."
    with show.step("Third boot, a stranger's update, and an attack", why):
        result = _boot_on(sealed, before, shut_down(**STRANGER), "third boot")
        said, lines = sections(result.report), console_lines(result.console)
        record = record_of(said)
        show.block("console", "\n".join(lines))
        show_rest(show, said)
    ended(show, result, guest.PASSED, "third boot reaches the system, and the image is swapped")
    updated = record.get("verdict") == "verified" and record.get("image", {}).get("digest") not in (None, sealed.digest)
    show.check("third boot: verified, with the digest of the update", seen=updated and bool(lines))
    show.check("the update is what runs", seen=said.get("what was updated") == "update")
    refusal = "would not boot: refused (untrusted-signer)"
    show.check("the gate: the stranger's update would not boot", seen=refusal in said.get("the units", ""))
    stays = "Result=exit-code" in said.get("outcome", "") and _default(result) == _default(before)
    show.check("ostree does not finalize it, and the update stays the default", seen=stays)
    swap = re.findall(r"sha256:([0-9a-f]{64}) ", said.get("the swap", ""))
    show.check(
        "the other image is valid and has fs-verity", seen=len(swap) == 3 and swap[0] == record.get("image", {}).get("digest")
    )
    show.check("it stands in the place of the signed one", seen=len(swap) == 3 and swap[2] == swap[1] != swap[0])
    return result


def _boot_on(sealed: Sealed, before: guest.Result, script: str, title: str) -> guest.Result:
    """Boot the default entry of the disk that the boot before left."""
    entry = _default(before)
    karg = f"ostree={entry}" if entry else None
    disk, disks = before.overlay, [sealed.updates]
    return guest.boot(
        sealed.image, sealed.initrd, whole=True, disk=disk, disks=disks, karg=karg, snapshot=False, script=script,
        timeout=LONG, title=title,
    )  # fmt: skip


def _default(result: guest.Result) -> str:
    """Return the default entry after a shutdown; empty after another end."""
    listed = sections(result.report).get("entries", "")
    return default_entry(listed) if listed else ""


def refused_boot(show: Show, sealed: Sealed, before: guest.Result) -> guest.Result:
    """Check that the swapped image does not boot."""
    why = "The image is a valid one; its fs-verity digest is not the signed one. Nothing of it may be mounted."
    with show.step("Boot with the swapped image", why):
        result = guest.boot(
            sealed.image, sealed.initrd, whole=True, disk=before.overlay, karg=f"ostree={_default(before)}",
            emergency_script=MOUNTS, title="refused boot",
        )  # fmt: skip
        show_refused_boot(show, result, IMAGE)
    return result


def of_ostree(show: Show, work: Path) -> None:
    """Show a deployment of ostree."""
    sealed = build(show, work)
    last = first_boot(show, sealed)
    for boot in (second_boot, third_boot, refused_boot):
        if not show.missed():  # each one needs what the boot before it did
            last = boot(show, sealed, last)


LAYOUTS = {"ostree": of_ostree, "composefs": democomposefs.run}


def demo(layout: str) -> int:
    """Run all steps and return the exit status."""
    end_on_sigterm()
    show = Show()
    show.line("bootseal demo: a root filesystem that boots only if its digest is signed by a key in the initrd")
    show.line("(no virtualization is used: guests are emulated, and some tens of times slower than a real machine)")
    with scratch() as work:
        LAYOUTS[layout](show, work)
    return show.end()


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "ostree"
    if chosen not in LAYOUTS:
        sys.exit(f"demo: no such layout: {chosen} (there are {' and '.join(LAYOUTS)})")
    try:
        sys.exit(demo(chosen))
    except guest.GuestError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
