# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layout of composefs-rs and bootc: the command line has the digest of an image, which a repository keeps under that name.

composefs/images/HEX is a link to an object, state/deploy/HEX has digest, signature, /etc and /var. See the documents
repository_format.rs of composefs-rs and experimental-composefs.md of bootc. What is mounted is what bootc-root-setup.service
mounts (crates/initramfs/src/lib.rs of bootc), by bootc-setup-root-conf.toml(5).
"""

import errno
import os

from .. import paths, verdicts
from ..digest import SIZES
from ..errors import LEADS_NOWHERE, Refusal, failed, printable
from ..linux import mountapi
from ..values import BIND, NONE, OVERLAY, TRANSIENT, Deployment, Entry, Plan, Request, RootConfig, Submount
from . import SOURCE, TRANSIENT_SOURCE, confined, upper

_RUN = paths.RUN + "/transient/.private"
TRANSIENT_ROOT = f"{_RUN}/root"
_FORMATS = ("v1", "v2")
_BLOCK_SIZE = "12"  # the binary logarithm
_VOLATILE = ("state", "overlay")  # values of systemd.volatile= with which bootc mounts no /var
_READ_ONLY = mountapi.MOUNT_ATTR_RDONLY
_DEPLOY_AGAIN = "choose another boot entry, or deploy again, for example with 'bootc upgrade'"


def parse(key: str, value: str) -> str:
    """Return the digest in the value of composefs= or composefs.digest=. Raises ValueError."""
    if value.startswith("?"):
        raise ValueError("'?' asks for an image without fs-verity")
    size = 0
    if key == "composefs.digest":
        form, _, value = value.partition(":")
        version, _, rest = form.partition("-")
        algorithm, _, block_size = rest.partition("-")
        if version not in _FORMATS or algorithm not in SIZES or block_size != _BLOCK_SIZE:
            raise ValueError("not of the form v1-sha256-12:HEX, v1-sha512-12:HEX or v2-...")
        size = 2 * SIZES[algorithm]
    if not paths.is_image_digest(value) or len(value) != (size or len(value)):
        raise ValueError(f"not a digest of {size or '64 or 128'} hexadecimal digits")
    return value


def locate(what: str, request: Request, config: RootConfig, sysroot: str) -> Deployment:
    """Find the image of this digest, and its state directory. Raises Refusal, as layouts.Layout says."""
    sysroot_fd = confined.physical_root(sysroot)
    path = paths.state_of(what)
    state = confined.directory(sysroot_fd, path, sysroot)
    objects = confined.directory(sysroot_fd, paths.COMPOSEFS_OBJECTS, sysroot)
    images = confined.directory(sysroot_fd, paths.IMAGES, sysroot)
    image = f"{sysroot}/{paths.IMAGES}/{what}"
    needs_etc = etc_mode(config) in (BIND, OVERLAY)
    needs_var = var_mode(config, request) in (BIND, OVERLAY)
    return Deployment(
        layout="composefs",
        stateroot="",
        checksum=what,
        serial=None,
        path=path,
        sysroot_fd=sysroot_fd,
        objects_fd=objects,
        etc_fd=confined.directory(sysroot_fd, f"{path}/etc", sysroot) if needs_etc else -1,
        # A link that leaves the state directory.
        var_fd=confined.directory(sysroot_fd, f"{path}/var", sysroot, follow=True) if needs_var else -1,
        image=Entry(objects, find_object(images, what, image), image),
        pair=Entry(state, paths.PAIR, f"{sysroot}/{path}/{paths.PAIR}"),
        wished=what,
    )


def find_object(images: int, name: str, path: str) -> str:
    """Return the name in composefs/objects that an image is a link to. Raises Refusal."""
    try:
        target = os.readlink(name, dir_fd=images)
    except OSError as error:
        if error.errno in LEADS_NOWHERE:
            raise Refusal(verdicts.NO_IMAGE, "missing", path, _DEPLOY_AGAIN) from error
        if error.errno == errno.EINVAL:
            raise Refusal(verdicts.BAD_IMAGE, "not a link into composefs/objects", path, _DEPLOY_AGAIN) from error
        raise failed(error, verdicts.MOUNT_FAILED, "cannot be read", path) from error
    directory, _, rest = target.removeprefix("../objects/").partition("/")
    if not target.startswith("../objects/") or len(directory) != 2 or not paths.is_image_digest(directory + rest):
        what = f"a link to {printable(target[:160])}, which is not an object of the repository"
        raise Refusal(verdicts.BAD_IMAGE, what, path, _DEPLOY_AGAIN)
    return f"{directory}/{rest}"


def source(image_digest: str, config: RootConfig) -> str:
    """Return the source of the root's mount, in which bootc looks for the digest."""
    return (TRANSIENT_SOURCE if config.root_transient else SOURCE) + image_digest


def etc_mode(config: RootConfig) -> str:
    """Return how /etc is mounted."""
    return config.etc or BIND


def var_mode(config: RootConfig, request: Request) -> str:
    """Return how /var is mounted. systemd.volatile= replaces the default, as with bootc."""
    return config.var or (NONE if request.volatile in _VOLATILE else BIND)


def plan(_root: int, deployment: Deployment, config: RootConfig, request: Request) -> Plan:
    """Prepare /etc, /var and /sysroot. Raises OSError, Refusal."""
    etc, var = etc_mode(config), var_mode(config, request)
    states = (("etc", etc, deployment.etc_fd), ("var", var, deployment.var_fd))
    submounts = [_submount(name, mode, fd, deployment) for name, mode, fd in states if mode != NONE]
    submounts.append(Submount("sysroot", deployment.sysroot_fd, set=_READ_ONLY))
    return Plan(
        submounts=tuple(submounts),
        not_covered=tuple(f"/{name}" for name, mode, _ in states if mode in (BIND, OVERLAY)),
        own_etc="" if etc in (BIND, OVERLAY) else "etc",
        ostree_booted=b"",
    )


def _submount(name: str, mode: str, fd: int, deployment: Deployment) -> Submount:
    if mode == BIND:
        return Submount(name, fd, clear=_READ_ONLY)
    if mode == TRANSIENT:
        return Submount(name, -1, lower=name, upper=upper.in_run(f"{_RUN}/{name}"), source="transient")
    # In the namespace of this process alone, the disk becomes writable: an overlay writes to its upper layer.
    mountapi.set_attributes(deployment.sysroot_fd, clear=_READ_ONLY)
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        hint = "add rw to the kernel command line, or check the disk"
        what = f"the physical root is read-only, but the upper layer of /{name} is on it"
        raise Refusal(verdicts.MOUNT_FAILED, what, deployment.path, hint)
    return Submount(name, -1, lower=name, upper=upper.on_disk(fd), source="overlay")
