# SPDX-License-Identifier: LGPL-2.1-or-later
"""Extend an initrd by a second cpio archive: a file in it replaces one of the same name."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Symlink:
    """A symbolic link in an initrd."""

    target: str


Content = bytes | tuple[bytes, int] | Symlink


def _member(name: str, mode: int, content: bytes, number: int) -> bytes:
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + encoded, 4) + _pad(content, 4)


def _pad(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def archive(files: Mapping[str, Content]) -> bytes:
    """A cpio archive (newc). Parent directories are included: name them as they really are, no `lib` for `usr/lib`."""
    directories = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    members = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(directories)]
    for name, content in files.items():
        if isinstance(content, Symlink):
            members.append((name, stat.S_IFLNK | 0o777, content.target.encode()))
        else:
            data, mode = content if isinstance(content, tuple) else (content, 0o644)
            members.append((name, stat.S_IFREG | mode, data))
    packed = b"".join(_member(*member, number) for number, member in enumerate(members, 1))
    return _pad(packed + _member("TRAILER!!!", 0, b"", 0), 512)


def with_files(initrd: Path, files: Mapping[str, Content], to: Path) -> Path:
    """A copy of an initrd at `to` with files added or replaced (paths without a leading slash)."""
    to.write_bytes(_pad(initrd.read_bytes(), 512) + archive(files))
    return to
