# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every refusal of the service as a row, for the boot and for `bootseal verify`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vm.harness import guest, signed
from vm.harness.cache import output_of, temporary
from vm.harness.changes import SIGNED_BY_STRANGER, Change, commands, flip, link, object_of, put, remove, several
from vm.scenario import Refused, Scenario

INIT = "/usr/lib/systemd/systemd"
OS_RELEASE = "/usr/lib/os-release"
TAMPERED = "/usr/share/bootseal-test/tamper"
WORDS = "verified,signed-by:vendor"  # a stateroot
OTHER_DIGEST = bytes(range(32))
OUTSIDE: Mapping[str, guest.Content] = {
    "outside/target/.keep": b"",
    "outside/digest": OTHER_DIGEST,
    f"outside/ostree/deploy/guest/deploy/{'0' * 64}.0/.keep": b"",
}
LINK = r"/sysroot/ostree/boot\.1/guest/[0-9a-f]{64}/0"  # the value of ostree=
DEPLOYMENT = r"/sysroot/ostree/deploy/guest/deploy/[0-9a-f]{64}\.0"
IMAGE = rf"{DEPLOYMENT}/\.ostree\.cfs"
BROKEN_STAGE = {"usr/lib/bootseal/bootseal/stages/deployment.py": b"def wishes(request):\n    return request.no_such_name\n"}


def _signature(digest: Callable[[guest.Image], bytes]) -> Change:
    return put("{signature}", lambda image: signed.sign(digest(image), signed.key()))


def _own_digest(image: guest.Image) -> bytes:
    return signed.image_digest(image.deployment.cfs)


def _pair(digest: Callable[[guest.Image], bytes]) -> Change:
    """Put another digest with a valid signature of it."""
    return several(put("{digest}", digest), _signature(digest))


def _pem(image: guest.Image) -> bytes:
    der = temporary() / "signature"
    der.write_bytes(signed.sign(_own_digest(image), signed.key()))
    return output_of("openssl", "pkcs7", "-inform", "DER", "-in", der).encode()


REFUSALS = (
    Scenario(
        "unknown-argument",
        Refused("bad-command-line", r"unknown; .*: rd\.bootseal\.verify"),
        cmdline="rd.bootseal.verify=no",
        nightly=True,
    ),
    Scenario(
        "two-targets",
        Refused("bad-command-line", r"specified more than once, .*: ostree="),
        cmdline="ostree=/ostree/boot.1/b/c/0",
    ),
    Scenario("empty-target", Refused("bad-command-line", r"empty: ostree="), ostree="ostree=", nightly=True),
    Scenario("no-target", Refused("no-deployment", r".* names no deployment \(ostree=.*\): /proc/cmdline"), ostree=""),
    Scenario(
        "link-out-of-the-disk",
        Refused("no-deployment", rf"no such directory below the physical root: {LINK}"),
        disk=commands("rm /{link}", f"symlink /{{link}} ../../../../../outside/ostree/deploy/guest/deploy/{'0' * 64}.0"),
        initrd=OUTSIDE,
    ),
    Scenario(
        "directory-damaged",
        Refused(
            "io-error",
            rf"cannot be opened: Bad message \(EBADMSG\): {LINK}",
            unwritten=False,  # the kernel notes the error in the superblock
        ),
        disk=flip("{stateroot}/deploy", 4095),  # the last byte of the block's checksum
    ),
    Scenario(
        "var-out-of-the-disk",
        Refused("no-deployment", r"cannot be opened without leaving .*: /sysroot/ostree/deploy/guest/var"),
        disk=commands("unlink /{stateroot}/var", "symlink /{stateroot}/var ../../../../outside/target"),
        initrd=OUTSIDE,
        nightly=True,
    ),
    Scenario(
        "etc-out-of-the-disk",
        Refused("no-deployment", rf"cannot be opened without leaving .*: {DEPLOYMENT}/etc"),
        disk=commands("unlink /{deployment}/etc", "symlink /{deployment}/etc ../../../../../../outside/target"),
        initrd=OUTSIDE,
        nightly=True,
    ),
    Scenario(
        "objects-out-of-the-disk",
        Refused("no-deployment", r"cannot be opened without leaving .*: /sysroot/ostree/repo/objects"),
        disk=commands("unlink /ostree/repo/objects", "symlink /ostree/repo/objects ../../../outside/target"),
        initrd=OUTSIDE,
        nightly=True,
    ),
    Scenario(
        "stateroot-with-words",
        Refused("no-deployment", rf"the name of the stateroot is not of the form .*: {LINK}"),
        disk=commands(
            "rm /{link}",
            *(f"mkdir /ostree/deploy/{name}" for name in (WORDS, f"{WORDS}/deploy", f"{WORDS}/deploy/{'0' * 64}.0")),
            f"symlink /{{link}} ../../../deploy/{WORDS}/deploy/{'0' * 64}.0",
        ),
    ),
    Scenario("no-image", Refused("no-image", rf"missing: {IMAGE}"), disk=remove("{image}")),
    Scenario("no-digest", Refused("no-digest", rf"missing: {IMAGE}\.digest"), disk=remove("{digest}")),
    Scenario("no-signature", Refused("no-signature", rf"missing: {IMAGE}\.sig"), disk=remove("{signature}")),
    Scenario(
        "image-directory", Refused("bad-image", rf"not a regular file: {IMAGE}"), disk=commands("rm /{image}", "mkdir /{image}")
    ),
    Scenario("digest-33-bytes", Refused("bad-digest", rf"33 bytes, .*: {IMAGE}\.digest"), disk=put("{digest}", bytes(33))),
    Scenario(
        "digest-link",
        Refused("bad-digest", rf"not a regular file: {IMAGE}\.digest"),
        disk=commands("rm /{digest}", "symlink /{digest} ../../../../../../outside/digest"),
        initrd=OUTSIDE,
        nightly=True,
    ),
    Scenario(
        "signature-fifo",
        Refused("bad-signature", rf"not a regular file: {IMAGE}\.sig"),
        disk=commands("rm /{signature}", "cd /{deployment}", "mknod .ostree.cfs.sig p"),
    ),
    Scenario(
        "signature-pem", Refused("bad-signature", rf".*PEM, .*: {IMAGE}\.sig"), disk=put("{signature}", _pem), nightly=True
    ),
    Scenario(
        "other-key",
        Refused("untrusted-signer", rf"no certificate of the boot keyring .*CN=guest p256.*: {IMAGE}\.sig"),
        disk=SIGNED_BY_STRANGER,
    ),
    Scenario(
        "other-digest-signed",
        Refused(
            "wrong-signature", rf"the signature of CN=guest p256 is not over the digest sha256:[0-9a-f]{{64}}: {IMAGE}\.sig"
        ),
        disk=_signature(lambda image: OTHER_DIGEST),
    ),
    Scenario(
        "image-signed",  # by 'fsverity sign IMAGE', the natural mistake
        Refused(
            "wrong-signature",
            rf"the signature of CN=guest p256 is over the image's own digest, not over that of the digest file: {IMAGE}\.sig",
            hint="sign with 'bootseal sign', or run 'fsverity sign' on IMAGE.digest instead of IMAGE",
        ),
        disk=_signature(lambda image: image.deployment.cfs.read_bytes()),
        nightly=True,
    ),
    Scenario(
        "image-copied",
        Refused("image-unsealed", rf"fs-verity is not enabled on the image: {IMAGE}"),
        disk=put("{image}", lambda image: image.deployment.cfs.read_bytes()),
    ),
    Scenario(
        "image-swapped",
        Refused("image-mismatch", rf"the image has the digest sha256:[0-9a-f]{{64}}, signed is sha256:[0-9a-f]{{64}}: {IMAGE}"),
        disk=several(commands("unlink /{image}"), link(object_of(TAMPERED), "{image}")),  # has fs-verity
    ),
    Scenario(
        "other-algorithm",
        Refused(
            "image-mismatch", rf"the image has the digest sha256:[0-9a-f]{{64}}, signed is sha512:[0-9a-f]{{128}}: {IMAGE}"
        ),
        disk=_pair(lambda image: signed.image_digest(image.deployment.cfs, "sha512")),
        nightly=True,
    ),
    Scenario(
        "junk-certificate",
        Refused(
            "no-keys",
            r"no usable certificate in the boot keyring \(/etc/bootseal/keys\.d/guest\.pem: .*\): /etc/bootseal/keys\.d",
        ),
        initrd={signed.CERTIFICATE: b"junk"},
    ),
    Scenario(
        "unknown-key",
        Refused("bad-config", r"unknown key \[Policy\] OnRefuse=: /etc/bootseal/bootseal\.conf"),
        initrd=signed.settings(conf="[Policy]\nOnRefuse=reboot\n"),
        nightly=True,
    ),
    Scenario(
        "prepare-root",
        Refused("bad-config", r"\[etc\] transient=maybe: .*: /etc/ostree/prepare-root\.conf"),
        initrd=signed.settings(prepare_root="[etc]\ntransient=maybe\n"),
    ),
    Scenario(
        "no-verity-feature", Refused("unsupported", rf".*\((EOPNOTSUPP|ENOTSUP)\): {IMAGE}"), disk=commands("feature -verity")
    ),
    Scenario("image-tampered", Refused("io-error", rf"cannot mount .*EIO.*: {IMAGE}"), disk=flip("{image}", 1024)),
    Scenario(
        "immutable-digest",
        Refused("enroll-failed", rf"cannot be enrolled \(.*EPERM.*\): {IMAGE}\.digest", unwritten=False),
        disk=commands("set_inode_field /{digest} flags 0x80010"),
        initrd=signed.settings(conf="[Enroll]\nMethod=fsverity\nRequired=yes\n"),
    ),
    Scenario(
        "init-tampered",
        Refused("mount-failed", rf"init or its loader cannot be read: .*EIO.*: {INIT}"),
        disk=flip(object_of(INIT), 8192),
    ),
    Scenario(
        "init-gone",
        Refused("mount-failed", rf"init or its loader cannot be read: .*ENOENT.*: {INIT}"),
        disk=remove(object_of(INIT)),
        nightly=True,
    ),
    Scenario(
        "os-release-tampered",
        Refused("io-error", rf"cannot be read through the verified root: .*EIO.*: {OS_RELEASE}"),
        disk=flip(object_of(OS_RELEASE), 8),
        nightly=True,
    ),
    Scenario(
        "os-release-gone",
        Refused("mount-failed", rf"cannot be read through the verified root: .*ENOENT.*: {OS_RELEASE}"),
        disk=remove(object_of(OS_RELEASE)),
        nightly=True,
    ),
    Scenario(
        "own-mounts",
        Refused("mount-failed", r"PID 1 cannot see the mounted root: .*: /sysroot"),
        initrd={"etc/systemd/system/bootseal.service.d/mounts.conf": b"[Service]\nPrivateMounts=yes\n"},
    ),
    Scenario("bug", Refused("internal", r"AttributeError: .*: deployment\.py:2"), initrd=BROKEN_STAGE),
)
