# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values that one stage hands to the next: immutable, without behaviour.

Trust grows along these types. An Unverified came from the disk. A key of the boot keyring signed a Verified digest. A Pinned
image is the open file whose enforced digest is the verified one. The kernel has taken the digest of an Enrolled image, and
mount takes nothing less. A test allows one module to make each of Verified, Pinned and Enrolled.

Descriptors live as long as the process.
"""

from .digest import Digest
from .namedtuple import NamedTuple

# How configuration files and the kernel command line spell a truth value, as in systemd.
BOOLEANS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


class RootConfig(NamedTuple):
    """How the root is mounted: ostree/prepare-root.conf of the initrd, see ostree-prepare-root(1)."""

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
    """The arguments of the kernel command line that bootseal obeys."""

    ostree: str
    init: str
    debug: bool


class PublicKey(NamedTuple):
    """`scheme`: rsa or ecdsa; `bits`: of the modulus or the curve; `spki`: the DER of its SubjectPublicKeyInfo."""

    scheme: str
    bits: int
    spki: bytes


class Certificate(NamedTuple):
    """A usable certificate of the boot keyring: `issuer` is the DER of a name, `serial` an INTEGER's content."""

    path: str
    der: bytes
    sha256: str
    issuer: bytes
    serial: bytes
    subject_text: str
    issuer_text: str
    not_before: str
    not_after: str
    key: PublicKey


class BootKeyring(NamedTuple):
    """`skipped`: one line for each file without a usable certificate."""

    certificates: tuple[Certificate, ...]
    skipped: tuple[str, ...]


class Gap(NamedTuple):
    """A step that failed without weakening what userspace verified. `unsupported`: the kernel lacks it."""

    what: str
    unsupported: bool


class KernelKeys(NamedTuple):
    """The keys of the boot keyring in the kernel.

    `loaded`, `unloaded`: by the SHA-256 of the certificate, the serial of its key, or the errno instead.
    `in_fsverity_keyring`: the certificates that `.fs-verity` holds. `digest_keyring`: the keyring `bootseal`, if `.fs-verity`
    holds it. `gaps`: steps that failed.
    """

    loaded: dict[str, int]
    unloaded: dict[str, int]
    in_fsverity_keyring: frozenset[str]
    digest_keyring: int | None
    sealed: bool
    gaps: tuple[Gap, ...]


class PhysicalRoot(NamedTuple):
    """The mount at /sysroot, which stays in the private namespace of this process.

    `shared_namespace`: a descriptor of the mount namespace of PID 1. `sealed_before`: it was mounted after the boot keyring had
    been loaded and sealed.
    """

    shared_namespace: int
    sealed_before: bool


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
    """Bytes from the disk, read once and not checked. `stands_in`: the digest is the image's own."""

    digest: bytes
    stands_in: bool
    signature: bytes
    image_path: str


class Signer(NamedTuple):
    certificate: Certificate
    algorithm: str


class Verified(NamedTuple):
    """A digest that a key of the boot keyring signed. verify.py alone makes one.

    `signed` is the fs-verity digest of the digest file, which the signature covers. `signature` is the PKCS#7 message, `value`
    the bare signature in it, and `hash_name` the hash that was signed.
    """

    digest: Digest
    signed: Digest
    signature: bytes
    value: bytes
    hash_name: str
    signer: Signer


class Pinned(NamedTuple):
    """The open image for which the kernel enforces the verified digest. image.py alone makes one."""

    verified: Verified
    fd: int
    path: str
    size: int


class Enrolled(NamedTuple):
    """A pinned image, and how the kernel took its digest. enroll.py alone makes one."""

    pinned: Pinned
    method: str
    kernel_checked: bool
    first_boot: bool
    bytes_written: int | None
    gaps: tuple[Gap, ...]


class Release(NamedTuple):
    """Name and version of the image in the os-release file of the verified root; empty if unknown."""

    id: str
    version: str


class Mounted(NamedTuple):
    """The finished tree, detached from every namespace, and its overlay's options as the kernel has them.

    The last look before the switch compares `identities` (lastlook.py).
    """

    tree_fd: int
    options: str
    identities: bytes
    ostree_booted: bytes
    not_covered: tuple[str, ...]
    release: Release = Release("", "")


class Origin(NamedTuple):
    """Names of what reached this initrd, itself included, and is not known to be authenticated."""

    unauthenticated: tuple[str, ...]
