# SPDX-License-Identifier: LGPL-2.1-or-later
"""The readers of what guests say."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from . import guest

_MARK = re.compile(r"^=== (\w+)\n", re.MULTILINE)


def sections(report: str) -> dict[str, str]:
    """The output of each command of a script(), without newlines at its end."""
    _, *found = _MARK.split(report)
    return {name: output.rstrip("\n") for name, output in zip(found[::2], found[1::2], strict=True)}


def json_lines(text: str) -> list[dict[str, Any]]:
    """What `journalctl -o json` printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def ended(result: guest.Result, status: int) -> None:
    """The guest must have ended itself with this status."""
    if result.status != status:
        tail = "\n".join([*result.console.splitlines()[-60:], "--- report", *result.report.splitlines()[-60:]])
        raise AssertionError(f"guest: {result.ended} {result.status}, not {status}, after {result.seconds:.0f} s\n{tail}")


def json_of(section: str) -> dict[str, Any]:
    """The JSON line of a section."""
    line = next(line for line in section.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


@dataclass(frozen=True)
class Mount:
    """A line of /proc/PID/mountinfo, see proc(5)."""

    root: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """A line of /proc/keys, see keyrings(7)."""

    serial: int
    permissions: str
    uid: int
    kind: str
    description: str


def mounts(text: str) -> dict[str, Mount]:
    """The lines of a mountinfo by their target, the topmost of each."""
    return dict(_mount(line) for line in text.splitlines())


def kernel_keys(text: str) -> list[Key]:
    """The lines of /proc/keys."""
    return [_key(line) for line in text.splitlines()]


def _mount(line: str) -> tuple[str, Mount]:
    mount, _, filesystem = line.partition(" - ")
    _, _, _, root, target, options, *_ = mount.split()
    fstype, source, super_options = filesystem.split()
    return target, Mount(root, tuple(options.split(",")), fstype, source, tuple(super_options.split(",")))


def _key(line: str) -> Key:
    serial, _flags, _usage, _expiry, permissions, uid, _gid, kind, description = line.split(maxsplit=8)
    return Key(int(serial, 16), permissions, int(uid), kind, description)


@dataclass(frozen=True)
class Told:
    """What a program said."""

    status: int
    out: str
    err: str

    @classmethod
    def all(cls, section: str) -> list[Told]:
        """Each `told` of a section."""
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
        """The chain: link and mark."""
        marks = "kernel|bootseal|firmware|not-verified|unknown|differs"
        chain = self.out.partition("\nNot covered by")[0]
        links = re.findall(rf"^  ({marks}) +(?:\u2514 )?([A-Za-z ]+): ", chain, flags=re.MULTILINE)
        return {name: mark for mark, name in links}
