# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write and read the cpio archives of an initrd; files in a later one replace those of the same name."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_CPIO, _ZSTD = b"070701", b"\x28\xb5\x2f\xfd"
_HEADER, _FIELD = 110, 8
_SIZE, _NAME_SIZE = 6, 11  # which of the header's fields
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Symlink:
    """A symbolic link in an initrd."""

    target: str


Content = bytes | tuple[bytes, int] | Symlink


def entry(name: str, mode: int, content: bytes, number: int) -> bytes:
    encoded = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad(header + encoded, 4) + _pad(content, 4)


def _pad(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def archive(files: Mapping[str, Content]) -> bytes:
    """Make a cpio archive (newc) with parent directories: name those as they are, `usr/lib` for `lib`."""
    directories = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    members = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted(directories)]
    for name, content in files.items():
        if isinstance(content, Symlink):
            members.append((name, stat.S_IFLNK | 0o777, content.target.encode()))
        else:
            data, mode = content if isinstance(content, tuple) else (content, 0o644)
            members.append((name, stat.S_IFREG | mode, data))
    packed = b"".join(entry(*member, number) for number, member in enumerate(members, 1))
    return _pad(packed + entry("TRAILER!!!", 0, b"", 0), 512)


def with_files(initrd: Path, files: Mapping[str, Content], to: Path) -> Path:
    """Copy an initrd to `to` with files added or replaced (paths without a leading slash)."""
    to.write_bytes(_pad(initrd.read_bytes(), 512) + archive(files))
    return to


def contents(initrd: Path) -> dict[str, bytes]:
    """Read every file by its path without a leading slash: of a link the target, of a directory nothing."""
    data, found = initrd.read_bytes(), dict[str, bytes]()
    while data := data.lstrip(b"\0"):
        if data.startswith(_ZSTD):
            data = subprocess.run(["zstd", "-dcq"], check=True, input=data, stdout=subprocess.PIPE).stdout
        data = _read(data, found)
    return found


def _read(data: bytes, found: dict[str, bytes]) -> bytes:
    """Read one archive and return what follows it."""
    at, name = 0, ""
    while name != _TRAILER:
        assert data[at : at + len(_CPIO)] == _CPIO, f"no cpio archive at {at}"
        fields = [int(data[i : i + _FIELD], 16) for i in range(at + len(_CPIO), at + _HEADER, _FIELD)]
        start = at + _HEADER
        name = data[start : start + fields[_NAME_SIZE] - 1].decode()
        body = _aligned(start + fields[_NAME_SIZE])
        found[name.removeprefix("./")] = data[body : body + fields[_SIZE]]
        at = _aligned(body + fields[_SIZE])
    del found[_TRAILER]
    return data[at:]


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3
