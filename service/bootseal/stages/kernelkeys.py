# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load the certificates of a BootKeyring into the kernel, then seal and lock `.fs-verity`.

This comes before any disk is read, so the kernel never trusts a key that arrives later. A step that fails does not refuse the
boot here: enroll.py weighs the gaps.

Order and permission masks were tried against root with all capabilities. The masks of the keyring `bootseal` lack SEARCH, which
KEYCTL_INVALIDATE needs. That also keeps the kernel's search for certificates out of it.
"""

from ..errors import reason
from ..linux import keyctl
from ..values import BootKeyring, Certificate, Gap, KernelKeys

FSVERITY_KEYRING = ".fs-verity"
DIGEST_KEYRING = "bootseal"
# possessor and user: view, read, write, link, setattr; no search. Until the digest is in.
_DIGEST_KEYRING_OPEN = 0x37370000
# possessor: search; user: view, read. Neither write, link nor setattr for anybody.
_FSVERITY_KEYRING_LOCKED = 0x08030000
_WRITE_OR_SETATTR = 0x24242424  # for possessor, user, group and others


def load(keyring: BootKeyring, *, digest_keyring: bool, seal: bool) -> KernelKeys:
    """Load every certificate, make the keyring `bootseal`, and seal and lock `.fs-verity`."""
    keys = load_privately(keyring)
    try:
        fsverity_keyring = find_fsverity_keyring()
    except OSError as error:
        unlisted = Gap(f"the kernel's keys cannot be listed: {reason(error)}", unsupported=False)
        return KernelKeys(keys.loaded, keys.unloaded, frozenset(), None, False, (unlisted,))
    if fsverity_keyring is None:
        what = "no .fs-verity keyring: this kernel does not check built-in fs-verity signatures"
        return KernelKeys(keys.loaded, keys.unloaded, frozenset(), None, False, (Gap(what, unsupported=True),))
    return _fill(fsverity_keyring, keys.loaded, keys.unloaded, digest_keyring=digest_keyring, seal=seal)


def load_privately(keyring: BootKeyring) -> KernelKeys:
    """Load every certificate into the keyring of this process, and change no other keyring."""
    loaded: dict[str, int] = {}
    unloaded: dict[str, int] = {}
    for certificate in keyring.certificates:
        try:
            loaded[certificate.sha256] = _add(certificate)
        except OSError as error:
            unloaded[certificate.sha256] = error.errno or 0
    return KernelKeys(loaded, unloaded, in_fsverity_keyring=frozenset(), digest_keyring=None, sealed=False, gaps=())


def description(certificate_sha256: str) -> str:
    """Return the description of a certificate's key.

    With the kernel's own description, a renewed certificate would displace the old one.
    """
    return f"bootseal:{certificate_sha256}"


def _add(certificate: Certificate) -> int:
    return keyctl.add_key("asymmetric", description(certificate.sha256), certificate.der, keyctl.PROCESS_KEYRING)


def find_fsverity_keyring() -> int | None:
    """Return the serial of `.fs-verity`, or None on a kernel without it. Raises OSError."""
    try:
        keys = keyctl.listed_keys()
    except FileNotFoundError:  # a kernel without keys
        return None
    # Userspace cannot make a keyring whose name begins with a dot.
    return next((k.serial for k in keys if (k.kind, k.description, k.uid) == ("keyring", FSVERITY_KEYRING, 0)), None)


def list_members(keyring: int) -> dict[str, int]:
    """Return the serials of a keyring's keys by description. Empty if it cannot be read."""
    try:
        serials = set(keyctl.members(keyring))
    except OSError:
        return {}
    return {key.description: key.serial for key in keyctl.listed_keys() if key.serial in serials}


def is_locked(keyring: int) -> bool:
    """Tell whether no process may write to a keyring, or give any process the right to."""
    return not keyctl.describe(keyring).permissions & _WRITE_OR_SETATTR


def _fill(
    fsverity_keyring: int, loaded: dict[str, int], unloaded: dict[str, int], *, digest_keyring: bool, seal: bool
) -> KernelKeys:
    present = list_members(fsverity_keyring)
    gaps: list[Gap] = []
    # On a second start the keyring is sealed and has them.
    linked = {sha256 for sha256 in loaded if description(sha256) in present}
    for sha256 in loaded.keys() - linked:
        with _Attempt(gaps, f"the certificate {sha256[:16]} is not in .fs-verity"):
            keyctl.link(loaded[sha256], fsverity_keyring)
            linked.add(sha256)
    own = present.get(DIGEST_KEYRING)
    if digest_keyring and own is None:
        with _Attempt(gaps, "no keyring for the digest in .fs-verity"):
            own = _make_digest_keyring(fsverity_keyring)
    sealed = is_locked(fsverity_keyring)
    if seal and not sealed:
        with _Attempt(gaps, ".fs-verity is not sealed"):
            _seal(fsverity_keyring)
            sealed = True
    return KernelKeys(loaded, unloaded, frozenset(linked), own, sealed, tuple(gaps))


class _Attempt:
    """Turns the OSError of a step into a gap."""

    def __init__(self, gaps: list[Gap], what: str) -> None:
        self._gaps, self._what = gaps, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, OSError):
            return False
        # Never `unsupported`: this kernel has the keyring, and another program's restriction may give any errno.
        self._gaps.append(Gap(f"{self._what}: {reason(error)}", unsupported=False))
        return True


def _make_digest_keyring(fsverity_keyring: int) -> int:
    # Made where this process possesses it: a service's session keyring need not lead to root's user keyring.
    made = keyctl.add_key("keyring", DIGEST_KEYRING, None, keyctl.PROCESS_KEYRING)
    keyctl.set_permissions(made, _DIGEST_KEYRING_OPEN)
    keyctl.link(made, fsverity_keyring)  # first: if this fails, no keyring that looks genuine stays
    keyctl.link(made, keyctl.USER_KEYRING)
    return made


def _seal(fsverity_keyring: int) -> None:
    try:
        keyctl.restrict(fsverity_keyring)
    except FileExistsError:  # sealed already, by a killed run of ours or by another program
        pass
    keyctl.set_permissions(fsverity_keyring, _FSVERITY_KEYRING_LOCKED)
