# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find links of the image that lead out of it from places where the booted system looks for code.

The digest covers such a link, but not its target: with /usr/local -> /var/usrlocal, PID 1 runs unverified generators.
"""

import errno
import os

from ..errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Directories of units and generators: systemd's path-lookup.c; of its settings that run or load something: CONF_PATHS in
# constants.h. PATH: path-util.h. Libraries: ld.so(8). /opt: hier(7).
_IN_LIB = (
    "systemd/system", "systemd/system-generators", "systemd/system-environment-generators", "systemd/system-preset",
    "systemd/system-shutdown", "systemd/system-sleep", "systemd/user", "systemd/user-generators", "udev/rules.d", "binfmt.d",
    "environment.d", "modules-load.d", "sysctl.d", "sysusers.d", "tmpfiles.d",
)  # fmt: skip
_PLACES = (
    "bin", "sbin", "lib", "lib64", "opt", "usr/bin", "usr/sbin", "usr/lib64", "usr/lib/modules", "usr/lib/firmware",
    "usr/libexec", "usr/local/bin", "usr/local/sbin", "usr/local/lib64", "usr/local/libexec", "usr/local/share/systemd/user",
    *(f"{top}/{name}" for top in ("usr/lib", "usr/local/lib", "etc") for name in _IN_LIB),
)  # fmt: skip
# Where the booted system mounts something else, or unprivileged users may write.
_OUTSIDE = frozenset({"boot", "efi", "etc", "home", "media", "mnt", "run", "srv", "sysroot", "tmp", "var"})
_MAX_LINKS = 40  # as in the kernel


def find(root_fd: int, *, own_etc: str) -> list[str]:
    """List each of these links once, as 'LINK -> TARGET'. Raises OSError.

    `own_etc` is the directory of the image that /etc shows; empty if that is one of the disk. Nothing may be mounted in the
    root yet. No link is followed: a path is read only after all its parents were found to be directories.
    """
    outside = _OUTSIDE - {"etc"} if own_etc else _OUTSIDE
    known: dict[str, str | None] = {}

    def target(path: str) -> str | None:  # below etc/ only if the image has it
        if path not in known:
            known[path] = _read_link(root_fd, f"{own_etc}/{path[4:]}" if path.startswith("etc/") else path)
        return known[path]

    return list({way: None for place in _PLACES if (way := _find_way_out(place, target, outside))})


def _find_way_out(place: str, target: "Callable[[str], str | None]", outside: frozenset[str]) -> str:
    """Return the first link on the path to a place that leads out, with its target; else an empty text."""
    done: list[str] = []  # the path so far, free of links
    left, links = place.split("/"), 0
    link, rest = "", 0  # the first link, and how many components of `left` come after its target
    while left and links <= _MAX_LINKS:
        link = link if len(left) > rest else ""
        name, *left = left
        path = "/".join((*done, name))
        if name == "..":
            del done[-1:]
        elif name in ("", "."):
            continue
        elif path in outside:
            behind = filter(None, (name, *left[: len(left) - rest]))
            return printable(f"/{link} -> /{'/'.join(behind)}") if link else ""
        elif (link_target := target(path)) is None:
            return ""
        elif not link_target:
            done.append(name)
        else:
            link, rest = (link, rest) if link else (path, len(left))
            left, links = [*link_target.split("/"), *left], links + 1
            done = [] if link_target[0] == "/" else done
    return ""


def _read_link(root_fd: int, path: str) -> str | None:
    """Read a link. Returns an empty text for anything but a link, and None if the path does not exist."""
    try:
        return os.readlink(path, dir_fd=root_fd)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return ""
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
