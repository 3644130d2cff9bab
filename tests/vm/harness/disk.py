# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make deployments by a real ostree, and the sealed disk images that hold them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import qemu
from .cache import SCRIPTS, GuestError, cached, digest_of, must_run, run_dir, scratch
from .cpio import with_files
from .tree import BUILDER, base_tree, guest_exit, kernel, os_tree, seal_initrd

FILESYSTEMS = ("ext4", "btrfs")
BLOCK = 4096

# Given a copy of `.ostree.cfs`: the files to put beside the image, by name.
Signer = Callable[[Path], Mapping[str, bytes]]


@dataclass(frozen=True)
class Deployment:
    """A physical root as ostree made it, still a directory; `cfs` is a readable copy of its composefs image."""

    suite: str
    home: Path
    cfs: Path
    path: str  # of the directory with digest and signature, below the physical root
    karg: str  # the value of `key` in the kernel command line
    key: str = "ostree"

    @property
    def argument(self) -> str:
        """Return the argument of the kernel command line that selects it."""
        return f"{self.key}={self.karg}"

    @property
    def checksum(self) -> str:
        """Return the commit's checksum."""
        return self.path.rsplit("/", 1)[1].split(".")[0]

    def object_of(self, path: str) -> str:
        """Find the object that holds a file of the OS tree, as a path below the physical root."""
        for line in (self.home / "objects").read_text().splitlines():
            found = re.fullmatch(r"-\S+ +\d+ +\d+ +\d+ ([0-9a-f]{64}) (.*)", line)
            if found and found[2] == path:
                return f"ostree/repo/objects/{found[1][:2]}/{found[1][2:]}.file"
        raise GuestError(f"no such file in the OS tree: {path}")


@dataclass(frozen=True)
class Image:
    """A sealed raw disk. Boot it through an overlay only, and change it in a copy only (mutate())."""

    disk: Path
    fs: str
    kernel: Path
    deployment: Deployment


def deployment(suite: str) -> Deployment:
    """Commit the OS tree and deploy it with composefs, without fs-verity."""
    tree, builder = os_tree(suite), base_tree(BUILDER)

    def build(path: Path) -> None:
        with scratch() as work:
            must_run("deploy.sh", builder, tree, path, work)

    key = digest_of(tree.parent.name, builder.parent.name, SCRIPTS / "deploy.sh", SCRIPTS / "lib.sh")
    home = cached(f"deployment-{suite}", key, f"deployment of {suite}", build)
    path, karg = ((home / name).read_text().strip() for name in ("deployment", "karg"))
    return Deployment(suite, home, home / "image.cfs", path, karg)


def image(suite: str, fs: str = "ext4", *, files: Mapping[str, bytes] | Signer | None = None, commands: str = "") -> Image:
    """Make a sealed disk with the deployment, see image_of()."""
    return image_of(deployment(suite), fs, files=files, commands=commands)


def image_of(
    deployed: Deployment,
    fs: str = "ext4",
    *,
    files: Mapping[str, bytes] | Signer | None = None,
    commands: str = "",
    sealed: bool = True,
) -> Image:
    """Make a sealed disk with a deployment; `files` (or a Signer) are put beside the image. btrfs need not be `sealed`.

    `commands` run as `sh -ex` in the deployment directory in a guest (ostree, fsverity, chattr, cp, dd). A guest seals a disk
    with btrfs, too, by `ostree admin post-copy`. One with ext4 is sealed on this machine, in a tenth of the time.
    """
    suite, builder = deployed.suite, base_tree(BUILDER)
    guest = sealed and (bool(commands) or fs != "ext4")
    beside = files(deployed.cfs) if callable(files) else files or {}

    def build(path: Path) -> None:
        disk = path / "disk.raw"
        with scratch() as work:
            (work / "files").mkdir()
            for name, content in beside.items():
                (work / "files" / name).write_bytes(content)
            must_run("disk.sh", builder, deployed.home, deployed.path, work / "files", fs, disk, work)
        if guest:
            _seal(disk, fs, deployed, commands)

    flat = [part for name, content in sorted(beside.items()) for part in (name, content)]
    scripts = [SCRIPTS / name for name in ("disk.sh", "lib.sh", "seal.py", "initrd/seal")]
    sealer = seal_initrd().path.parent.name if guest else ""
    key = digest_of(str(sealed), deployed.home.name, deployed.path, sealer, fs, commands, *scripts, *flat)
    home = cached(f"disk-{suite}-{fs}", key, f"{'sealed ' if sealed else ''}{fs} disk of {suite}", build)
    return Image(home / "disk.raw", fs, kernel(suite), deployed)


def _seal(disk: Path, fs: str, deployed: Deployment, commands: str) -> None:
    """Run the sealing guest."""
    files = {
        "seal": ((SCRIPTS / "initrd/seal").read_bytes(), 0o755),
        "usr/lib/bootseal-test/guest-exit": (guest_exit(), 0o755),
        "usr/lib/bootseal-test/seal-commands": (commands.encode(), 0o644),
    }
    with run_dir() as work:
        machine = qemu.Machine(
            kernel=kernel(BUILDER),
            initrd=with_files(seal_initrd().path, files, work / "initrd"),
            append=f"console=ttyS0 panic=-1 rdinit=/seal seal_fs={fs} seal_deployment={deployed.path}",
            disks=(qemu.Disk(disk, "raw", "root"),),
        )
        result = qemu.run(machine, work)
    if result.status != qemu.PASSED:
        how = f"sealing the disk ended with {result.ended} {result.status} after {result.seconds:.0f} s"
        raise GuestError(f"{result.console[-4000:]}\n{how}")


def debugfs(disk: Path, commands: str, *, write: bool = False) -> str:
    """Run debugfs commands on an ext4 disk and return what it prints; every complaint is an error."""
    options = ["-w"] if write else []
    command = ["debugfs", *options, "-f", "/dev/stdin", str(disk)]
    result = subprocess.run(command, check=False, input=commands, capture_output=True, text=True)
    complaints = [line for line in result.stderr.splitlines() if not re.match(r"debugfs \d", line)]
    if result.returncode or complaints:
        raise GuestError(f"debugfs: {' '.join(complaints)}")
    return result.stdout


def copy_disk(disk: Path, to: Path) -> Path:
    """Make a sparse copy."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(disk), str(to)], check=True)
    return to


def mutate(disk: Path, commands: str, to: Path) -> Path:
    """Copy an ext4 disk to `to` and change it by `debugfs -w` commands."""
    copy_disk(disk, to)
    debugfs(to, commands, write=True)
    return to


def replace_files(disk: Path, files: Mapping[str, bytes | None], to: Path) -> Path:
    """Copy an ext4 disk to `to` and write files, or remove them where None; paths as on the disk."""
    with scratch() as work:
        commands = ""
        for number, (path, content) in enumerate(files.items()):
            if _exists(disk, path):
                commands += f"rm /{path}\n"
            if content is not None:
                (work / str(number)).write_bytes(content)
                commands += f"write {work / str(number)} /{path}\n"
        return mutate(disk, commands, to)


def _exists(disk: Path, path: str) -> bool:
    command = ["debugfs", "-R", f"stat /{path}", str(disk)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    return "File not found" not in result.stderr


def flip_byte(disk: Path, path: str, offset: int) -> None:
    """Flip all bits of one byte of a file on a (copied) raw ext4 disk, unseen by the filesystem."""
    block = int(debugfs(disk, f"bmap /{path} {offset // BLOCK}\n").split()[-1])
    if not block:
        raise GuestError(f"{path} has no block at {offset}")
    with disk.open("r+b") as file:
        file.seek(block * BLOCK + offset % BLOCK)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))
