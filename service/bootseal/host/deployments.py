# SPDX-License-Identifier: LGPL-2.1-or-later
"""The deployments of a physical root, as ostree and the boot loader know them. Finds; judges nothing.

Boot loader entries are those of the Boot Loader Specification that ostree writes. A staged deployment has none yet: ostree
keeps it in /run, a GVariant of type a{sv}, and finalizes it at shutdown.
"""

import os
import re
import struct
from contextlib import suppress
from typing import NamedTuple

from ..errors import LEADS_NOWHERE, Refusal, reason
from ..formats import gvariant
from ..linux import files
from ..stages import cmdline, deployment, ostreebooted
from ..values import Deployment, Request
from . import inside
from .initrd import reader
from .inside import File
from .output import IO_ERROR, NO_INPUT, USAGE, Failure, os_failure, warning

STAGED = "/run/ostree/staged-deployment"
_BOOTED_KEY = b"backing-root-device-inode\0"
# Each may be a partition of its own.
_UKI_PLACES = ("boot", "boot/efi", "efi")
_UKI_DIRECTORY = "EFI/Linux"
_ENTRIES = "loader/entries"


class Found(NamedTuple):
    """A deployment: `options` is the kernel command line of its boot entry (None: it has none), `initrds` its files.

    `state`: staged (finalized at shutdown), pending (boots next, and is not running), booted, or empty.
    """

    path: str
    state: str
    options: str | None
    initrds: tuple[File, ...]

    @property
    def name(self) -> str:
        """STATEROOT/CHECKSUM.SERIAL with a checksum that is long enough for people."""
        stateroot, checksum, serial = self.parts
        return f"{stateroot}/{checksum[:12]}.{serial}"

    @property
    def parts(self) -> tuple[str, str, int]:
        return deployment.parts(self.path, self.path)


def default_sysroot() -> str:
    """Where the physical root of the running system is."""
    return "/sysroot" if os.path.isdir("/sysroot/ostree") else "/"


def deployments(sysroot: str) -> list[Found]:
    """In boot order: the first is what the next boot takes. Those without boot entry come last. Raises Failure."""
    on_disk = _on_disk(sysroot)
    running = _booted_inode()
    found: dict[str, Found] = {}
    waiting = staged() if _is_running_sysroot(sysroot) else None
    entries = [waiting] if waiting else []
    entries += _boot_entries(sysroot)
    for entry in entries + [Found(path, "", None, ()) for path in on_disk]:
        found.setdefault(entry.path, _with_state(entry, sysroot, running, first=not found))
    return list(found.values())


def choose(sysroot: str, name: str | None) -> Found:
    """The deployment of this name (CHECKSUM[.SERIAL], the beginning is enough; pending; booted). Raises Failure.

    Without a name it is what the next boot takes.
    """
    everything = deployments(sysroot)
    if not everything:
        raise Failure(NO_INPUT, f"Failed to find a deployment: there is none below {sysroot}")
    if name is None:
        return everything[0]
    states = {"pending": ("pending", "staged"), "booted": ("booted",)}.get(name)
    matching = [f for f in everything if (f.state in states if states else _is_named(f, name))]
    if len(matching) == 1:
        return matching[0]
    what = "none is" if not matching else f"{len(matching)} are"
    hint = f"there are: {', '.join(f.name for f in everything)}"
    raise Failure(USAGE if matching else NO_INPUT, f"Failed to choose a deployment: {what} called {name}", hint)


def opened(found: Found, sysroot: str) -> Deployment:
    """The deployment as the boot will open it. Raises Refusal, as the boot does."""
    if found.state == "staged":
        return _opened_staged(found, sysroot)
    return deployment.locate(request(found), sysroot)


def request(found: Found) -> Request:
    """What its command line asks for; without a boot entry, the deployment itself. Raises Refusal."""
    if found.options is None:
        return Request("/" + found.path, "", debug=False)
    return cmdline.parse(found.options)


def initrd_files(found: Found, sysroot: str) -> tuple[File, ...]:
    """The initrd of the boot entry; else what will become it, beside the kernel in the deployment. Empty: none there."""
    if found.initrds:
        return found.initrds
    with suppress(OSError), inside.opened(sysroot, found.path) as tree:
        for kernel in inside.listed(tree, "usr/lib/modules"):
            modules = f"usr/lib/modules/{kernel}"
            for name in inside.listed(tree, modules):
                if name in ("initramfs.img", "initrd", "initrd.img") or name.endswith(".efi"):
                    return (File(sysroot, found.path, f"{modules}/{name}"),)
    return ()


def staged() -> Found | None:
    """The staged deployment, with the command line that it will have. Raises Failure if there is one that cannot be read."""
    try:
        return _parse_staged(files.read_start(STAGED, 1 << 20))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_failure(NO_INPUT, f"Failed to read {STAGED}", error) from error
    except (gvariant.Malformed, KeyError, files.NotRegular) as error:
        raise Failure(
            NO_INPUT, f"Failed to read {STAGED}: not in the form that is known", "see 'ostree admin status'"
        ) from error
    except Refusal as refusal:
        raise Failure(NO_INPUT, f"Failed to read {STAGED}: {refusal.what}", refusal.hint) from refusal


def _parse_staged(data: bytes) -> Found:
    """Keys as in ostree's ostree_sysroot_stage_tree_with_options(). Raises Refusal for a path that the boot refuses."""
    values = gvariant.vardict(data)
    target = gvariant.vardict(values["target"][1])
    name, stateroot = (gvariant.string(target[key][1]) for key in ("name", "osname"))
    path = f"ostree/deploy/{stateroot}/deploy/{name}"
    deployment.parts(path, STAGED)
    arguments = gvariant.strings(values["kargs"][1]) if "kargs" in values else []
    # ostree= is made anew when it is finalized.
    kept = [argument for argument in arguments if not argument.startswith("ostree=")]
    return Found(path, "staged", " ".join([*kept, f"ostree=/{path}"]), ())


def _is_named(found: Found, name: str) -> bool:
    stateroot, checksum, serial = found.parts
    return len(name) >= 4 and f"{checksum}.{serial}".startswith(name.removeprefix(stateroot + "/"))


def _with_state(entry: Found, sysroot: str, running: tuple[int, int] | None, *, first: bool) -> Found:
    if entry.state:
        return entry
    try:
        with inside.opened(sysroot, entry.path) as fd:
            status = os.fstat(fd)
    except OSError:
        return entry
    if running == (status.st_dev, status.st_ino):
        return entry._replace(state="booted")
    return entry._replace(state="pending" if first else "")


def _is_running_sysroot(sysroot: str) -> bool:
    try:
        return os.path.samefile(sysroot, default_sysroot()) and os.path.exists(ostreebooted.PATH)
    except OSError:
        return False


def _booted_inode() -> tuple[int, int] | None:
    """Device and inode of the booted deployment's directory, from /run/ostree-booted (booted.py writes it)."""
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


def _boot_entries(sysroot: str) -> list[Found]:
    """Deployments with a boot loader entry or in a UKI, in boot order."""
    root, place = _boot_place(sysroot)
    entries: list[dict[str, list[str]]] = []
    with inside.tolerated(f"{root}/{place}"), inside.opened(root, place) as boot:
        entries += [_parse_entry(boot, f"{_ENTRIES}/{name}") for name in inside.listed(boot, _ENTRIES, ".conf")]
    entries.sort(key=_version, reverse=True)
    found = []
    for entry in entries:
        options = " ".join(entry.get("options", ()))
        names = [name for line in entry.get("initrd", ()) for name in _words(line)]
        found += _found(sysroot, options, tuple(File(root, place, _below_boot(name)) for name in names))
    for place in _UKI_PLACES:
        found += _found_ukis(sysroot, place)
    return found


def _found_ukis(sysroot: str, place: str) -> list[Found]:
    names: list[str] = []
    with inside.tolerated(f"{sysroot}/{place}"), inside.opened(sysroot, place) as partition:
        names += reversed(inside.listed(partition, _UKI_DIRECTORY, ".efi"))
    try:
        lines = reader.command_lines([File(sysroot, place, f"{_UKI_DIRECTORY}/{name}") for name in names])
    except (OSError, reader.Damaged) as error:
        if isinstance(error, OSError):
            inside.check_disk(error, f"{sysroot}/{place}")
        hint = "remove those that no deployment needs"
        what = f"Failed to read the unified kernel images in {sysroot}/{place}/{_UKI_DIRECTORY}: {error}"
        raise Failure(NO_INPUT, what, hint) from error
    return [found for file, options in lines.items() for found in _found(sysroot, options, (file,))]


def _found(sysroot: str, options: str, initrds: tuple[File, ...]) -> list[Found]:
    """The deployment that a command line leads to, if it does; finding that out is the boot's matter, listing it is ours."""
    target = next((word.removeprefix("ostree=") for word in _words(options) if word.startswith("ostree=")), "")
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
    return [Found(path, "", options, initrds)]


def _on_disk(sysroot: str) -> list[str]:
    """Raises Failure if there is no ostree at all."""
    paths: list[str] = []
    try:
        with inside.opened(sysroot, "ostree/deploy") as top:
            for stateroot in inside.listed(top, "."):
                paths += [f"ostree/deploy/{stateroot}/deploy/{name}" for name in inside.listed(top, f"{stateroot}/deploy")]
    except OSError as error:
        if error.errno in LEADS_NOWHERE:
            hint = "give the physical root with --sysroot="
            raise Failure(NO_INPUT, f"Failed to find deployments: no ostree/deploy below {sysroot}", hint) from error
        hint = "run as root" if isinstance(error, PermissionError) else ""
        raise os_failure(IO_ERROR, f"Failed to find deployments below {sysroot}", error, hint) from error
    return [path for path in paths if _is_deployment(path)]


def _is_deployment(path: str) -> bool:
    try:
        deployment.parts(path, path)
    except Refusal:
        return False
    return True


def _boot_place(sysroot: str) -> tuple[str, str]:
    """Where /boot of the physical root is; on the running system it may be a partition that is mounted at /boot only."""
    with suppress(OSError), inside.opened(sysroot, "boot") as own:
        os.stat("loader", dir_fd=own, follow_symlinks=False)
        return sysroot, "boot"
    return ("/" if _is_running_sysroot(sysroot) else sysroot), "boot"


def _parse_entry(boot: int, path: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    content = b""
    with suppress(files.NotRegular), inside.tolerated(path):
        content = inside.read(boot, path, 1 << 16)
    for line in files.lines(content):
        key, *rest = re.split("[ \t]+", line.strip(" \t\r"), maxsplit=1)
        values.setdefault(key, []).extend(rest)
    return values


def _words(text: str) -> list[str]:
    """Split where the kernel splits its command line; str.split() does so also where a name has a no-break space."""
    return [word for word in re.split(f"[{cmdline.SPACE}]+", text) if word]


def _version(entry: dict[str, list[str]]) -> int:
    """ostree numbers its entries; the highest boots first."""
    text = (entry.get("version") or [""])[0]
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _below_boot(path: str) -> str:
    """A path of an entry is below the file system that /boot is on, with or without /boot in it."""
    return path.lstrip("/").removeprefix("boot/")


def _opened_staged(found: Found, sysroot: str) -> Deployment:
    """A staged deployment has no /etc before it is finalized: its usr/etc stands in for it."""
    stateroot, checksum, serial = found.parts
    root = deployment.physical_root(sysroot)
    places = (found.path, f"{found.path}/usr/etc", f"ostree/deploy/{stateroot}/var", "ostree/repo/objects")
    fds = [deployment.directory(root, place, sysroot) for place in places]
    return Deployment("ostree", stateroot, checksum, serial, found.path, root, *fds)
