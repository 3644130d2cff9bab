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


# What a signature may cover: the digest file, or the image itself.
DIGEST_FILE, IMAGE = "digest-file", "image"
# How a directory of the root is mounted; an empty text is the default of the layout.
BIND, OVERLAY, TRANSIENT, NONE = "bind", "overlay", "transient", "none"


class RootConfig(NamedTuple):
    """How the root of one layout is mounted; `etc` and `var` as above. Layouts have different files for this."""

    sysroot_readonly: bool
    root_transient: bool
    root_readonly: bool
    etc: str
    var: str


class Policy(NamedTuple):
    """bootseal.conf of the initrd, see bootseal.conf(5); `roots` are the settings of each layout, by its name."""

    seal: bool
    voa: str
    method: str
    required: bool
    on_refusal: str
    signed: tuple[str, ...]
    roots: dict[str, RootConfig]


class Wish(NamedTuple):
    """What selects an image. It is no trust: `what` is the value of ostree=, or the digest of the image in hexadecimal."""

    layout: str
    what: str


class Request(NamedTuple):
    """The arguments of the kernel command line that bootseal obeys.

    Either `wishes` are there, in order, or the path of a list of them on the disk. `volatile` is the value of
    systemd.volatile=, see kernel-command-line(7).
    """

    wishes: tuple[Wish, ...]
    root_list: str
    init: str
    volatile: str
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


class Entry(NamedTuple):
    """A name in an open directory, and its path for messages."""

    fd: int
    name: str
    path: str


class Deployment(NamedTuple):
    """A deployment. `path`, of the directory with digest and signature, is relative to the physical root.

    `pair` is the name of these two files without their suffixes, `wished` the digest that selected the image, in hexadecimal.
    `stateroot` and `serial` are ostree's. The descriptors are O_PATH; -1: nothing of that directory is mounted.
    """

    layout: str
    stateroot: str
    checksum: str
    serial: int | None
    path: str
    sysroot_fd: int
    objects_fd: int
    etc_fd: int
    var_fd: int
    image: Entry
    pair: Entry
    wished: str = ""


class Unverified(NamedTuple):
    """Bytes from the disk, read once and not checked.

    `stands_in`: the digest is the image's own, because the digest file cannot be opened. `forms`: what the signature may
    cover. `pair_path` is the path of both files without their suffixes.
    """

    digest: bytes
    stands_in: bool
    signature: bytes
    pair_path: str
    forms: tuple[str, ...] = (DIGEST_FILE,)


class Signer(NamedTuple):
    certificate: Certificate
    algorithm: str


class Verified(NamedTuple):
    """A digest that a key of the boot keyring signed. verify.py alone makes one.

    `signed` is the fs-verity digest that the signature covers, that of the digest file or of the image, as `form` says.
    `signature` is the PKCS#7 message, `value` the bare signature in it, and `hash_name` the hash that was signed.
    """

    digest: Digest
    signed: Digest
    signature: bytes
    value: bytes
    hash_name: str
    signer: Signer
    form: str = DIGEST_FILE


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


class Submount(NamedTuple):
    """What is mounted at the directory `name` of the root.

    Without `upper` it is the directory `fd`, with attributes of mount_setattr(2) set and cleared. Otherwise it is an overlay:
    `upper` has the options of its upper layer, and `lower` is a directory of the root.
    """

    name: str
    fd: int
    set: int = 0
    clear: int = 0
    lower: str = ""
    upper: tuple[tuple[str, str], ...] = ()
    source: str = ""


class Plan(NamedTuple):
    """What a layout mounts in the root.

    `own_etc` is the directory of the root that /etc shows, if the image covers /etc. `ostree_booted` is the content of
    /run/ostree-booted, if there is one.
    """

    submounts: tuple[Submount, ...]
    not_covered: tuple[str, ...]
    own_etc: str
    ostree_booted: bytes


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
