# SPDX-License-Identifier: LGPL-2.1-or-later
"""Show who vouches for each link of this boot's chain, and list what the signature does not cover.

A mark says who checked a link. `firmware` is all that a running system can tell of Secure Boot: that it was on.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from ...errors import printable
from ...linux import efi
from ...record import Record
from ...stages import origin
from . import gptauto
from .drift import DIFFERS, SAME, UNKNOWN, Check, Mount, Mounts, covering, described, extensions

KERNEL, BOOTSEAL, FIRMWARE, NOT_VERIFIED = "kernel", "bootseal", "firmware", "not-verified"
_FIRMWARE_LINKS = (origin.INITRD, origin.COMMAND_LINE)
_INITRD, _COMMAND_LINE = (name + origin.NOT_KNOWN for name in _FIRMWARE_LINKS)
_REASONS = {
    "/etc": "persistent, acts as root; not with etc.transient",
    "/var": "data of this machine",
    "/boot": "files of the boot loader",
    origin.INITRD: "no sign of authentication: all checks are advisory",
    origin.COMMAND_LINE: "no sign of authentication",
    _INITRD: "not known: systemd-stub adds the boot loader's to its own",
    _COMMAND_LINE: "not known: an image without one takes the boot loader's",
    origin.CREDENTIALS: "from ESP, SMBIOS, fw_cfg or command line; systemd obeys them",
    origin.EXTENSIONS: "from the ESP",
}


class Firmware(NamedTuple):
    """None: not known, as on a machine without EFI. `unauthenticated` is of initrd and command line, as in boot.json."""

    secure_boot: bool | None
    unified: bool | None
    unauthenticated: tuple[str, ...] = _FIRMWARE_LINKS
    shim_insecure: bool = False


class Link(NamedTuple):
    """`mark`: kernel, bootseal, firmware, not-verified, unknown, or differs."""

    name: str
    text: str
    mark: str


class Uncovered(NamedTuple):
    what: str
    why: str


def firmware(variables: str = efi.VARIABLES) -> Firmware:
    """Ask the firmware about Secure Boot, and whether systemd-stub(7) started this kernel with its initrd."""
    if not os.path.isdir(variables) or not os.listdir(variables):
        return Firmware(None, None)
    try:
        return Firmware(
            _true(efi.secure_boot, variables),
            _true(efi.stub, variables),
            tuple(origin.unauthenticated(variables)),
            efi.shim_insecure(variables),
        )
    except OSError:
        return Firmware(None, None)


def _true(ask: Callable[[str], object], variables: str) -> bool:
    """Ask about a variable. A missing one means no."""
    try:
        return bool(ask(variables))
    except FileNotFoundError:
        return False


def links(record: Record, now: Firmware, checks: list[Check], table: Mounts) -> list[Link]:
    """List the links from the firmware down to the root; each vouches for the next."""
    results = {check.name: check for check in checks}
    start, signed = _initrd_mark(now), BOOTSEAL
    if record.enrollment and record.enrollment.kernel_checked:
        signed = KERNEL
    return [
        Link("Secure Boot", _secure_boot(now), _firmware_mark(now)),
        Link("initrd", _initrd(now), start),
        Link("boot keyring", _keyring(record), start),
        Link("signer", _signer(record), signed),
        Link("digest file", _digest(record), _held(signed, results.get("keyring"))),
        _checked("image", os.path.basename(record.image.path) if record.image else "", results.get("image")),
        _checked("overlay", "", results.get("root")),
        _root(_checked("root", "", results.get("tree")), results.get("root"), table),
    ]


def not_covered(record: Record, now: Firmware, table: Mounts, soft_reboots: int | None) -> list[Uncovered]:
    """List what boot.json lists, as it is now, and what came later."""
    merged, generated = extensions(table), gptauto.units()
    found = [Uncovered(_short(name), _REASONS.get(name) or _other_reason(name)) for name in _names(record, now)]
    found += [Uncovered(printable(m.target), f"{m.source} merged over it: see 'systemd-{m.source} status'") for m in merged]
    others = [m for m in covering(table) if m.id not in {merged_.id for merged_ in merged}]
    others += [m for m in table.everything if gptauto.mounted(m, generated) and m not in others]
    found += [_mounted(m, gptauto.WHO if gptauto.mounted(m, generated) else "") for m in others]
    found += [_swap(device, gptauto.WHO if device in generated else "") for device in gptauto.swaps()]
    if soft_reboots:
        times = "once" if soft_reboots == 1 else f"{soft_reboots} times"
        found.append(Uncovered("soft reboot", f"{times} since this boot: userspace restarted without the initrd's check"))
    return found


def _other_reason(name: str) -> str:
    return "a link of the image, to where code is looked for" if " -> " in name else "named by the record of this boot"


def _names(record: Record, now: Firmware) -> list[str]:
    """Name the uncovered places of the record, with firmware and credentials as they are now."""
    names = [*(name for name in record.not_covered or () if _short(name) not in _FIRMWARE_LINKS), *now.unauthenticated]
    if origin.CREDENTIALS not in names and origin.credentials_imported():
        names.append(origin.CREDENTIALS)
    return sorted(names, key=(origin.CREDENTIALS, origin.EXTENSIONS).__contains__)  # these last, as in the record


def _short(name: str) -> str:
    return name.removesuffix(origin.NOT_KNOWN)


def _mounted(mounted: Mount, who: str) -> Uncovered:
    return Uncovered(printable(mounted.target), printable(f"{described(mounted)}, mounted over it{who}"))


def _swap(device: str, who: str) -> Uncovered:
    return Uncovered("swap", printable(f"memory that was written to {device} is read back unverified{who}"))


def _root(link: Link, overlay: Check | None, table: Mounts) -> Link:
    """Mark a root that an extension or another overlay hides as not verified."""
    another = overlay is not None and overlay.state == DIFFERS
    return link._replace(mark=NOT_VERIFIED) if link.mark == KERNEL and (another or extensions(table)) else link


def _secure_boot(now: Firmware) -> str:
    if now.shim_insecure:
        return "shim's validation is off"
    return {True: "on", False: "off", None: "not known"}[now.secure_boot]


def _firmware_mark(now: Firmware) -> str:
    return {True: FIRMWARE, False: NOT_VERIFIED, None: UNKNOWN}[now.secure_boot]


def _initrd_mark(now: Firmware) -> str:
    if now.secure_boot is None or _INITRD in now.unauthenticated:
        return UNKNOWN
    return NOT_VERIFIED if origin.INITRD in now.unauthenticated else FIRMWARE


def _initrd(now: Firmware) -> str:
    if _INITRD in now.unauthenticated:
        return "in a unified kernel image; whether a boot loader added to it is not known"
    if now.unified is None:
        return "whether anybody authenticated it is not known"
    return "in a unified kernel image" if now.unified else "no unified kernel image, no sign of authentication"


def _keyring(record: Record) -> str:
    if record.keyring is None:
        return "not known"
    count, sealed = record.keyring.certificates, record.keyring.sealed
    text = {True: "sealed", False: "not sealed", None: "not known whether sealed"}[sealed]
    return f"{count} certificate{'' if count == 1 else 's'}; kernel .fs-verity {text}"


def _signer(record: Record) -> str:
    signature = record.signature
    return f"{signature.subject} ({signature.algorithm}, until {signature.not_after[:10]})" if signature else "not known"


def _digest(record: Record) -> str:
    value = f"{record.image.algorithm}:{record.image.digest[:12]}" if record.image else "not known"
    return f"{value}, method {record.enrollment.method}" if record.enrollment else value


def _held(mark: str, check: Check | None) -> str:
    return DIFFERS if check and check.state == DIFFERS else mark


def _checked(name: str, text: str, check: Check | None) -> Link:
    """Make a link that the kernel enforces from the result of its check."""
    if check is None:
        return Link(name, printable(text), UNKNOWN)
    mark = {SAME: KERNEL, DIFFERS: DIFFERS}.get(check.state, UNKNOWN)
    return Link(name, "; ".join(part for part in (printable(text), check.text) if part), mark)
