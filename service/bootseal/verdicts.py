# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define every verdict, with exit status, journal MESSAGE_ID and hint, and every note.

Exit statuses have the sysexits(3) meanings that systemd.exec(5) lists, because 200 and above belong to systemd. The ids are
those of packaging/bootseal.catalog; a test compares the two.
"""

from .namedtuple import NamedTuple


class Verdict(NamedTuple):
    name: str
    exit_status: int
    message_id: str
    hint: str


VERIFIED = Verdict("verified", 0, "4d42f810c8a8499ca8532e78bb85b716", "")
BAD_COMMAND_LINE = Verdict(
    "bad-command-line",
    64,
    "a58cc77b190a41d8b769ac2475602ed0",
    "correct the boot entry: it needs ostree=/ostree/boot.N/..., composefs=DIGEST, composefs.digest=FORMAT:DIGEST or "
    "bootseal.root=PATH; remove any rd.bootseal.* except rd.bootseal.debug",
)
NO_DEPLOYMENT = Verdict(
    "no-deployment",
    66,
    "4c9dcc44df664546b60f386213f28d69",
    "choose another boot entry, or deploy again with 'ostree admin deploy' or 'bootc upgrade'",
)
NO_IMAGE = Verdict(
    "no-image",
    66,
    "d4157b43201e4cc19b1d1b19c9f9df6f",
    "deploy again: 'bootc upgrade', or ostree with the repository option ex-integrity.composefs=yes",
)
NO_DIGEST = Verdict(
    "no-digest",
    66,
    "ffc2b4d5303448a0bbde0e69d9b943bd",
    "boot another deployment, and run 'bootseal deploy' for this one; if nothing carries its signature, sign it first",
)
NO_SIGNATURE = Verdict(
    "no-signature",
    66,
    "35516a5e25c847e8ad66fd5554d4dcf9",
    "boot another deployment, and run 'bootseal deploy' for this one; if nothing carries its signature, sign it first",
)
BAD_IMAGE = Verdict(
    "bad-image",
    65,
    "1bc832cb5b12428c8ece80159f47df9e",
    "deploy again; the image must be a regular file that is not empty",
)
BAD_DIGEST = Verdict(
    "bad-digest",
    65,
    "9fed0f758f2b414485e2fd4455551163",
    "write the raw fs-verity digest, 32 or 64 bytes and nothing else, into the digest file, and sign it again",
)
BAD_SIGNATURE = Verdict(
    "bad-signature",
    65,
    "d35e328c8fcc47769dda9f56c0880ea0",
    "sign again with 'fsverity sign' or 'openssl cms -sign -binary -noattr -nocerts -outform DER'",
)
UNTRUSTED_SIGNER = Verdict(
    "untrusted-signer",
    77,
    "1a985cfc07664559a49ddc7467668911",
    "build the initrd with the signer's certificate in /etc/bootseal/keys.d, or boot a deployment signed by one that is there",
)
WRONG_SIGNATURE = Verdict(
    "wrong-signature",
    77,
    "12c6a28d7a2e4bf0a08336f15b2b1359",
    "sign this digest, or boot another deployment: the signature belongs to another digest",
)
IMAGE_UNSEALED = Verdict(
    "image-unsealed",
    77,
    "bae0bf0248d146c48c77552cfaef9521",
    "enable fs-verity on the image: 'fsverity enable IMAGE', or 'ostree admin post-copy' for a whole system",
)
IMAGE_MISMATCH = Verdict(
    "image-mismatch",
    77,
    "4e9dfd0ed81a4a7cb6e2fe0e24e9f270",
    "deploy again, or boot another deployment: the image is not the one that was signed",
)
NO_KEYS = Verdict(
    "no-keys",
    78,
    "ad1a8142248241b19960c0fca6318793",
    "put a certificate into /etc/bootseal/keys.d and build the initrd again",
)
BAD_CONFIG = Verdict(
    "bad-config",
    78,
    "c39c4085301243f489b9a7d0dbf95ff7",
    "correct the file (bootseal.conf(5)) and build the initrd again",
)
UNSUPPORTED = Verdict(
    "unsupported",
    69,
    "de95d400d43c4224aa5e48f24704a093",
    "boot a kernel that has it, or use a filesystem with fs-verity (ext4: 'tune2fs -O verity DEVICE')",
)
IO_ERROR = Verdict(
    "io-error",
    74,
    "a599ed6728bc4f09b5b5dfc966e69595",
    "check the kernel log and the disk, then deploy again: the disk failed, or its content was changed",
)
ENROLL_FAILED = Verdict(
    "enroll-failed",
    71,
    "494c7781051949c3a6214aca384073ac",
    "look for the kernel's reason in 'dmesg'; to boot where the kernel cannot check at all, set [Enroll] Required=no",
)
MOUNT_FAILED = Verdict(
    "mount-failed",
    71,
    "5e231683efbb480bb98da67268ec0893",
    "look for the kernel's reason in 'dmesg'; if the image or an object is damaged, deploy again",
)
CHANGED = Verdict(
    "changed",
    71,
    "fdb8335f91db4f18b40a17f45477fbb9",
    "boot again; if it recurs, find the dracut hook or unit that mounts there ('journalctl -b'), and omit it",
)
INTERRUPTED = Verdict(
    "interrupted",
    1,
    "ec7f5ebfead04be28cc43346b8c31987",
    "boot again; if it recurs, find the last step with rd.bootseal.debug and 'systemctl status bootseal.service'",
)
INTERNAL = Verdict(
    "internal",
    70,
    "11cf2a8b89704812b573be687363a312",
    "boot another deployment, and report this bug of bootseal with the journal of this boot",
)


class Note(NamedTuple):
    """A message of a boot beside its verdict."""

    name: str
    message_id: str


CERTIFICATE_SKIPPED = Note("certificate-skipped", "46b3ebff9ecd43e1ae258587dc1439f7")
NOT_IN_KERNEL = Note("certificate-not-in-kernel", "b23b92be5c034bcf80c0ff27110b544f")
DIGEST_STANDS_IN = Note("digest-stands-in", "5e7a87e3abbd437fa1efef32b95067cb")
ENROLLING_INCOMPLETE = Note("enrolling-incomplete", "65f3419095a9440e94b71ff36425c39e")
NOT_PUT_BACK = Note("not-put-back", "d71455c3d3374707b07a62a7d45bebde")
NOT_CHOSEN = Note("not-chosen", "7eb89265bd794c66a8c61ab35344cc55")

NOTES: tuple[Note, ...] = (
    CERTIFICATE_SKIPPED, NOT_IN_KERNEL, DIGEST_STANDS_IN, ENROLLING_INCOMPLETE, NOT_PUT_BACK, NOT_CHOSEN,
)  # fmt: skip

VERDICTS: tuple[Verdict, ...] = (
    VERIFIED, BAD_COMMAND_LINE, NO_DEPLOYMENT, NO_IMAGE, NO_DIGEST, NO_SIGNATURE, BAD_IMAGE, BAD_DIGEST, BAD_SIGNATURE,
    UNTRUSTED_SIGNER, WRONG_SIGNATURE, IMAGE_UNSEALED, IMAGE_MISMATCH, NO_KEYS, BAD_CONFIG, UNSUPPORTED, IO_ERROR,
    ENROLL_FAILED, MOUNT_FAILED, CHANGED, INTERRUPTED, INTERNAL,
)  # fmt: skip


def most_telling(names: list[str]) -> int:
    """Return which of several refusals to report: the first that is not about something absent, or else the first."""
    absent = (NO_DEPLOYMENT.name, NO_IMAGE.name)
    return next((number for number, name in enumerate(names) if name not in absent), 0)
