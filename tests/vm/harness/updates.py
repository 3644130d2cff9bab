# SPDX-License-Identifier: LGPL-2.1-or-later
"""A repository with updates of the tests' operating system, on a disk that a guest serves by HTTP.

Each branch has one commit: a tree with an initrd beside its kernel, as ostree wants it, and the branch's name in a file. QEMU
boots another initrd, so the tests' own have only what is judged before the boot.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import signed
from .cache import CHECKOUT, SCRIPTS, cached, digest_of, must_run, output_of, scratch
from .disk import Deployment, deployment
from .qemu import Disk
from .signed import Key
from .tree import BUILDER, base_tree

SERIAL = "guest-updates"
# Each branch, and whose key signs it.
SIGNERS = {"first": "guest", "second": "guest", "third": "guest", "stranger": "stranger"}
# Signatures that do not belong to their commits: that of `first`, and ten megabytes that are none.
MOVED, GARBAGE = "moved", "garbage"
_BOOTED = ("first", "second")  # the trees of the others are small


@dataclass(frozen=True)
class Updates:
    """The disk, and the digest of each branch's image."""

    disk: Disk
    digests: dict[str, str]


def updates(suite: str = "forky") -> Updates:
    """Make the tests' updates once, with a static delta from `first` to `second`."""
    deployed, initrd = deployment(suite), signed.thin_initrd(suite)
    keys = {name: signed.key(name=name) for name in ("guest", "stranger")}
    signers = {branch: keys.get(name) for branch, name in SIGNERS.items()} | {MOVED: None, GARBAGE: None}

    def build(path: Path) -> None:
        thin = path / "initrd"
        thin.write_bytes(initrd)
        repo = make(path, deployed, thin, signers, small=[branch for branch in signers if branch not in _BOOTED])
        _file(repo, MOVED).write_bytes(_file(repo, "first").read_bytes())
        _file(repo, GARBAGE).write_bytes(b"\xff" * 10_000_000)
        output_of("ostree", f"--repo={repo}", "static-delta", "generate", "--from=first", "--to=second")
        output_of("ostree", f"--repo={repo}", "summary", "--update")
        (path / "digests").write_text("".join(f"{branch} {_digest(repo, branch)}\n" for branch in signers))
        finish(path)

    sources = (SCRIPTS / "updates.sh", SCRIPTS / "lib.sh", Path(__file__), CHECKOUT / "service/bootseal/host")
    names = [part for branch, key in signers.items() for part in (branch, key.certificate if key else "")]
    home = cached("updates", digest_of(deployed.home.name, initrd, *names, *sources), f"updates of {suite}", build)
    digests = dict(line.split() for line in (home / "digests").read_text().splitlines())
    return Updates(disk(home), digests)


def make(
    path: Path, deployed: Deployment, initrd: Path, signers: Mapping[str, Key | None], *, small: Sequence[str] = ()
) -> Path:
    """Make the repository, and sign its commits by `bootseal sign --repo=`; return it.

    The branches in `small` have a tree of a few files, which no guest boots.
    """
    names = [f"-{branch}" if branch in small else branch for branch in signers]
    with scratch() as work:
        must_run("updates.sh", base_tree(BUILDER), deployed.home, initrd, path, work, *names)
    for branch, key in signers.items():
        if key:
            sign: list[str | Path] = [
                CHECKOUT / "service",
                "sign",
                branch,
                "--repo",
                path / "repo",
                "--key",
                key.key,
                "--cert",
                key.certificate,
            ]
            subprocess.run([sys.executable, "-I", *sign], check=True, stdout=subprocess.DEVNULL)
    return path / "repo"


def finish(path: Path) -> None:
    """Put the repository on a disk."""
    output_of("mke2fs", "-q", "-F", "-t", "ext4", "-d", path / "repo", path / "updates.raw", "400M")


def disk(path: Path) -> Disk:
    """Return the disk of finish(), SERIAL in the guest."""
    return Disk(path / "updates.raw", "raw", SERIAL, readonly=True)


def _file(repo: Path, branch: str) -> Path:
    """Return the file with a commit's detached metadata, to change it as an attacker would, without ostree."""
    checksum = (repo / "refs/heads" / branch).read_text().strip()
    return repo / f"objects/{checksum[:2]}/{checksum[2:]}.commitmeta"


def _digest(repo: Path, branch: str) -> str:
    said = output_of("ostree", f"--repo={repo}", "show", "--print-metadata-key=ostree.composefs.digest.v0", branch)
    return bytes(int(word.strip(" ,[]\n"), 16) for word in said.replace("byte", "").split(",")).hex()
