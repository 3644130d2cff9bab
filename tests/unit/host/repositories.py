# SPDX-License-Identifier: LGPL-2.1-or-later
"""Repositories made by the real ostree."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bootseal.host.carriers import DIGEST_KEY, KEY

BRANCH = "os/stable"
DIGEST = bytes(range(32))


def ostree(repo: Path, *arguments: str) -> str:
    """Run ostree, which must succeed, and return its output."""
    return subprocess.run(["ostree", f"--repo={repo}", *arguments], check=True, capture_output=True, text=True).stdout


def repository(at: Path, mode: str = "archive") -> Path:
    """Make an empty repository."""
    ostree(at, "init", f"--mode={mode}")
    return at


def commit(repo: Path, *options: str, digest: bytes | None = DIGEST, branch: str = BRANCH) -> str:
    """Commit a small tree, as 'ostree commit --generate-composefs-metadata' does; return the checksum."""
    tree = repo.parent / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "file").write_text("content")
    made = [f"--add-metadata={DIGEST_KEY}=[{', '.join(f'byte {value:#x}' for value in digest)}]"] if digest is not None else []
    return ostree(repo, "commit", f"--branch={branch}", f"--tree=dir={tree}", "--subject=A subject", *made, *options).strip()


def write_detached(repo: Path, checksum: str, value: bytes | str) -> Path:
    """Write detached metadata with this signature; 'ostree commit' itself can add strings only."""
    from gi.repository import GLib

    signature = GLib.Variant("ay" if isinstance(value, bytes) else "s", value)
    entries = {"ostree.gpgsigs": GLib.Variant("aay", [b"x"]), KEY: signature}
    path = repo / f"objects/{checksum[:2]}/{checksum[2:]}.commitmeta"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(GLib.Variant("a{sv}", entries).get_data_as_bytes().get_data())
    return path
