# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layout of ostree: ostree= leads to a deployment, whose directory has image, digest and signature.

What is mounted is what ostree-prepare-root(1) mounts.
"""

import errno
import os

from .. import paths, verdicts
from ..errors import LEADS_NOWHERE, Refusal, failed
from ..linux import files, mountapi
from ..values import TRANSIENT, Deployment, Entry, Plan, Request, RootConfig, Submount
from . import SOURCE, confined, ostreebooted, upper

_TOP = paths.DEPLOYMENTS + "/"
_RUN = "/run/ostree"
TRANSIENT_ROOT = f"{_RUN}/.private/root"
_FSTAB_SIZE = 1 << 16  # bytes
_READ_ONLY = mountapi.MOUNT_ATTR_RDONLY


def parse(_key: str, value: str) -> str:
    """Check the form of a path. Raises ValueError."""
    components = value.split("/")
    if not value.startswith("/ostree/") or {"", ".", ".."} & set(components[1:]):
        raise ValueError("not an absolute path below /ostree/ without empty, '.' or '..' components")
    if len(value) > 1024 or not all(" " <= c <= "~" for c in value):
        raise ValueError("too long, or not printable ASCII")
    return value


def locate(what: str, _request: Request, _config: RootConfig, sysroot: str) -> Deployment:
    """Find the deployment that ostree= leads to. Raises Refusal, as layouts.Layout says."""
    sysroot_fd = confined.physical_root(sysroot)
    path = confined.resolve(sysroot_fd, what, sysroot + what)
    return at(path, f"{path}/etc", sysroot_fd, sysroot, sysroot + what)


def at(path: str, etc: str, sysroot_fd: int, sysroot: str, where: str) -> Deployment:
    """Open the deployment at a path; `where` it was named. Raises Refusal, as layouts.Layout says."""
    stateroot, checksum, serial = parts(path, where)
    directory = confined.directory(sysroot_fd, path, sysroot)
    etc_fd = confined.directory(sysroot_fd, etc, sysroot)
    var_fd = confined.directory(sysroot_fd, paths.var_of(stateroot), sysroot)
    beside = Entry(directory, paths.IMAGE, f"{sysroot}/{path}/{paths.IMAGE}")
    return Deployment(
        layout="ostree",
        stateroot=stateroot,
        checksum=checksum,
        serial=serial,
        path=path,
        sysroot_fd=sysroot_fd,
        objects_fd=confined.directory(sysroot_fd, paths.OBJECTS, sysroot),
        etc_fd=etc_fd,
        var_fd=var_fd,
        image=beside,
        pair=beside,
    )


def parts(path: str, where: str) -> tuple[str, str, int]:
    """Split the path of a deployment into stateroot, checksum and serial. Raises Refusal `no-deployment`."""
    if split := paths.parts_of(path):
        return split
    _, _, rest = path.removeprefix(_TOP).partition("/")
    if path.startswith(_TOP) and paths.parts_of(f"{_TOP}x/{rest}"):
        what = "the name of the stateroot is not of the form [A-Za-z0-9._-]{1,64}"
        raise Refusal(verdicts.NO_DEPLOYMENT, what, where)
    what = "leads to no ostree/deploy/STATEROOT/deploy/CHECKSUM.SERIAL below the physical root"
    raise Refusal(verdicts.NO_DEPLOYMENT, what, where)


def source(image_digest: str, _config: RootConfig) -> str:
    """Return the source of the root's mount."""
    return SOURCE + image_digest


def plan(root: int, deployment: Deployment, config: RootConfig, _request: Request) -> Plan:
    """Prepare /etc, /var, /boot and /sysroot. Raises OSError, Refusal."""
    transient = config.etc == TRANSIENT
    directory = _make_transient_etc() if transient else ""
    etc = Submount("etc", deployment.etc_fd, clear=_READ_ONLY)
    if transient:
        etc = Submount("etc", -1, lower="usr/etc", upper=upper.in_run(directory), source="overlay")
    below_etc = files.open_directory(root, "usr/etc") if transient else deployment.etc_fd
    var = () if _mounts_var(below_etc) else (Submount("var", deployment.var_fd, clear=_READ_ONLY),)
    boot_fd = _open_boot(root, deployment)
    boot = () if boot_fd is None else (Submount("boot", boot_fd),)
    sysroot = Submount("sysroot", deployment.sysroot_fd, set=_READ_ONLY if config.sysroot_readonly else 0)
    return Plan(
        submounts=(etc, *var, *boot, sysroot),
        not_covered=(*(() if transient else ("/etc",)), "/var", *(("/boot",) if boot else ())),
        own_etc="usr/etc" if transient else "",
        ostree_booted=ostreebooted.serialize(deployment, config, directory),
    )


def _make_transient_etc() -> str:
    os.makedirs(_RUN, exist_ok=True)
    directory = f"{_RUN}/transient-etc.{os.urandom(6).hex()}"
    os.mkdir(directory, 0o700)
    return directory


def _mounts_var(etc: int) -> bool:
    """Tell whether the booted system's fstab mounts /var. systemd would not mount over a mount of ours.

    Anyone who can write this fstab can also write to /var, so reading it grants nothing new.
    """
    try:
        fstab = files.open_regular(etc, "fstab")
        text = files.read_bounded(fstab, _FSTAB_SIZE) or b""
        os.close(fstab)
    except files.NotRegular:
        return False
    except OSError as error:
        if error.errno in LEADS_NOWHERE:
            return False
        raise failed(error, verdicts.MOUNT_FAILED, "cannot be read", "/etc/fstab") from error
    lines = ([word for word in line.replace("\t", " ").split(" ") if word] for line in files.lines(text))
    return any(len(words) > 1 and words[0][0] != "#" and os.path.normpath(words[1]) == "/var" for words in lines)


def _open_boot(root: int, deployment: Deployment) -> int | None:
    """Open /boot if it is on the physical root. As for ostree, the sign is that boot/loader is a link."""
    try:
        boot = files.open_directory(deployment.sysroot_fd, "boot")
        os.readlink("loader", dir_fd=boot)
        os.close(files.open_directory(root, "boot"))
    except OSError as error:
        if error.errno in LEADS_NOWHERE | {errno.EINVAL}:  # EINVAL: boot/loader is not a link
            return None
        raise failed(error, verdicts.MOUNT_FAILED, "cannot be opened", "/boot") from error
    return boot
