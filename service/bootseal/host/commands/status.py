# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal status: show what verified this boot, what is not covered, and what changed since."""

import argparse
import os
import sys
from typing import Any, NamedTuple

from ... import record as records
from ... import report, verdicts
from ...record import Enrollment, Record
from ...stages import mount
from ..live import blockdevices, chain, drift, systemd
from ..live.blockdevices import Device
from ..live.systemd import Answer
from ..output import DATA, IO_ERROR, NO_PERMISSION, emit, error, note, painted, table

VERSION = 1
_COLOURS = {
    chain.KERNEL: "green", chain.BOOTSEAL: "green", chain.FIRMWARE: "green", chain.NOT_VERIFIED: "yellow",
    drift.UNKNOWN: "yellow", drift.DIFFERS: "red",
}  # fmt: skip
_HINT = "do not trust this system: boot again, and find out who mounted or changed it (findmnt, journalctl -b)"
_UNUSED = "was this system booted with bootseal in its initrd?"


class Picture(NamedTuple):
    """Everything that status prints. `unknown` has a line for each question without an answer."""

    record: Record
    answer: Answer | None
    links: list[chain.Link]
    checks: list[drift.Check]
    not_covered: list[chain.Uncovered]
    devices: list[Device]
    unknown: list[str]


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: every command has --json."""


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    picture = gather()
    emit(as_json(picture), arguments.json, as_text(picture))
    for line in picture.unknown:
        note(f"not known: {line}")
    return _conclude(picture)


def gather() -> Picture:
    """Ask systemd, the kernel, udev and the firmware. A missing answer becomes a line in `unknown`."""
    record, unknown = report.load(), list[str]()
    mounts, firmware = drift.mounts(), chain.firmware()
    verified = record.is_verified
    checks = drift.checks(record, mounts) if verified else []
    unknown += [check.text for check in checks if check.state == drift.UNKNOWN]
    answer = _ask_systemd(unknown)
    soft_reboots = answer.soft_reboots if answer else None
    if verified and answer and soft_reboots is None:
        unknown.append("whether there was a soft reboot since: systemd counts them since version 256")
    return Picture(
        record=record,
        answer=answer,
        links=chain.links(record, firmware, checks, mounts) if verified else [],
        checks=checks,
        not_covered=chain.not_covered(record, firmware, mounts, soft_reboots) if verified else [],
        devices=_find_devices(mounts, unknown),
        unknown=unknown,
    )


def as_json(picture: Picture) -> dict[str, Any]:
    """Return the record with the members `unit`, `soft_reboots` and `status`; see bootseal.json(5)."""
    members = records.as_json(picture.record)
    if picture.answer:
        members["unit"] = picture.answer.unit._asdict()
        if picture.answer.soft_reboots is not None:
            members["soft_reboots"] = picture.answer.soft_reboots
    members["status"] = {
        "version": VERSION,
        "result": _name_result(picture),
        "chain": [link._asdict() for link in picture.links],
        "checks": [check._asdict() for check in picture.checks],
        "not_covered": [place._asdict() for place in picture.not_covered],
        "devices": [_omit_unknown(device._asdict()) for device in picture.devices],
        "unknown": picture.unknown,
    }
    return members


def as_text(picture: Picture) -> str:
    """Return one screen: the verdict, the chain, what is not covered, the devices."""
    parts = [_format_head(picture)]
    if picture.links:
        parts.append(_draw_chain(picture.links))
    if picture.not_covered:
        parts.append("Not covered by the signature:\n" + table([[f"  {p.what}", p.why] for p in picture.not_covered], {}))
    if picture.devices:
        parts.append("Block devices behind the root:\n" + table([_format_device(device) for device in picture.devices], {}))
    return "\n\n".join(parts)


def _conclude(picture: Picture) -> int:
    """Report a failure on stderr; return the exit status."""
    record, differing = picture.record, [check for check in picture.checks if check.state == drift.DIFFERS]
    for check in differing:
        error(f"Changed since boot: {check.text}")
    if differing:
        note(f"hint: {_HINT}")
        return NO_PERMISSION
    if record.is_verified:
        return 0
    if record.verdict:
        error(record.message or record.verdict, record.hint or "")
        return next((v.exit_status for v in verdicts.VERDICTS if v.name == record.verdict), DATA)
    why = "unreadable or of another version" if os.path.exists(report.PATH) else "not found"
    active = picture.answer is not None and picture.answer.unit.active_state == "active"
    hint = f"{systemd.UNIT} ran in this boot: the record was removed or tampered with" if active else _UNUSED
    error(f"Failed to read the record of this boot, {report.PATH}: {why}", hint)
    return IO_ERROR


def _ask_systemd(unknown: list[str]) -> Answer | None:
    try:
        return systemd.ask()
    except systemd.Unavailable as unavailable:
        unknown.append(str(unavailable))
        return None


def _find_devices(mounts: drift.Mounts, unknown: list[str]) -> list[Device]:
    """Return the devices behind the physical root, or behind the root if it has none."""
    top = {m.target: m for m in mounts.everything}
    mounted = top.get(mount.SYSROOT) or mounts.root
    if mounted is None:
        unknown.append("the block devices behind the root: no mount of it in the mount table")
        return []
    try:
        devices, notes = blockdevices.behind(mounted)
    except blockdevices.Unavailable as unavailable:
        unknown.append(str(unavailable))
        return []
    unknown += notes
    return devices


def _name_result(picture: Picture) -> str:
    """Return verified (and still so), differs (verified, but changed since), refused, or none (no record)."""
    if any(check.state == drift.DIFFERS for check in picture.checks):
        return "differs"
    if picture.record.is_verified:
        return "verified"
    return "refused" if picture.record.verdict else "none"


def _format_head(picture: Picture) -> str:
    words = {
        "verified": "verified, and still so as far as can be seen",
        "differs": "verified at boot, but not so any more",
        "refused": f"refused ({picture.record.verdict})",
        "none": "not verified by bootseal, as far as can be seen",
    }
    result = _name_result(picture)
    colours = {text: "green" if name == "verified" else "red" for name, text in words.items()}
    if any(link.name == "root" and link.mark == chain.NOT_VERIFIED for link in picture.links):
        words["verified"] = "verified; what is merged over it since is not"
        colours[words["verified"]] = "yellow"
    lines = [["Boot", words[result]], *_describe_record(picture.record)]
    if picture.answer:
        lines.append(["Unit", _format_unit(picture.answer)])
        lines += [["Status", picture.answer.unit.status_text]] if result == "none" and picture.answer.unit.status_text else []
    return table(lines, colours)


def _describe_record(record: Record) -> list[list[str]]:
    """Describe the deployment, as far as the boot came."""
    lines = []
    if record.image:
        lines += [["Image", f"{record.image.name}, as its own os-release says"]] if record.image.name else []
        lines.append(["Digest", record.image.text])
    if record.deployment:
        lines.append(["Root", f"{record.deployment.name}, as the disk names it; bootseal {record.bootseal or 'unknown'}"])
    if record.enrollment:
        lines.append(["Method", _format_method(record.enrollment)])
    return lines + [["Note", text] for text in record.notes or ()]


def _format_method(enrollment: Enrollment) -> str:
    words = [enrollment.method]
    words += ["checked by the kernel" if enrollment.kernel_checked else "checked by userspace alone"]
    words += ["first boot"] if enrollment.first_boot else []
    written = enrollment.bytes_written
    return ", ".join(words if written is None else [*words, f"{written or 'no'} bytes written"])


def _format_unit(answer: Answer) -> str:
    unit = answer.unit
    if unit.load_state != "loaded":
        return f"{systemd.UNIT}: {unit.load_state}: it is not installed in the booted system"
    return f"{systemd.UNIT}: {unit.active_state} ({unit.sub_state}), result {unit.result}, exit status {unit.exit_status}"


def _draw_chain(links: list[chain.Link]) -> str:
    """Draw each link below the one that vouches for it. The mark comes first, so a long digest moves nothing."""
    corner = "└ " if (sys.stdout.encoding or "").lower().startswith("utf") else "` "
    marks = max(len(link.mark) for link in links)
    lines = ["What vouches for what, and who checked it:"]
    for depth, link in enumerate(links):
        mark = painted(link.mark, _COLOURS[link.mark]) + " " * (marks - len(link.mark))
        lines.append(f"  {mark}  {' ' * max(depth - 1, 0)}{corner if depth else ''}{link.name}: {link.text}")
    return "\n".join(lines)


def _format_device(device: Device) -> list[str]:
    access = {True: "read-only", False: "writable", None: ""}[device.read_only]
    return [f"  {'  ' * device.below}{device.node}", device.kind, access, device.model]


def _omit_unknown(members: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is unknown, as boot.json does."""
    return {key: value for key, value in members.items() if value is not None}
