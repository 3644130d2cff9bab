# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare what is mounted and enrolled now with the record of this boot.

Each check says `same`, `differs` or `unknown`. Without root, it may be `unknown`, and its text gives this reason.
"""

import os
from typing import NamedTuple

from ...errors import Refusal, printable, reason
from ...layouts import SOURCE, digest_in
from ...linux import files, keyctl, mountapi
from ...linux.mountapi import MountInfo
from ...record import Record
from ...stages import image, kernelkeys, mount
from ...values import Entry
from .. import inside, layouts

SAME, DIFFERS, UNKNOWN = "same", "differs", "unknown"
# Where the kernel or systemd mounts something of its own; a verified root has empty directories there.
_OWN = frozenset({"/proc", "/sys", "/dev", "/run", "/tmp"})
# Part of every ostree root; boot.json says which of them are not covered.
_PLACES = frozenset({"/etc", "/var", "/boot", "/sysroot"})
EXTENSIONS = ("sysext", "confext")
_EXTENDED = frozenset({"/usr", "/opt", "/etc"})
# Upper layers of /etc, as the layouts make them: in /run, and on the disk.
_TRANSIENT_ETC = ("upperdir=/run/ostree/transient-etc.", "upperdir=/run/bootseal/transient/.private/etc/")
_OVERLAY_ETC = "upperdir=/proc/self/fd/"
_UNLOCKED = "lowerdir=usr"  # the relative name is how ostree mounts it
_ETC = "/etc"
_NEEDS_ROOT = "only root may look"


class Check(NamedTuple):
    """`name`: boot, root, tree, image or keyring."""

    name: str
    state: str
    text: str


Mount = MountInfo


class Mounts(NamedTuple):
    """The mount table, and the mount at this process's root (None if the table lacks it, as in a chroot).

    `unread`: how many lines of the table could not be parsed.
    """

    root: Mount | None
    everything: list[Mount]
    unread: int = 0


def mounts() -> Mounts:
    lines = files.read_lines("/proc/self/mountinfo")
    everything = mountapi.parse(lines)
    unread = len(lines) - len(everything)
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        root = mountapi.mount_of(fd).id
    except LookupError:
        return Mounts(None, everything, unread)
    finally:
        os.close(fd)
    return Mounts(next((m for m in everything if m.id == root), None), everything, unread)


def checks(record: Record, now: Mounts, sysroot: str = mount.SYSROOT) -> list[Check]:
    """Make every check of a verified boot."""
    made = [
        _check_boot(record),
        _check_root(record, now.root),
        _check_tree(record, now, sysroot),
        _check_image(record, sysroot),
    ]
    return made if record.enrollment and record.enrollment.method == "none" else [*made, _check_keyring(record)]


def covering(now: Mounts) -> list[Mount]:
    """List the mounts that hide part of the verified root, except those that every system has.

    These are the mounts right on the root, and all below /usr, whose parent may be an extension.
    """
    root = now.root
    if root is None:
        return []
    hiding = [m for m in now.everything if m.parent == root.id or _is_below_usr(m)]
    return [m for m in hiding if m.target not in _OWN | _PLACES and not _shows_itself(m, root)]


def extensions(now: Mounts) -> list[Mount]:
    """List what systemd-sysext(8) and systemd-confext(8) merged, including over other mounts."""
    return [m for m in now.everything if m.fstype == "overlay" and m.source in EXTENSIONS and m.target in _EXTENDED]


def described(mounted: Mount) -> str:
    """Describe a mount in a few words."""
    if mounted.target == "/usr" and mounted.fstype == "overlay" and _UNLOCKED in mounted.super_options.split(","):
        return "overlay, as 'ostree admin unlock' makes it"
    return f"{mounted.fstype} from {mounted.source}"


def _is_below_usr(mounted: Mount) -> bool:
    return f"{mounted.target}/".startswith("/usr/")


def _shows_itself(mounted: Mount, root: Mount) -> bool:
    """Tell whether a part of the root is mounted over itself, as sandboxes (ProtectSystem=) do."""
    return mounted.device == root.device and mounted.root == mounted.target


def _check_boot(record: Record) -> Check:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        running = file.read().strip()
    if record.boot_id != running:
        return Check("boot", DIFFERS, f"the record is of boot {record.boot_id}, running is {running}")
    return Check("boot", SAME, "the record is of this boot")


def _check_root(record: Record, root: MountInfo | None) -> Check:
    if root is None:
        return Check("root", UNKNOWN, "the mount at / is not in the mount table of this process")
    expected = record.image.digest if record.image else "none"
    if root.fstype != "overlay" or digest_in(root.source) != expected:
        what = f"mounted at / is {root.fstype} from {root.source}, verified was overlay from {SOURCE}{expected}"
        return Check("root", DIFFERS, printable(what))
    if "verity=require" not in root.super_options.split(","):
        return Check("root", DIFFERS, f"the overlay at / has no verity=require ({printable(root.super_options)})")
    return Check("root", SAME, f"{SOURCE}{expected[:12]}..., verity=require")


def _check_tree(record: Record, now: Mounts, sysroot: str) -> Check:
    if now.root is None:
        return Check("tree", UNKNOWN, "the mount table of this process does not have the mount at /")
    merged = {m.id for m in extensions(now)}
    replaced = [m for m in covering(now) if (m.target == "/" or _is_below_usr(m)) and m.id not in merged]
    try:
        replaced += _find_other_etc(record, now, sysroot)
    except OSError as error:
        why = _NEEDS_ROOT if isinstance(error, PermissionError) else reason(error)
        if not replaced:
            return Check("tree", UNKNOWN, f"/etc was not compared with the deployment's: {why}")
    if replaced:
        what = ", ".join(f"{m.target} ({described(m)})" for m in replaced)
        return Check("tree", DIFFERS, f"mounted over the verified root: {printable(what)}")
    if now.unread:
        return Check("tree", UNKNOWN, f"the mount table has {now.unread} line{'s' * (now.unread > 1)} that cannot be parsed")
    return Check("tree", SAME, "only extensions are mounted over it" if merged else "nothing is mounted over / or /usr")


def _find_other_etc(record: Record, now: Mounts, sysroot: str) -> list[Mount]:
    """List a mount at /etc that neither the boot nor an extension made. Raises OSError."""
    mounted = [m for m in now.everything if m.target == "/etc"]
    top = [m for m in mounted if m.id not in {other.parent for other in mounted}]
    if not top or any(m.id == top[0].id for m in extensions(now)):
        return []
    options = top[0].super_options.split(",")
    if "/etc" not in (record.not_covered or ()):
        same = any(option.startswith(_TRANSIENT_ETC) for option in options)
    elif top[0].fstype == "overlay":
        same = top[0].source == "overlay" and any(option.startswith(_OVERLAY_ETC) for option in options)
    else:
        with inside.opened(sysroot, f"{_path(record)}/etc") as etc:
            same = os.path.samestat(os.stat(_ETC), os.fstat(etc))
    return [] if same else top


def _check_image(record: Record, sysroot: str) -> Check:
    path, expected = _path(record), _digest(record)
    try:
        enforced = str(_measure(record, path, sysroot))
    except Refusal as refusal:
        if isinstance(refusal.__cause__, PermissionError):
            return Check("image", UNKNOWN, f"the image was not measured: {_NEEDS_ROOT}")
        state = UNKNOWN if isinstance(refusal.__cause__, LookupError) else DIFFERS
        return Check("image", state, f"{refusal.what}: {refusal.path}")
    except PermissionError:
        return Check("image", UNKNOWN, f"the image was not measured: {_NEEDS_ROOT}")
    except OSError as error:
        return Check("image", DIFFERS, printable(f"the deployment cannot be opened: {reason(error)}: {sysroot}/{path}"))
    if enforced != expected:
        return Check("image", DIFFERS, printable(f"the image has the digest {enforced} now, verified was {expected}"))
    return Check("image", SAME, "measured now, and the same")


def _measure(record: Record, path: str, sysroot: str) -> object:
    where = layouts.of(record.deployment.layout if record.deployment else "ostree").where(path, sysroot)
    with inside.opened(sysroot, where.image_place) as fd:
        return image.enforced_digest(Entry(fd, where.image, where.image_path))


def _check_keyring(record: Record) -> Check:
    if os.geteuid() != 0:
        return Check("keyring", UNKNOWN, f"the digest in the kernel was not read: {_NEEDS_ROOT}")
    try:
        return _check_enrolled(record)
    except OSError as error:
        return Check("keyring", UNKNOWN, f"the digest in the kernel cannot be read: {reason(error)}")


def _check_enrolled(record: Record) -> Check:
    keyring = kernelkeys.find_fsverity_keyring()
    if keyring is None:
        return _report_absence(record, f"the kernel lacks the keyring {kernelkeys.FSVERITY_KEYRING}")
    if record.keyring and record.keyring.sealed and not kernelkeys.is_locked(keyring):
        return Check("keyring", DIFFERS, f"{kernelkeys.FSVERITY_KEYRING} was sealed at boot, and can be written now")
    ring = kernelkeys.list_members(keyring).get(kernelkeys.DIGEST_KEYRING)
    if ring is None:
        return _report_absence(record, f"{kernelkeys.FSVERITY_KEYRING} holds no keyring '{kernelkeys.DIGEST_KEYRING}'")
    return _check_digest(record, ring)


def _check_digest(record: Record, ring: int) -> Check:
    expected = _digest(record)
    held = [keyctl.read(key).decode(errors="replace") for key in keyctl.members(ring)]
    if held != [expected]:
        what = f"the kernel keyring holds {', '.join(held) or 'no digest'}, verified was {expected}"
        return _report_absence(record, printable(what)) if not held else Check("keyring", DIFFERS, printable(what))
    return Check("keyring", SAME, f"the kernel keyring holds {expected}")


def _report_absence(record: Record, what: str) -> Check:
    """Report an absence: a difference, unless the boot already reported incomplete enrolling."""
    if record.enrollment and record.enrollment.missing:
        return Check("keyring", UNKNOWN, f"{what}; enrolling was incomplete at boot")
    return Check("keyring", DIFFERS, what)


def _path(record: Record) -> str:
    """Return the deployment's path below the physical root; one that leads nowhere if it is unknown."""
    return record.deployment.path if record.deployment else "unknown"


def _digest(record: Record) -> str:
    return record.image.text if record.image else "unknown"
