# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one stage hands to the next. Immutable; no behaviour; descriptors are plain ints that live as long as the process.

Trust grows along these types: a Candidate came from the disk, a Verified digest was signed by a key of the boot keyring, a
Pinned image is the open file whose enforced digest is the verified one, an Enrolled one has been through the kernel. mount
takes nothing less. `Verified`, `Pinned` and `Enrolled` are each built in one place (a test says so).
"""

from typing import TYPE_CHECKING, NamedTuple

from .digest import Digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

# How configuration files and the kernel command line spell a truth value, as in systemd.
BOOLEANS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


class RootConfig(NamedTuple):
    """What the root looks like: ostree/prepare-root.conf of the initrd, see ostree-prepare-root(1)."""

    sysroot_readonly: bool
    root_transient: bool
    root_readonly: bool
    etc_transient: bool


class Policy(NamedTuple):
    """bootseal.conf of the initrd, see bootseal.conf(5)."""

    seal: bool
    voa: str
    method: str
    required: bool
    on_refusal: str
    root: RootConfig


class Request(NamedTuple):
    """What the kernel command line asks for."""

    ostree: str
    init: str
    debug: bool


class Certificate(NamedTuple):
    """A usable certificate of the boot keyring. `issuer` is the DER of the name, `serial` that of the INTEGER's content."""

    path: str
    der: bytes
    sha256: str
    issuer: bytes
    serial: bytes
    subject_text: str
    issuer_text: str
    not_before: str
    not_after: str
    key: "rsa.RSAPublicKey | ec.EllipticCurvePublicKey"


class BootKeyring(NamedTuple):
    """`skipped`: one line for each file that holds no usable certificate."""

    certificates: tuple[Certificate, ...]
    skipped: tuple[str, ...]


class Gap(NamedTuple):
    """A step that failed and does not weaken what userspace verified. `unsupported`: the kernel has no such thing."""

    what: str
    unsupported: bool


class KernelKeys(NamedTuple):
    """What the kernel holds of the boot keyring, by the SHA-256 of the certificate: a key's serial, or the errno instead.

    `anchored` are the certificates that are in `.fs-verity`; `ring` is the keyring `bootseal`, if that is in it, too;
    `gaps` is what else could not be done.
    """

    loaded: dict[str, int]
    unloaded: dict[str, int]
    anchored: frozenset[str]
    ring: int | None
    sealed: bool
    gaps: tuple[Gap, ...]


class Deployment(NamedTuple):
    """An ostree deployment. `path` is relative to the physical root; the descriptors are O_PATH."""

    layout: str
    stateroot: str
    checksum: str
    serial: int
    path: str
    sysroot_fd: int
    fd: int
    etc_fd: int
    var_fd: int
    objects_fd: int


class Unverified(NamedTuple):
    """Bytes from the disk, read once, believed by nobody yet. `stands_in`: the digest is the one the image enforces."""

    digest: bytes
    stands_in: bool
    signature: bytes
    image_path: str


class Signer(NamedTuple):
    certificate: Certificate
    algorithm: str


class Verified(NamedTuple):
    """A digest that a key of the boot keyring signed. Built in verify.py alone.

    `signed` is the fs-verity digest of the digest file, which is what the signature covers; `signature` the PKCS#7 message,
    `value` the bare signature within, `hash_name` the hash that it was made over.
    """

    digest: Digest
    signed: Digest
    signature: bytes
    value: bytes
    hash_name: str
    signer: Signer


class Pinned(NamedTuple):
    """The open image whose fs-verity digest, enforced by the kernel, is the verified one. Built in image.py alone."""

    verified: Verified
    fd: int
    path: str
    size: int


class Enrolled(NamedTuple):
    """A pinned image, and how the kernel took its digest. Built in enroll.py alone."""

    pinned: Pinned
    method: str
    kernel_checked: bool
    first_boot: bool
    bytes_written: int | None
    gaps: tuple[Gap, ...]


class Release(NamedTuple):
    """The name of the image and its version, as the verified root's own os-release has them; empty: unknown."""

    id: str
    version: str


class Mounted(NamedTuple):
    """The finished tree, detached from every namespace, and the options that the kernel reports for its overlay.

    `identities` is what the last look before the switch compares (lastlook.py).
    """

    tree_fd: int
    options: str
    identities: bytes
    ostree_booted: bytes
    not_covered: tuple[str, ...]
    release: Release = Release("", "")
