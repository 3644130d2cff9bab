# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 2: BootKeyring -> KernelKeys: certificates into the kernel, then `.fs-verity` sealed and locked.

Needs no disk, and is done before one is read: no key that comes later is ever trusted. What cannot be done is no reason to
refuse here; enroll.py weighs it.

Order and permission masks were tried against root with all capabilities. SEARCH is left out of the masks of the `bootseal`
keyring, because it is what KEYCTL_INVALIDATE needs; that also keeps the kernel's search for certificates out of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import reason
from ..linux import keyctl
from ..values import BootKeyring, Certificate, Gap, KernelKeys

KERNEL_KEYRING = ".fs-verity"
RING = "bootseal"
# possessor and user: view, read, write, link, setattr; no search. Until the digest is in.
_RING_OPEN = 0x37370000
# possessor: search; user: view, read. Neither write, link nor setattr for anybody.
_KERNEL_KEYRING_LOCKED = 0x08030000


def load(keyring: BootKeyring, *, ring: bool, seal: bool) -> KernelKeys:
    """Loads every certificate, makes the keyring `bootseal` (`ring`), and seals and locks `.fs-verity` (`seal`)."""
    keys = load_privately(keyring)
    try:
        anchor = _find_anchor()
    except OSError as error:
        unlisted = Gap(f"the kernel's keys cannot be listed: {reason(error)}", unsupported=False)
        return KernelKeys(keys.loaded, keys.unloaded, frozenset(), None, False, (unlisted,))
    if anchor is None:
        lacking = "no .fs-verity keyring: this kernel does not check built-in fs-verity signatures"
        return KernelKeys(keys.loaded, keys.unloaded, frozenset(), None, False, (Gap(lacking, unsupported=True),))
    return _fill(anchor, keys.loaded, keys.unloaded, ring=ring, seal=seal)


def load_privately(keyring: BootKeyring) -> KernelKeys:
    """Loads every certificate into the keyring of this process, and nothing anywhere else."""
    loaded: dict[str, int] = {}
    unloaded: dict[str, int] = {}
    for certificate in keyring.certificates:
        try:
            loaded[certificate.sha256] = _add(certificate)
        except OSError as error:
            unloaded[certificate.sha256] = error.errno or 0
    return KernelKeys(loaded, unloaded, anchored=frozenset(), ring=None, sealed=False, gaps=())


def description(certificate_sha256: str) -> str:
    """The description of a certificate's key. The kernel's own lets a renewed certificate displace the old one."""
    return f"bootseal:{certificate_sha256}"


def _add(certificate: Certificate) -> int:
    return keyctl.add_key("asymmetric", description(certificate.sha256), certificate.der, keyctl.PROCESS_KEYRING)


def _find_anchor() -> int | None:
    """Return its serial, or None without it. Raises OSError."""
    try:
        keys = keyctl.listed_keys()
    except FileNotFoundError:  # a kernel without keys
        return None
    # Userspace cannot make a keyring whose name begins with a dot.
    return next((k.serial for k in keys if (k.kind, k.description, k.uid) == ("keyring", KERNEL_KEYRING, 0)), None)


def _fill(anchor: int, loaded: dict[str, int], unloaded: dict[str, int], *, ring: bool, seal: bool) -> KernelKeys:
    present = _members(anchor)
    gaps: list[Gap] = []
    # On a second start the ring is sealed, and they are in it.
    anchored = {sha256 for sha256 in loaded if description(sha256) in present}
    for sha256 in loaded.keys() - anchored:
        with _noting(gaps, f"the certificate {sha256[:16]} is not in .fs-verity"):
            keyctl.link(loaded[sha256], anchor)
            anchored.add(sha256)
    own = present.get(RING)
    if ring and own is None:
        with _noting(gaps, "no keyring for the digest in .fs-verity"):
            own = _make_ring(anchor)
    sealed = _locked(anchor)
    if seal and not sealed:
        with _noting(gaps, ".fs-verity is not sealed"):
            _seal(anchor)
            sealed = True
    return KernelKeys(loaded, unloaded, frozenset(anchored), own, sealed, tuple(gaps))


@contextmanager
def _noting(gaps: list[Gap], what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Not `lacking`, whatever the errno: this kernel has the ring, and another program's restriction may give any of them.
        gaps.append(Gap(f"{what}: {reason(error)}", unsupported=False))


def _members(anchor: int) -> dict[str, int]:
    """Description and serial of what is in `.fs-verity`; empty when somebody locked it against reading."""
    try:
        serials = set(keyctl.members(anchor))
    except OSError:
        return {}
    return {key.description: key.serial for key in keyctl.listed_keys() if key.serial in serials}


def _make_ring(anchor: int) -> int:
    # Made where this process possesses it: a service's session keyring need not lead to root's user keyring.
    ring = keyctl.add_key("keyring", RING, None, keyctl.PROCESS_KEYRING)
    keyctl.set_permissions(ring, _RING_OPEN)
    keyctl.link(ring, anchor)  # first: where this fails, no ring that looks like the genuine one stays
    keyctl.link(ring, keyctl.USER_KEYRING)
    return ring


def _locked(anchor: int) -> bool:
    """Whether nobody may write to it, nor give anybody the right to."""
    write_or_setattr = 0x24242424
    return not keyctl.describe(anchor).permissions & write_or_setattr


def _seal(anchor: int) -> None:
    with suppress(FileExistsError):  # sealed already, by a run of ours that was cut short or by somebody else
        keyctl.restrict(anchor)
    keyctl.set_permissions(anchor, _KERNEL_KEYRING_LOCKED)
