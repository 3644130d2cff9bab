# SPDX-License-Identifier: LGPL-2.1-or-later
"""Deployments of ostree.

A staged one has no boot entry yet: ostree describes it in /run by a GVariant of type a{sv}, and finalizes it at shutdown.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress

from ... import paths
from ...errors import Refusal
from ...formats import gvariant
from ...layouts import confined, ostree, ostreebooted
from ...linux import files
from ...values import Deployment, Request, Wish
from .. import carriers, inside
from ..carriers import Found, Unusable
from ..deployed import Boots, Deployed, Where, orphans_among
from ..inside import File
from ..output import DATA, IO_ERROR, Failure, os_failure

STAGED = "/run/ostree/staged-deployment"
_BOOTED_KEY = b"backing-root-device-inode\0"


def long_name(path: str) -> str:
    """Return STATEROOT/CHECKSUM.SERIAL."""
    stateroot, checksum, serial = ostree.parts(path, path)
    return f"{stateroot}/{checksum}.{serial}"


def list_on_disk(sysroot: str) -> list[str]:
    """List the deployments' directories. Raises OSError without ostree."""
    listed: list[str] = []
    with inside.opened(sysroot, paths.DEPLOYMENTS) as top:
        for stateroot in inside.list_names(top, "."):
            names = inside.list_names(top, f"{stateroot}/deploy")
            listed += [paths.deployment_of(stateroot, name) for name in names]
    return [path for path in listed if paths.parts_of(path)]


def stamp(sysroot: str) -> tuple[int, int]:
    """Return the time that ostree changes with each deployment."""
    return inside.stamp(os.path.join(sysroot, paths.DEPLOYMENTS))


def find_staged(_sysroot: str) -> Deployed | None:
    """Return the staged deployment with its future command line. Raises Failure if it is unreadable."""
    try:
        return _parse_staged(files.read_start(STAGED, 1 << 20))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read {STAGED}", error) from error
    except (gvariant.Malformed, KeyError, files.NotRegular) as error:
        raise Failure(DATA, f"Failed to read {STAGED}: unknown format", "see 'ostree admin status'") from error
    except Refusal as refusal:
        raise Failure(DATA, f"Failed to read {STAGED}: {refusal.what}", refusal.hint) from refusal


def _parse_staged(data: bytes) -> Deployed:
    """Read what ostree_sysroot_stage_tree_with_options() wrote.

    Raises Refusal for a path that the boot refuses.
    """
    values = gvariant.vardict(data)
    target = gvariant.vardict(values["target"][1])
    name_, stateroot = (gvariant.string(target[key][1]) for key in ("name", "osname"))
    path = paths.deployment_of(stateroot, name_)
    ostree.parts(path, STAGED)
    arguments = gvariant.strings(values["kargs"][1]) if "kargs" in values else []
    # ostree replaces ostree= when it finalizes the deployment.
    kept = [argument for argument in arguments if not argument.startswith("ostree=")]
    return Deployed(path, "staged", " ".join([*kept, f"ostree=/{path}"]), ())


def is_running() -> bool:
    """Tell whether ostree was booted."""
    return os.path.exists(ostreebooted.PATH)


def is_booted(path: str, sysroot: str) -> bool:
    """Compare the deployment's directory with device and inode in /run/ostree-booted."""
    try:
        running = _parse_booted(files.read_start(ostreebooted.PATH, 1 << 16))
        with inside.opened(sysroot, path) as fd:
            status = os.fstat(fd)
    except (OSError, files.NotRegular):
        return False
    return running == (status.st_dev, status.st_ino)


def _parse_booted(data: bytes) -> tuple[int, int] | None:
    start = data.find(_BOOTED_KEY)
    start += len(_BOOTED_KEY)
    start += -start % 8
    if start < 32 or len(data) < start + 16:
        return None
    device, inode = struct.unpack_from("=QQ", data, start)
    return device, inode


def follow(wish: Wish, sysroot: str) -> str:
    """Resolve the links that ostree= is. Raises OSError, Refusal."""
    root = os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = confined.resolve(root, wish.what, wish.what)
    finally:
        os.close(root)
    ostree.parts(path, wish.what)
    return path


def wish(path: str) -> Wish:
    """Return what asks for a deployment without its links."""
    return Wish("ostree", f"/{path}")


def where(path: str, sysroot: str) -> Where:
    """Return where its files are."""
    beside = f"{sysroot}/{path}/{paths.IMAGE}"
    return Where(path, paths.IMAGE, beside, paths.IMAGE, beside, paths.OBJECTS)


def locate_staged(path: str, _request: Request, sysroot: str) -> Deployment:
    """Open a deployment that has no /etc before it is finalized: usr/etc stands in for it. Raises Refusal."""
    root = confined.physical_root(sysroot)
    return ostree.at(path, f"{path}/usr/etc", root, sysroot, f"{sysroot}/{path}")


def find_initrds(path: str, sysroot: str) -> tuple[File, ...]:
    """Return the one beside the deployment's kernel."""
    with suppress(OSError), inside.opened(sysroot, path) as tree:
        for kernel in inside.list_names(tree, "usr/lib/modules"):
            modules = f"usr/lib/modules/{kernel}"
            for file in inside.list_names(tree, modules):
                if file in ("initramfs.img", "initrd", "initrd.img") or file.endswith(".efi"):
                    return (File(sysroot, path, f"{modules}/{file}"),)
    return ()


def read_kernel_config(path: str, sysroot: str, size: int) -> tuple[str, bytes]:
    """Return path and start of the kernel's configuration; both empty if it is missing."""
    with suppress(OSError, Failure), inside.opened(sysroot, path) as tree:
        releases = inside.list_names(tree, "usr/lib/modules")
        for place in ("usr/lib/modules/{}/config", "usr/lib/ostree-boot/config-{}", "boot/config-{}"):
            for config in map(place.format, releases):
                with suppress(OSError, files.NotRegular):
                    return os.path.join(sysroot, path, config), inside.read(tree, config, size)
    return "", b""


def unsigned(path: str) -> tuple[str, str]:
    """Say that nothing carries a signature, and what to do."""
    _, checksum, _ = ostree.parts(path, path)
    hint = "sign the commit: 'bootseal sign --repo=', or give a signature with --signature="
    return f"the commit {checksum[:12]} carries no signature", hint


def signatures(path: str, image_digest: bytes, sysroot: str, _boots: Boots) -> Iterator[Found | Unusable]:
    """Yield those of the commit, and one in its tree. Raises OSError."""
    _, checksum, _ = ostree.parts(path, path)
    yield from carriers.Commit(sysroot, paths.REPOSITORY, checksum).signatures()
    with inside.opened(sysroot, path) as directory:
        yield from carriers.in_tree(directory, image_digest)


def find_marked(sysroot: str) -> list[str]:
    """List the deployments that a killed process may have left mutable, by path below the physical root."""
    marked: list[str] = []
    with suppress(OSError), inside.opened(sysroot, paths.DEPLOYMENTS) as top:
        for stateroot in inside.list_names(top, "."):
            marks = (paths.deployment_of_mark(stateroot, name) for name in inside.list_names(top, f"{stateroot}/deploy"))
            marked += [path for path in marks if path]
    return marked


def find_orphans(sysroot: str) -> list[str]:
    """List files of a killed process whose deployment is gone, by path below the physical root."""
    orphans: list[str] = []
    with suppress(OSError), inside.opened(sysroot, paths.DEPLOYMENTS) as top:
        for stateroot in inside.list_names(top, "."):
            directory = f"{stateroot}/deploy"
            mine = orphans_among(inside.list_names(top, directory))
            orphans += [os.path.join(paths.DEPLOYMENTS, directory, name) for name in mine]
    return orphans
