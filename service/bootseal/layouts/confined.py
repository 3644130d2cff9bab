# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open directories below the physical root, and never beyond; an error is a Refusal."""

import errno
import os

from .. import verdicts
from ..errors import LEADS_NOWHERE, Refusal, failed
from ..linux import files


def physical_root(sysroot: str) -> int:
    """Open the physical root. Raises Refusal: `no-deployment`, `io-error`, `mount-failed`."""
    try:
        return os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        verdict = verdicts.NO_DEPLOYMENT if error.errno in LEADS_NOWHERE else verdicts.MOUNT_FAILED
        raise failed(error, verdict, "the physical root cannot be opened", sysroot) from error


def directory(sysroot_fd: int, path: str, sysroot: str, *, follow: bool = False) -> int:
    """Open a directory below the physical root. Raises Refusal: as above, and `unsupported` (openat2).

    The path must not contain links; `follow` allows those that stay below the physical root.
    """
    try:
        return files.open_directory(sysroot_fd, path, files.CONFINED | (0 if follow else files.RESOLVE_NO_SYMLINKS))
    except OSError as error:
        raise _refusal(error, f"{sysroot}/{path}") from error


def resolve(sysroot_fd: int, target: str, where: str) -> str:
    """Resolve the links in a path to a directory below the physical root. Raises Refusal as directory() does."""
    try:
        fd = files.open_directory(sysroot_fd, target, files.CONFINED)
        try:
            # The kernel's own name for the directory. Callers open it by that name, which contains no links.
            root, path = (os.readlink(f"/proc/self/fd/{n}") for n in (sysroot_fd, fd))
        finally:
            os.close(fd)
    except OSError as error:  # the name may be longer than a path can be
        raise _refusal(error, where) from error
    return path.removeprefix(root).lstrip("/")


def _refusal(error: OSError, where: str) -> Refusal:
    if error.errno == errno.ENOENT:
        return Refusal(verdicts.NO_DEPLOYMENT, "no such directory below the physical root", where)
    if error.errno == errno.ENOSYS:
        return Refusal(verdicts.UNSUPPORTED, "the kernel has no openat2(2), which needs Linux 5.6 or later", where)
    if error.errno in (errno.EXDEV, errno.ELOOP):
        return failed(error, verdicts.NO_DEPLOYMENT, "cannot be opened without leaving the physical root", where)
    verdict = verdicts.NO_DEPLOYMENT if error.errno in LEADS_NOWHERE else verdicts.MOUNT_FAILED
    return failed(error, verdict, "cannot be opened", where)
