# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read what guests say: reports in sections, boot.json, mounts, keys, units, and what programs printed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from .boot import Result
from .qemu import PASSED

# ask() makes the first kind of line, the initrd's emergency environment the second, see guest/initrd/emergency.
_MARK = re.compile(r"^(?:=== (.*)|guest: (boot\.json|mountinfo|emergency script))\n", re.MULTILINE)
_MARKS = "kernel|bootseal|firmware|not-verified|unknown|differs"
_CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def must_end(result: Result, status: int = PASSED) -> None:
    """Fail unless the guest ended itself with this status."""
    if result.status != status:
        raise AssertionError(
            f"guest: {result.ended} {result.status}, not {status}, after {result.seconds:.0f} s\n{_tail(result)}"
        )


def _tail(result: Result) -> str:
    return "\n".join([*result.console.splitlines()[-60:], "--- report", *result.report.splitlines()[-60:]])


# --- a report


@dataclass(frozen=True)
class Said:
    """Console and report of a boot; `said["name"]` is a section of the report."""

    result: Result

    @classmethod
    def of(cls, result: Result, status: int = PASSED) -> Said:
        """Read a boot that must have ended with this status."""
        must_end(result, status)
        return Said(result)

    def must_end(self, status: int = PASSED) -> Self:
        """Fail unless the guest ended itself with this status."""
        must_end(self.result, status)
        return self

    @cached_property
    def sections(self) -> dict[str, str]:
        """Split the report by its marks."""
        return sections(self.result.report)

    def __getitem__(self, name: str) -> str:
        if name not in self.sections:
            raise AssertionError(f"no section {name}: {self.result.ended} {self.result.status}\n{_tail(self.result)}")
        return self.sections[name]

    @cached_property
    def console(self) -> list[str]:
        """Return the console's lines, without systemd's colours and cursor movements."""
        return _CURSOR.sub("", self.result.console).splitlines()

    @cached_property
    def record(self) -> dict[str, Any]:
        """Read boot.json, as the script printed it, or before that the emergency environment."""
        found = json.loads(self["record" if "record" in self.sections else "boot.json"])
        assert isinstance(found, dict)
        return found

    def unit(self, name: str = "unit") -> dict[str, str]:
        """Read a section that `systemctl show` printed."""
        return properties(self[name])

    def mounts(self, name: str = "mounts") -> list[Mount]:
        """Read a section that is a mountinfo."""
        return mounts(self[name])

    def topmost(self, name: str = "mounts") -> dict[str, Mount]:
        """Read a mountinfo by target: a later mount hides an earlier one."""
        return {mount.target: mount for mount in self.mounts(name)}

    def kernel_keys(self, name: str = "keys") -> list[Key]:
        """Read a section that is a /proc/keys."""
        return [_key(line) for line in self[name].splitlines()]

    def told(self, name: str) -> Told:
        """Read a section with one `told`."""
        (found,) = Told.all(self[name])
        return found


def sections(report: str) -> dict[str, str]:
    """Split a report: the output of each command of ask(), without newlines at its end."""
    _, *found = _MARK.split(report)
    marks = zip(found[::3], found[1::3], found[2::3], strict=True)
    return {asked or emergency: output.rstrip("\n") for asked, emergency, output in marks}


# --- JSON and properties


def json_lines(text: str) -> list[dict[str, Any]]:
    """Read what `journalctl -o json` printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def first_json(section: str) -> dict[str, Any]:
    """Read the first JSON of a section, at the start of a line; other output may surround it."""
    match = re.search(r"^\{", section, re.MULTILINE)
    assert match, f"no JSON: {section}"
    found: dict[str, Any] = json.JSONDecoder().raw_decode(section, match.start())[0]
    return found


def last_json(section: str) -> dict[str, Any]:
    """Read the last line of a section."""
    found = json.loads(section.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def properties(text: str) -> dict[str, str]:
    """Read what `systemctl show` printed of one unit."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


# --- the kernel's tables


@dataclass(frozen=True)
class Mount:
    """A line of /proc/PID/mountinfo, see proc(5)."""

    root: str
    target: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


def mounts(text: str) -> list[Mount]:
    """Read a mountinfo."""
    return [_mount(line) for line in text.splitlines()]


def _mount(line: str) -> Mount:
    mount, _, filesystem = line.partition(" - ")
    _, _, _, root, target, options, *_ = mount.split()
    fstype, source, super_options = filesystem.split()
    return Mount(root, target, tuple(options.split(",")), fstype, source, tuple(super_options.split(",")))


@dataclass(frozen=True)
class Key:
    """A line of /proc/keys, see keyrings(7)."""

    serial: int
    permissions: str
    uid: int
    kind: str
    description: str


def _key(line: str) -> Key:
    serial, _flags, _usage, _expiry, permissions, uid, _gid, kind, description = line.split(maxsplit=8)
    return Key(int(serial, 16), permissions, int(uid), kind, description)


# --- programs


@dataclass(frozen=True)
class Told:
    """What a program printed and how it ended, as `told` reports it, see ask.TOLD."""

    status: int
    out: str
    err: str

    @classmethod
    def all(cls, section: str) -> list[Told]:
        """Read each `told` of a section."""
        return [cls._one(text) for text in re.split(r"^status: ", section, flags=re.MULTILINE)[1:]]

    @classmethod
    def _one(cls, text: str) -> Told:
        status, *lines = text.splitlines()
        out, err = ("\n".join(line[5:] for line in lines if line.startswith(kind)) for kind in ("out: ", "err: "))
        return cls(int(status), out, err)

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def marks(self) -> dict[str, str]:
        """Read the chain that `bootseal status` prints: link and mark."""
        chain = self.out.partition("\nNot covered by")[0]
        links = re.findall(rf"^  ({_MARKS}) +(?:\u2514 )?([A-Za-z ]+): ", chain, flags=re.MULTILINE)
        return {name: mark for mark, name in links}
