# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the deployment that ostree= names and open its directories, without leaving the physical root.

No file is read.
"""

import errno
import os

from .. import paths, verdicts
from ..errors import LEADS_NOWHERE, Refusal, failed
from ..linux import files
from ..values import Deployment, Request

_TOP = paths.DEPLOYMENTS + "/"


def locate(request: Request, sysroot: str = "/sysroot") -> Deployment:
    """Find the deployment that ostree= leads to.

    Raises Refusal: `no-deployment`, `unsupported` (openat2), `io-error`, `mount-failed`.
    """
    sysroot_fd = physical_root(sysroot)
    where = sysroot + request.ostree
    path = resolve(sysroot_fd, request.ostree, where)
    stateroot, checksum, serial = parts(path, where)
    return Deployment(
        layout="ostree",
        stateroot=stateroot,
        checksum=checksum,
        serial=serial,
        path=path,
        sysroot_fd=sysroot_fd,
        fd=directory(sysroot_fd, path, sysroot),
        etc_fd=directory(sysroot_fd, f"{path}/etc", sysroot),
        var_fd=directory(sysroot_fd, paths.var_of(stateroot), sysroot),
        objects_fd=directory(sysroot_fd, paths.OBJECTS, sysroot),
    )


def parts(path: str, where: str) -> tuple[str, str, int]:
    """Split the path of a deployment into stateroot, checksum and serial. Raises Refusal `no-deployment`."""
    if found := paths.parts_of(path):
        return found
    _, _, rest = path.removeprefix(_TOP).partition("/")
    if path.startswith(_TOP) and paths.parts_of(f"{_TOP}x/{rest}"):
        what = "the name of the stateroot is not of the form [A-Za-z0-9._-]{1,64}"
        raise Refusal(verdicts.NO_DEPLOYMENT, what, where)
    what = "leads to no ostree/deploy/STATEROOT/deploy/CHECKSUM.SERIAL below the physical root"
    raise Refusal(verdicts.NO_DEPLOYMENT, what, where)


def physical_root(sysroot: str) -> int:
    """Open the physical root. Raises Refusal as locate does."""
    try:
        return os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        verdict = verdicts.NO_DEPLOYMENT if error.errno in LEADS_NOWHERE else verdicts.MOUNT_FAILED
        raise failed(error, verdict, "the physical root cannot be opened", sysroot) from error


def directory(sysroot_fd: int, path: str, sysroot: str) -> int:
    """Open a directory below the physical root without following links. Raises Refusal as locate does."""
    try:
        return files.open_directory(sysroot_fd, path)
    except OSError as error:
        raise _refusal(error, f"{sysroot}/{path}") from error


def resolve(sysroot_fd: int, target: str, where: str) -> str:
    """Resolve the links in a path to a directory below the physical root. Raises Refusal as locate does."""
    try:
        fd = files.open_directory(sysroot_fd, target, files.CONFINED)
    except OSError as error:
        raise _refusal(error, where) from error
    # The kernel's own name for the directory. Callers open it by that name, which contains no links.
    root, path = (os.readlink(f"/proc/self/fd/{n}") for n in (sysroot_fd, fd))
    os.close(fd)
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
