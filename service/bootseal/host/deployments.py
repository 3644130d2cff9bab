# SPDX-License-Identifier: LGPL-2.1-or-later
"""The deployments of a physical root, in the order in which they boot.

Entries of the Boot Loader Specification and unified kernel images name them, whatever their layout is.
"""

import os
import re
from contextlib import suppress

from .. import layouts as boot_layouts
from .. import paths, verdicts
from ..errors import LEADS_NOWHERE, Refusal, reason
from ..linux import files
from ..stages import cmdline, deployment
from ..values import Deployment, Policy, Request, Wish
from . import inside, layouts
from .deployed import Boots, Deployed
from .initrd import reader
from .inside import File
from .output import DATA, IO_ERROR, USAGE, Failure, os_failure, warning

# Each may be a partition of its own.
_BOOT_PLACES = ("boot", "boot/efi", "efi")
_UKI_DIRECTORIES = ("EFI/Linux/bootc", "EFI/Linux")
_ENTRIES, _STAGED_ENTRIES = "loader/entries", "loader/entries.staged"
_NO_DEPLOYMENT = verdicts.NO_DEPLOYMENT.exit_status

Entry = dict[str, list[str]]


def default_sysroot() -> str:
    """Return where the physical root of the running system is."""
    return "/sysroot" if any(os.path.isdir(f"/sysroot/{top}") for top in ("ostree", paths.COMPOSEFS)) else "/"


def list_all(sysroot: str) -> list[Deployed]:
    """List all in boot order: the next boot takes the first. Raises Failure.

    Those without boot entry come last.
    """
    on_disk = _list_on_disk(sysroot)
    listed: dict[str, Deployed] = {}
    staged = find_staged(sysroot) if is_running_sysroot(sysroot) else None
    entries = [staged] if staged else []
    entries += _list_entries(sysroot)
    for entry in entries + on_disk:
        listed.setdefault(entry.path, _add_state(entry, sysroot, first=not listed))
    return list(listed.values())


def choose_next(sysroot: str) -> list[Deployed]:
    """Return what the next boot tries, in its order: one, unless its boot entry selects several. Raises Failure."""
    everything = require_any(list_all(sysroot), sysroot)
    first = _choose_next(everything)
    if first.state == "staged" or first.options is None:
        return [first]
    return [one for one in everything if (one.options, one.initrds) == (first.options, first.initrds)]


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
        hint = "run 'ostree admin deploy' or 'bootc install' first"
        raise Failure(_NO_DEPLOYMENT, f"Failed to find a deployment below {sysroot}", hint)
    return everything


def _choose_next(everything: list[Deployed]) -> Deployed:
    """Return the one that the next boot takes, or the only one. Raises Failure."""
    if everything[0].options is None and len(everything) > 1:
        raise Failure(_NO_DEPLOYMENT, "Failed to choose a deployment: no boot entry names one", _list_names(everything))
    return everything[0]


def _list_names(everything: list[Deployed]) -> str:
    return f"choose one of {', '.join(one.name for one in everything)}"


def locate(deployed: Deployed, request: Request, policy: Policy, sysroot: str) -> Deployment:
    """Open the deployment as the boot will. Raises Refusal, as the boot does."""
    staged = layouts.of(deployed.layout).locate_staged(deployed.path, request, sysroot) if deployed.state == "staged" else None
    return staged or deployment.locate(request.wishes[0], request, policy, sysroot)


def parse_request(deployed: Deployed) -> Request:
    """Parse its command line; without a boot entry, ask for the deployment itself. Raises Refusal.

    A command line may select other images as well; this one is judged.
    """
    own = layouts.of(deployed.layout).wish(deployed.path)
    if deployed.options is None:
        return Request((own,), "", "", "", debug=False)
    request = cmdline.parse(deployed.options)
    if deployed.layout == "ostree" and request.wishes:
        return request
    return request._replace(wishes=(own,), root_list="")


def find_initrds(deployed: Deployed, sysroot: str) -> tuple[File, ...]:
    """Return the boot entry's initrds, or one of the deployment's own tree. Raises Failure."""
    return deployed.initrds or layouts.of(deployed.layout).find_initrds(deployed.path, sysroot)


def find_orphans(sysroot: str) -> list[str]:
    """List files of a killed process whose deployment is gone, by path below the physical root."""
    return [orphan for layout in layouts.ALL.values() for orphan in layout.find_orphans(sysroot)]


def stamp(sysroot: str) -> tuple[object, ...]:
    """Return what changes whenever something is deployed or staged."""
    return tuple((layout.stamp(sysroot), inside.stamp(layout.STAGED)) for layout in layouts.ALL.values())


def find_staged(sysroot: str) -> Deployed | None:
    """Return the staged deployment with its future boot entry. Raises Failure if it is unreadable."""
    for layout in layouts.ALL.values():
        if staged := layout.find_staged(sysroot):
            entries = _list_entries(sysroot, _STAGED_ENTRIES) if staged.options is None else []
            return next((entry._replace(state="staged") for entry in entries if entry.path == staged.path), staged)
    return None


def _is_named(deployed: Deployed, name: str) -> bool:
    long_name = layouts.of(deployed.layout).long_name(deployed.path)
    return len(name) >= 4 and any(text.startswith(name) for text in (long_name, long_name.rpartition("/")[2]))


def _add_state(entry: Deployed, sysroot: str, *, first: bool) -> Deployed:
    if entry.state:
        return entry
    if layouts.of(entry.layout).is_booted(entry.path, sysroot):
        return entry._replace(state="booted")
    return entry._replace(state="pending" if first and entry.options is not None else "")


def is_running_sysroot(sysroot: str) -> bool:
    """Tell whether this is the physical root of the running system."""
    try:
        return os.path.samefile(sysroot, default_sysroot()) and any(layout.is_running() for layout in layouts.ALL.values())
    except OSError:
        return False


def _list_entries(sysroot: str, directory: str = _ENTRIES) -> list[Deployed]:
    """List the deployments with a boot loader entry or in a UKI, in boot order."""
    listed: list[Deployed] = []
    boots = list_boots(sysroot)
    for root, place in _find_entries(boots):
        entries: list[tuple[str, Entry]] = []
        with inside.tolerated(f"{root}/{place}"), inside.opened(root, place) as boot:
            names = inside.list_names(boot, directory, ".conf")
            entries += [(name, _parse_entry(boot, f"{directory}/{name}")) for name in names]
        for _, entry in sorted(sorted(entries, key=_name_key, reverse=True), key=_sort_key):
            listed += _follow_entry(sysroot, entry, root, place)
    for root, place in boots:
        for ukis in _UKI_DIRECTORIES:
            listed += _list_ukis(sysroot, root, place, ukis)
    return listed


def _follow_entry(sysroot: str, entry: Entry, root: str, place: str) -> list[Deployed]:
    """Return the deployments of an entry. A unified kernel image has its command line inside."""

    def below(key: str) -> tuple[File, ...]:
        names = [name for line in entry.get(key, ()) for name in _split_words(line)]
        # An entry's paths start at the filesystem of /boot, with or without /boot in them.
        return tuple(File(root, place, name.lstrip("/").removeprefix("boot/")) for name in names)

    options, images = " ".join(entry.get("options", ())), below("uki") or below("efi")
    if not images:
        return _follow(sysroot, options, below("initrd"))
    lines = _read_command_lines(list(images), f"{root}/{place}")
    return [one for file, line in lines.items() for one in _follow(sysroot, f"{line} {options}".strip(), (file,))]


def _list_ukis(sysroot: str, root: str, place: str, directory: str) -> list[Deployed]:
    """List the deployments of the unified kernel images in a directory of a partition. Raises Failure."""
    names: list[str] = []
    where = os.path.join(root, place)
    with inside.tolerated(where), inside.opened(root, place) as partition:
        names += reversed(inside.list_names(partition, directory, ".efi"))
    images = [File(root, place, f"{directory}/{name}") for name in names]
    lines = _read_command_lines(images, f"{where}/{directory}")
    return [deployed for file, options in lines.items() for deployed in _follow(sysroot, options, (file,))]


def _read_command_lines(files_: list[File], where: str) -> dict[File, str]:
    """Read the command lines in unified kernel images. Raises Failure."""
    try:
        return reader.command_lines(files_)
    except (OSError, reader.Damaged) as error:
        if isinstance(error, OSError):
            inside.check_disk(error, where)
        hint = "remove the images that no deployment needs"
        what = f"Failed to read the unified kernel images in {where}: {error}"
        raise Failure(IO_ERROR if isinstance(error, OSError) else DATA, what, hint) from error


def _follow(sysroot: str, options: str, initrds: tuple[File, ...]) -> list[Deployed]:
    """Return the deployments that a command line selects, and that are there. Raises Failure."""
    listed: list[Deployed] = []
    lost: list[str] = []
    for wish, text in _find_wishes(sysroot, options):
        try:
            path = layouts.of(wish.layout).follow(wish, sysroot)
        except (OSError, Refusal) as error:
            cause = error.__cause__ if isinstance(error, Refusal) else error
            if isinstance(cause, OSError):
                inside.check_disk(cause, f"{sysroot}/{wish.what}")
            lost.append(f"{text}: {error.what if isinstance(error, Refusal) else reason(error)}")
            continue
        listed.append(Deployed(path, "", options, initrds, wish.layout))
    if lost and not listed:
        warning(f"a boot entry leads to no deployment: {'; '.join(lost)}")
    return listed


def _find_wishes(sysroot: str, options: str) -> list[tuple[Wish, str]]:
    """Return what a command line selects, with the text that does; the boot judges its form."""
    found: list[tuple[Wish, str]] = []
    for word in _split_words(options):
        key, _, value = word.partition("=")
        if key == cmdline.LIST:
            request = Request((), value.lstrip("/"), "", "", debug=False)
            with suppress(Refusal):
                found += [(wish, f"{wish.what} of {word}") for wish in deployment.wishes(request, sysroot)]
        elif key in boot_layouts.KEYS and value:
            with suppress(ValueError):
                found.append((boot_layouts.parse(key, value.removeprefix("?")), word))
    ostree = [one for one in found if one[0].layout == "ostree"]
    return ostree[:1] + [one for one in found if one[0].layout != "ostree"]


def _list_on_disk(sysroot: str) -> list[Deployed]:
    """List the deployments' directories. Raises Failure without any layout."""
    listed: list[Deployed] = []
    errors: list[OSError] = []
    for name, layout in layouts.ALL.items():
        try:
            listed += [Deployed(path, "", None, (), name) for path in layout.list_on_disk(sysroot)]
        except OSError as error:
            errors.append(error)
    bad = next((error for error in errors if error.errno not in LEADS_NOWHERE), None)
    if bad:
        hint = "run as root" if isinstance(bad, PermissionError) else ""
        raise os_failure(IO_ERROR, f"Failed to find deployments below {sysroot}", bad, hint) from bad
    if len(errors) == len(layouts.ALL):
        hint = "give the physical root with --sysroot="
        what = f"Failed to find deployments: neither ostree/deploy nor {paths.STATES} below {sysroot}"
        raise Failure(_NO_DEPLOYMENT, what, hint) from errors[0]
    return listed


def list_boots(sysroot: str) -> Boots:
    """List where the boot loader's files may be, each directory once: below the physical root, then in the running system."""
    roots = (sysroot, "/") if is_running_sysroot(sysroot) else (sysroot,)
    boots: dict[tuple[int, int], tuple[str, str]] = {}
    for root in roots:
        for place in _BOOT_PLACES:
            with inside.tolerated(os.path.join(root, place)), inside.opened(root, place) as own:
                status = os.fstat(own)
                boots.setdefault((status.st_dev, status.st_ino), (root, place))
    return tuple(boots.values())


def _find_entries(boots: Boots) -> Boots:
    """Return where boot loader entries are."""
    found = []
    for root, place in boots:
        with inside.tolerated(os.path.join(root, place)), inside.opened(root, place) as own:
            os.stat("loader", dir_fd=own, follow_symlinks=False)
            found.append((root, place))
    below = tuple(boot for boot in found if boot[0] != "/")
    return below or tuple(found)


def _parse_entry(boot: int, path: str) -> Entry:
    """Read the values of an entry by key. Raises Failure on a failed disk."""
    values: Entry = {}
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


def _name_key(entry: tuple[str, Entry]) -> str:
    return entry[0]


def _sort_key(entry: tuple[str, Entry]) -> tuple[str, int]:
    """Order entries as a boot loader does: bootc's by their sort-key, ostree's by their version, the highest first.

    Invalid numbers are 0. Entries that are equal keep their order, the last name first, which is that of GRUB.
    """
    _, values = entry
    text = (values.get("version") or [""])[0]
    number = int(text) if text.isdecimal() and len(text) < 20 else 0
    return (values.get("sort-key") or [""])[0], -number
