# SPDX-License-Identifier: LGPL-2.1-or-later
"""The deployments of a physical root, as ostree and the boot loader know them.

ostree writes boot loader entries of the Boot Loader Specification. A staged deployment has none yet: ostree describes it in
/run by a GVariant of type a{sv}, and finalizes it at shutdown.
"""

import os
import re
import struct
from contextlib import suppress
from typing import NamedTuple

from .. import paths, verdicts
from ..errors import LEADS_NOWHERE, Refusal, reason
from ..formats import gvariant
from ..linux import files
from ..stages import cmdline, deployment, ostreebooted
from ..values import Deployment, Request
from . import inside
from .initrd import reader
from .inside import File
from .output import DATA, IO_ERROR, USAGE, Failure, os_failure, warning

STAGED = "/run/ostree/staged-deployment"
_BOOTED_KEY = b"backing-root-device-inode\0"
# Each may be a partition of its own.
_UKI_PLACES = ("boot", "boot/efi", "efi")
_UKI_DIRECTORY = "EFI/Linux"
_ENTRIES = "loader/entries"
_NO_DEPLOYMENT = verdicts.NO_DEPLOYMENT.exit_status


class Deployed(NamedTuple):
    """A deployment, and its boot entry, if any.

    `options` is the entry's kernel command line (None: without an entry), `initrds` its initrds.
    `state`: staged (finalized at shutdown), pending (boots next, and is not running), booted, or empty.
    """

    path: str
    state: str
    options: str | None
    initrds: tuple[File, ...]

    @property
    def name(self) -> str:
        """Return STATEROOT/CHECKSUM.SERIAL with a checksum that is long enough for people."""
        stateroot, checksum, serial = self.parts
        return f"{stateroot}/{checksum[:12]}.{serial}"

    @property
    def parts(self) -> tuple[str, str, int]:
        """Return (stateroot, checksum, serial)."""
        return deployment.parts(self.path, self.path)


def default_sysroot() -> str:
    """Return where the physical root of the running system is."""
    return "/sysroot" if os.path.isdir("/sysroot/ostree") else "/"


def list_all(sysroot: str) -> list[Deployed]:
    """List all in boot order: the next boot takes the first. Raises Failure.

    Those without boot entry come last.
    """
    on_disk = _list_on_disk(sysroot)
    running = _read_booted_inode()
    listed: dict[str, Deployed] = {}
    waiting = find_staged() if is_running_sysroot(sysroot) else None
    entries = [waiting] if waiting else []
    entries += _list_entries(sysroot)
    for entry in entries + [Deployed(path, "", None, ()) for path in on_disk]:
        listed.setdefault(entry.path, _add_state(entry, sysroot, running, first=not listed))
    return list(listed.values())


def choose(sysroot: str, name: str | None) -> Deployed:
    """Return the deployment of this name, or the one that the next boot takes. Raises Failure.

    A name is CHECKSUM[.SERIAL] or its beginning, pending, or booted.
    """
    everything = require_any(list_all(sysroot), sysroot)
    if name is None:
        return _choose_next(everything)
    states = {"pending": ("pending", "staged"), "booted": ("booted",)}.get(name)
    matches = [one for one in everything if (one.state in states if states else _is_named(one, name))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise Failure(USAGE, f"Failed to choose a deployment: {len(matches)} match {name}", _list_names(everything))
    raise Failure(_NO_DEPLOYMENT, f"Failed to find the deployment {name}", _list_names(everything))


def require_any(everything: list[Deployed], sysroot: str) -> list[Deployed]:
    """Return the deployments. Raises Failure without any."""
    if not everything:
        raise Failure(_NO_DEPLOYMENT, f"Failed to find a deployment below {sysroot}", "run 'ostree admin deploy' first")
    return everything


def _choose_next(everything: list[Deployed]) -> Deployed:
    """Return the one that the next boot takes, or the only one. Raises Failure."""
    if everything[0].options is None and len(everything) > 1:
        raise Failure(_NO_DEPLOYMENT, "Failed to choose a deployment: no boot entry names one", _list_names(everything))
    return everything[0]


def _list_names(everything: list[Deployed]) -> str:
    return f"choose one of {', '.join(one.name for one in everything)}"


def open_as_boot(deployed: Deployed, sysroot: str) -> Deployment:
    """Open the deployment as the boot will. Raises Refusal, as the boot does."""
    if deployed.state == "staged":
        return _open_staged(deployed, sysroot)
    return deployment.locate(parse_request(deployed), sysroot)


def parse_request(deployed: Deployed) -> Request:
    """Parse its command line; without a boot entry, ask for the deployment itself. Raises Refusal."""
    if deployed.options is None:
        return Request("/" + deployed.path, "", debug=False)
    return cmdline.parse(deployed.options)


def find_initrds(deployed: Deployed, sysroot: str) -> tuple[File, ...]:
    """Return the boot entry's initrds, or the one beside the deployment's kernel. Raises Failure."""
    if deployed.initrds:
        return deployed.initrds
    with suppress(OSError), inside.opened(sysroot, deployed.path) as tree:
        for kernel in inside.list_names(tree, "usr/lib/modules"):
            modules = f"usr/lib/modules/{kernel}"
            for name in inside.list_names(tree, modules):
                if name in ("initramfs.img", "initrd", "initrd.img") or name.endswith(".efi"):
                    return (File(sysroot, deployed.path, f"{modules}/{name}"),)
    return ()


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
            names = inside.list_names(top, directory)
            there = tuple(paths.work_prefix(name) for name in names)
            mine = (name for name in names if paths.is_work(name) and not name.startswith(there))
            orphans += [os.path.join(paths.DEPLOYMENTS, directory, name) for name in mine]
    return orphans


def stamp(sysroot: str) -> tuple[tuple[int, int], ...]:
    """Return what changes whenever ostree deploys or stages something."""
    stamps = []
    for path in (os.path.join(sysroot, paths.DEPLOYMENTS), STAGED):
        try:
            status = os.stat(path)
            stamps.append((status.st_ino, status.st_mtime_ns))
        except OSError:
            stamps.append((0, 0))
    return tuple(stamps)


def find_staged() -> Deployed | None:
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
    name, stateroot = (gvariant.string(target[key][1]) for key in ("name", "osname"))
    path = paths.deployment_of(stateroot, name)
    deployment.parts(path, STAGED)
    arguments = gvariant.strings(values["kargs"][1]) if "kargs" in values else []
    # ostree replaces ostree= when it finalizes the deployment.
    kept = [argument for argument in arguments if not argument.startswith("ostree=")]
    return Deployed(path, "staged", " ".join([*kept, f"ostree=/{path}"]), ())


def _is_named(deployed: Deployed, name: str) -> bool:
    stateroot, checksum, serial = deployed.parts
    return len(name) >= 4 and f"{checksum}.{serial}".startswith(name.removeprefix(stateroot + "/"))


def _add_state(entry: Deployed, sysroot: str, running: tuple[int, int] | None, *, first: bool) -> Deployed:
    if entry.state:
        return entry
    try:
        with inside.opened(sysroot, entry.path) as fd:
            status = os.fstat(fd)
    except OSError:
        return entry
    if running == (status.st_dev, status.st_ino):
        return entry._replace(state="booted")
    return entry._replace(state="pending" if first and entry.options is not None else "")


def is_running_sysroot(sysroot: str) -> bool:
    """Tell whether this is the physical root of the running system."""
    try:
        return os.path.samefile(sysroot, default_sysroot()) and os.path.exists(ostreebooted.PATH)
    except OSError:
        return False


def _read_booted_inode() -> tuple[int, int] | None:
    """Read device and inode of the booted deployment's directory from /run/ostree-booted."""
    try:
        data = files.read_start(ostreebooted.PATH, 1 << 16)
    except (OSError, files.NotRegular):
        return None
    start = data.find(_BOOTED_KEY)
    start += len(_BOOTED_KEY)
    start += -start % 8
    if start < 32 or len(data) < start + 16:
        return None
    device, inode = struct.unpack_from("=QQ", data, start)
    return device, inode


def _list_entries(sysroot: str) -> list[Deployed]:
    """List the deployments with a boot loader entry or in a UKI, in boot order."""
    root, place = _find_boot(sysroot)
    entries: list[dict[str, list[str]]] = []
    with inside.tolerated(f"{root}/{place}"), inside.opened(root, place) as boot:
        entries += [_parse_entry(boot, f"{_ENTRIES}/{name}") for name in inside.list_names(boot, _ENTRIES, ".conf")]
    entries.sort(key=_entry_number, reverse=True)
    listed: list[Deployed] = []
    for entry in entries:
        options = " ".join(entry.get("options", ()))
        names = [name for line in entry.get("initrd", ()) for name in _split_words(line)]
        # An entry's paths start at the filesystem of /boot, with or without /boot in them.
        below_boot = [name.lstrip("/").removeprefix("boot/") for name in names]
        listed += _follow(sysroot, options, tuple(File(root, place, name) for name in below_boot))
    for place in _UKI_PLACES:
        listed += _list_ukis(sysroot, place)
    return listed


def _list_ukis(sysroot: str, place: str) -> list[Deployed]:
    """List the deployments of the unified kernel images on a partition. Raises Failure."""
    names: list[str] = []
    with inside.tolerated(f"{sysroot}/{place}"), inside.opened(sysroot, place) as partition:
        names += reversed(inside.list_names(partition, _UKI_DIRECTORY, ".efi"))
    try:
        lines = reader.command_lines([File(sysroot, place, f"{_UKI_DIRECTORY}/{name}") for name in names])
    except (OSError, reader.Damaged) as error:
        if isinstance(error, OSError):
            inside.check_disk(error, f"{sysroot}/{place}")
        hint = "remove the images that no deployment needs"
        what = f"Failed to read the unified kernel images in {sysroot}/{place}/{_UKI_DIRECTORY}: {error}"
        raise Failure(IO_ERROR if isinstance(error, OSError) else DATA, what, hint) from error
    return [deployed for file, options in lines.items() for deployed in _follow(sysroot, options, (file,))]


def _follow(sysroot: str, options: str, initrds: tuple[File, ...]) -> list[Deployed]:
    """Return the deployment that a command line leads to, or nothing. Raises Failure."""
    target = next((word.removeprefix("ostree=") for word in _split_words(options) if word.startswith("ostree=")), "")
    if not target:
        return []
    try:
        root = os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = deployment.resolve(root, target, target)
        finally:
            os.close(root)
        deployment.parts(path, target)
    except (OSError, Refusal) as error:
        cause = error.__cause__ if isinstance(error, Refusal) else error
        if isinstance(cause, OSError):
            inside.check_disk(cause, sysroot + target)
        why = error.what if isinstance(error, Refusal) else reason(error)
        warning(f"a boot entry leads to no deployment: ostree={target}: {why}")
        return []
    return [Deployed(path, "", options, initrds)]


def _list_on_disk(sysroot: str) -> list[str]:
    """List the deployments' directories. Raises Failure without ostree."""
    listed: list[str] = []
    try:
        with inside.opened(sysroot, paths.DEPLOYMENTS) as top:
            for stateroot in inside.list_names(top, "."):
                names = inside.list_names(top, f"{stateroot}/deploy")
                listed += [paths.deployment_of(stateroot, name) for name in names]
    except OSError as error:
        if error.errno in LEADS_NOWHERE:
            hint = "give the physical root with --sysroot="
            raise Failure(_NO_DEPLOYMENT, f"Failed to find deployments: no ostree/deploy below {sysroot}", hint) from error
        hint = "run as root" if isinstance(error, PermissionError) else ""
        raise os_failure(IO_ERROR, f"Failed to find deployments below {sysroot}", error, hint) from error
    return [path for path in listed if paths.parts_of(path)]


def _find_boot(sysroot: str) -> tuple[str, str]:
    """Return where the physical root's /boot is.

    On the running system its partition may be mounted only at /boot.
    """
    with suppress(OSError), inside.opened(sysroot, "boot") as own:
        os.stat("loader", dir_fd=own, follow_symlinks=False)
        return sysroot, "boot"
    return ("/" if is_running_sysroot(sysroot) else sysroot), "boot"


def _parse_entry(boot: int, path: str) -> dict[str, list[str]]:
    """Read the values of an entry by key. Raises Failure on a failed disk."""
    values: dict[str, list[str]] = {}
    content = b""
    with suppress(files.NotRegular), inside.tolerated(path):
        content = inside.read(boot, path, 1 << 16)
    for line in files.lines(content):
        key, *rest = re.split("[ \t]+", line.strip(" \t\r"), maxsplit=1)
        values.setdefault(key, []).extend(rest)
    return values


def _split_words(text: str) -> list[str]:
    """Split where the kernel splits its command line. str.split() would also split at a no-break space."""
    return [word for word in re.split(f"[{cmdline.SPACE}]+", text) if word]


def _entry_number(entry: dict[str, list[str]]) -> int:
    """Return the number that ostree gave an entry. The highest boots first; invalid numbers are 0."""
    text = (entry.get("version") or [""])[0]
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _open_staged(deployed: Deployed, sysroot: str) -> Deployment:
    """Open a deployment that has no /etc before it is finalized: usr/etc stands in for it. Raises Refusal."""
    stateroot, checksum, serial = deployed.parts
    root = deployment.physical_root(sysroot)
    places = (deployed.path, f"{deployed.path}/usr/etc", paths.var_of(stateroot), paths.OBJECTS)
    fds = [deployment.directory(root, place, sysroot) for place in places]
    return Deployment("ostree", stateroot, checksum, serial, deployed.path, root, *fds)
