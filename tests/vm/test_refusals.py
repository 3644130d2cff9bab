# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every refusal verdict from a real change of disk, initrd or command line; the unit masked, gone, killed, hanging."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import guest
import pytest
import support
import support_refusals as refusals
from support import Job
from support_refusals import Change, Outcome, commands, flip, object_of, put, several

pytest_plugins = ["background"]
pytestmark = pytest.mark.vm

INIT = "/usr/lib/systemd/systemd"
OS_RELEASE = "/usr/lib/os-release"
WORDS = "verified,signed-by:vendor"  # a stateroot
OTHER_DIGEST = bytes(range(32))
OUTSIDE: Mapping[str, guest.Content] = {
    "outside/target/.keep": b"",
    "outside/digest": OTHER_DIGEST,
    f"outside/ostree/deploy/guest/deploy/{'0' * 64}.0/.keep": b"",
}
DEPLOYMENT = r"/sysroot/ostree/deploy/guest/deploy/[0-9a-f]{64}\.0"
IMAGE = rf"{DEPLOYMENT}/\.ostree\.cfs"


@dataclass(frozen=True)
class Case:
    """A change, and the refusal that it must come to: `what` is a regular expression for all after the verdict."""

    id: str
    verdict: str
    what: str
    change: Change | None = None
    append: str = ""
    karg: str | None = None
    files: Callable[[], Mapping[str, guest.Content]] = dict
    written: bool = False  # something may have been written: an attempt to enroll, or an error that the kernel notes


def _settings(conf: str | None = None, prepare_root: str | None = None) -> Callable[[], Mapping[str, guest.Content]]:
    return lambda: support.settings(conf, prepare_root)


def _signature(digest: Callable[[guest.Image], bytes], by: str = "guest") -> Change:
    return put("{signature}", lambda image: support.sign(digest(image), support.key(name=by)))


def _own_digest(image: guest.Image) -> bytes:
    return support.image_digest(image.deployment.cfs)


def _pair(digest: Callable[[guest.Image], bytes]) -> Change:
    """Another digest, rightly signed."""
    return several(put("{digest}", digest), _signature(digest))


def _pem(image: guest.Image) -> bytes:
    der = support.temporary() / "signature"
    der.write_bytes(support.sign(_own_digest(image), support.key()))
    return support.run("openssl", "pkcs7", "-inform", "DER", "-in", der).encode()


def _another_sealed_file(image: guest.Image, disk_change: str) -> str:
    return disk_change.replace("OBJECT", image.deployment.object_of("/usr/share/bootseal-test/tamper"))


def _swapped_image(image: guest.Image, disk: Path) -> None:
    """Another file with fs-verity takes the image's place: a link to an object of the tree."""
    line = _another_sealed_file(image, "ln /OBJECT /{image}")
    commands("unlink /{image}", line)(image, disk)


def _broken_stage(image_unused: None = None) -> Mapping[str, guest.Content]:
    del image_unused
    return {"usr/lib/bootseal/bootseal/stages/deployment.py": b"def locate(request):\n    return request.no_such_name\n"}


CASES = (
    Case("unknown-argument", "bad-command-line", r"unknown; .*: rd\.bootseal\.verify", append="rd.bootseal.verify=no"),
    Case("two-targets", "bad-command-line", r"given more than once, .*: ostree=", append="ostree=/ostree/boot.1/b/c/0"),
    Case("empty-target", "bad-command-line", r"empty: ostree=", karg="ostree="),
    Case("no-target", "no-deployment", r".* names no deployment \(ostree=\): /proc/cmdline", karg=""),
    Case(
        "link-out-of-the-disk",
        "no-deployment",
        r"no such directory below the physical root: /sysroot/ostree/boot\.1/guest/[0-9a-f]{64}/0",
        commands("rm /{link}", f"symlink /{{link}} ../../../../../outside/ostree/deploy/guest/deploy/{'0' * 64}.0"),
        files=lambda: OUTSIDE,
    ),
    Case(
        "directory-damaged",
        "io-error",
        r"cannot be opened: Bad message \(EBADMSG\): /sysroot/ostree/boot\.1/guest/[0-9a-f]{64}/0",
        flip("{stateroot}/deploy", 4095),  # the last byte of the block's checksum
        written=True,  # by the kernel, which notes the error in the superblock
    ),
    Case(
        "var-out-of-the-disk",
        "no-deployment",
        r"cannot be opened without leaving .*: /sysroot/ostree/deploy/guest/var",
        commands("unlink /{stateroot}/var", "symlink /{stateroot}/var ../../../../outside/target"),
        files=lambda: OUTSIDE,
    ),
    Case(
        "etc-out-of-the-disk",
        "no-deployment",
        rf"cannot be opened without leaving .*: {DEPLOYMENT}/etc",
        commands("unlink /{deployment}/etc", "symlink /{deployment}/etc ../../../../../../outside/target"),
        files=lambda: OUTSIDE,
    ),
    Case(
        "objects-out-of-the-disk",
        "no-deployment",
        r"cannot be opened without leaving .*: /sysroot/ostree/repo/objects",
        commands("unlink /ostree/repo/objects", "symlink /ostree/repo/objects ../../../outside/target"),
        files=lambda: OUTSIDE,
    ),
    Case(
        "stateroot-with-words",
        "no-deployment",
        r"the name of the stateroot is not of the form .*: /sysroot/ostree/boot\.1/guest/[0-9a-f]{64}/0",
        commands(
            "rm /{link}",
            *(f"mkdir /ostree/deploy/{name}" for name in (WORDS, f"{WORDS}/deploy", f"{WORDS}/deploy/{'0' * 64}.0")),
            f"symlink /{{link}} ../../../deploy/{WORDS}/deploy/{'0' * 64}.0",
        ),
    ),
    Case("no-image", "no-image", rf"missing: {IMAGE}", commands("rm /{image}")),
    Case("no-digest", "no-digest", rf"missing: {IMAGE}\.digest", commands("rm /{digest}")),
    Case("no-signature", "no-signature", rf"missing: {IMAGE}\.sig", commands("rm /{signature}")),
    Case("image-directory", "bad-image", rf"not a regular file: {IMAGE}", commands("rm /{image}", "mkdir /{image}")),
    Case("digest-33-bytes", "bad-digest", rf"33 bytes, .*: {IMAGE}\.digest", put("{digest}", bytes(33))),
    Case(
        "digest-link",
        "bad-digest",
        rf"not a regular file: {IMAGE}\.digest",
        commands("rm /{digest}", "symlink /{digest} ../../../../../../outside/digest"),
        files=lambda: OUTSIDE,
    ),
    Case(
        "signature-fifo",
        "bad-signature",
        rf"not a regular file: {IMAGE}\.sig",
        commands("rm /{signature}", "cd /{deployment}", "mknod .ostree.cfs.sig p"),
    ),
    Case("signature-pem", "bad-signature", rf".*PEM, .*: {IMAGE}\.sig", put("{signature}", _pem)),
    Case(
        "other-key",
        "untrusted-signer",
        rf"no certificate of the boot keyring .*CN=guest p256.*: {IMAGE}\.sig",
        _signature(_own_digest, "stranger"),
    ),
    Case(
        "other-digest-signed",
        "wrong-signature",
        rf"the signature of CN=guest p256 is not over the digest sha256:[0-9a-f]{{64}}: {IMAGE}\.sig",
        _signature(lambda image: OTHER_DIGEST),
    ),
    Case(
        "image-copied",
        "image-unsealed",
        rf"fs-verity is not enabled on the image: {IMAGE}",
        put("{image}", lambda image: image.deployment.cfs.read_bytes()),
    ),
    Case(
        "image-swapped",
        "image-mismatch",
        rf"the image has the digest sha256:[0-9a-f]{{64}}, signed is sha256:[0-9a-f]{{64}}: {IMAGE}",
        _swapped_image,
    ),
    Case(
        "other-algorithm",
        "image-mismatch",
        rf"the image has the digest sha256:[0-9a-f]{{64}}, signed is sha512:[0-9a-f]{{128}}: {IMAGE}",
        _pair(lambda image: support.image_digest(image.deployment.cfs, "sha512")),
    ),
    Case(
        "junk-certificate",
        "no-keys",
        r"no usable certificate in the boot keyring \(/etc/bootseal/keys\.d/guest\.pem: .*\): /etc/bootseal/keys\.d",
        files=lambda: {support.CERTIFICATE: b"junk"},
    ),
    Case(
        "unknown-key",
        "bad-config",
        r"unknown key \[Policy\] OnRefuse=: /etc/bootseal/bootseal\.conf",
        files=_settings(conf="[Policy]\nOnRefuse=reboot\n"),
    ),
    Case(
        "prepare-root",
        "bad-config",
        r"\[etc\] transient=maybe: .*: /etc/ostree/prepare-root\.conf",
        files=_settings(prepare_root="[etc]\ntransient=maybe\n"),
    ),
    Case("no-verity-feature", "unsupported", rf".*\((EOPNOTSUPP|ENOTSUP)\): {IMAGE}", commands("feature -verity")),
    Case("image-tampered", "io-error", rf"cannot mount .*EIO.*: {IMAGE}", flip("{image}", 1024)),
    Case(
        "immutable-digest",
        "enroll-failed",
        rf"cannot be enrolled \(.*EPERM.*\): {IMAGE}\.digest",
        commands("set_inode_field /{digest} flags 0x80010"),
        files=_settings(conf="[Enroll]\nMethod=fsverity\nRequired=yes\n"),
        written=True,
    ),
    Case("init-tampered", "mount-failed", rf"init or its loader cannot be read: .*EIO.*: {INIT}", flip(object_of(INIT), 8192)),
    Case(
        "init-gone",
        "mount-failed",
        rf"init or its loader cannot be read: .*ENOENT.*: {INIT}",
        lambda image, disk: commands(f"rm /{image.deployment.object_of(INIT)}")(image, disk),
    ),
    Case(
        "os-release-tampered",
        "io-error",
        rf"cannot be read through the verified root: .*EIO.*: {OS_RELEASE}",
        flip(object_of(OS_RELEASE), 8),
    ),
    Case(
        "os-release-gone",
        "mount-failed",
        rf"cannot be read through the verified root: .*ENOENT.*: {OS_RELEASE}",
        lambda image, disk: commands(f"rm /{image.deployment.object_of(OS_RELEASE)}")(image, disk),
    ),
    Case(
        "own-mounts",
        "mount-failed",
        r"PID 1 cannot see the mounted root: .*: /sysroot",
        files=lambda: {"etc/systemd/system/bootseal.service.d/mounts.conf": b"[Service]\nPrivateMounts=yes\n"},
    ),
    Case("bug", "internal", r"AttributeError: .*: deployment\.py:2", files=_broken_stage),
)


def _boot(case: Case) -> Outcome:
    return refusals.boot(
        case.change,
        append=f"{refusals.UNREAD_DISK} {case.append}",
        karg=case.karg,
        extra_initrd_files=case.files(),
        emergency_script=refusals.WITNESS,
        title=f"refusal: {case.id}",
    )


@pytest.mark.parametrize(("case", "job"), [pytest.param(c, Job(lambda c=c: _boot(c)), id=c.id) for c in CASES])  # type: ignore[misc]
def test_refused(case: Case, job: Job[Outcome]) -> None:
    refusals.check_refusal(job.result(), case.verdict, case.what, written=case.written)


def test_every_verdict_has_a_case() -> None:
    elsewhere = {"verified", "interrupted", "changed"}
    assert {case.verdict for case in CASES} | elsewhere == set(refusals.EXIT_STATUS) | elsewhere
