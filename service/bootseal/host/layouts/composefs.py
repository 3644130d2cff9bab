# SPDX-License-Identifier: LGPL-2.1-or-later
"""Deployments of composefs-rs and bootc: one directory in state/deploy for each image, named by its digest.

bootc describes a staged one in /run by a JSON object (crates/lib/src/bootc_composefs/status.rs of bootc). Its boot entry is in
loader/entries.staged until bootc finalizes it at shutdown.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice

from ... import layouts, paths
from ...errors import LEADS_NOWHERE, Refusal
from ...formats import pkcs7
from ...layouts import composefs, ostreebooted
from ...linux import files, mountapi
from ...values import Request, Wish
from .. import carriers, erofs, inside
from ..carriers import Found, Unusable
from ..deployed import Boots, Deployed, Where, orphans_among
from ..inside import File
from ..output import DATA, IO_ERROR, Failure, os_failure

STAGED = "/run/composefs/staged-deployment"
_MAX_IMAGES = 64  # that are searched for signatures; bootc keeps a few for each deployment
_MAX_KERNELS = 16
_UNREADABLE = (OSError, Refusal, erofs.Damaged, files.NotRegular)  # what an image that nobody signed may be


def long_name(path: str) -> str:
    """Return the image's digest."""
    return os.path.basename(path)


def list_on_disk(sysroot: str) -> list[str]:
    """List the state directories. Raises OSError without one."""
    with inside.opened(sysroot, paths.STATES) as top:
        return [paths.state_of(one) for one in inside.list_names(top, ".") if paths.is_image_digest(one)]


def stamp(sysroot: str) -> list[str]:
    """Return the names of the state directories."""
    with suppress(OSError):
        return list_on_disk(sysroot)
    return []


def find_staged(_sysroot: str) -> Deployed | None:
    """Return the staged deployment, without its boot entry. Raises Failure if it is unreadable."""
    try:
        content = json.loads(files.read_start(STAGED, 1 << 16))
        image = content["depl_id"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read {STAGED}", error) from error
    except (ValueError, KeyError, TypeError, RecursionError, files.NotRegular) as error:
        raise Failure(DATA, f"Failed to read {STAGED}: unknown format", "see 'bootc status'") from error
    if not isinstance(image, str) or not paths.is_image_digest(image):
        raise Failure(DATA, f"Failed to read {STAGED}: depl_id is not a digest", "see 'bootc status'")
    return Deployed(paths.state_of(image), "staged", None, (), "composefs")


def is_running() -> bool:
    """Tell whether the running root is an image, and not one of ostree."""
    return not os.path.exists(ostreebooted.PATH) and _find_running() != ""


def is_booted(path: str, sysroot: str) -> bool:
    """Compare with the digest in the source of the root's mount, as bootc does."""
    there = os.path.exists(os.path.join(sysroot, path))
    return there and not os.path.exists(ostreebooted.PATH) and _find_running() == os.path.basename(path)


def _find_running() -> str:
    with suppress(OSError):
        sources = [mount.source for mount in mountapi.mounts() if mount.target == "/" and mount.fstype == "overlay"]
        return layouts.digest_in(sources[-1]) if sources else ""
    return ""


def follow(wish: Wish, sysroot: str) -> str:
    """Return the state directory of an image. Raises OSError if it is not there."""
    path = paths.state_of(wish.what)
    with inside.opened(sysroot, path):
        return path


def wish(path: str) -> Wish:
    """Return what asks for a deployment."""
    return Wish("composefs", os.path.basename(path))


def where(path: str, sysroot: str) -> Where:
    """Return where its files are; the image is where its link leads to. Raises OSError, Refusal."""
    image = os.path.basename(path)
    image_path = f"{sysroot}/{paths.IMAGES}/{image}"
    with inside.opened(sysroot, paths.IMAGES) as images:
        found = composefs.find_object(images, image, image_path)
    pair_path = f"{sysroot}/{path}/{paths.PAIR}"
    return Where(paths.COMPOSEFS_OBJECTS, found, image_path, paths.PAIR, pair_path, paths.COMPOSEFS_OBJECTS)


def locate_staged(_path: str, _request: Request, _sysroot: str) -> None:
    """Return None: bootc makes all directories when it stages a deployment."""


def find_initrds(_path: str, _sysroot: str) -> tuple[File, ...]:
    """Return none: the boot image has no kernel."""
    return ()


def read_kernel_config(path: str, sysroot: str, size: int) -> tuple[str, bytes]:
    """Return name and start of the kernel's configuration in the image; both empty if it is missing."""
    image = os.path.basename(path)
    with suppress(*_UNREADABLE), _opened(sysroot, image) as (fd, objects):
        for release in islice(erofs.list_names(fd, "usr/lib/modules"), _MAX_KERNELS):
            config = f"usr/lib/modules/{release}/config"
            content = _read(fd, objects, config, size)
            if content is not None:
                return f"{config} of the image {image[:12]}", content
    return "", b""


def unsigned(path: str) -> tuple[str, str]:
    """Say that nothing carries a signature, and what to do."""
    place = f"/boot/{carriers.name_in_boot(os.path.basename(path))}"
    hint = f"give a signature with --signature=, or put it into {place} of the image"
    return f"nothing carries a signature for the image {paths.name_of(path)}", hint


def signatures(path: str, _image_digest: bytes, sysroot: str, boots: Boots) -> Iterator[Found | Unusable]:
    """Yield those in bootseal/ on the partitions of the boot loader, and in /boot of the repository's images. Raises OSError.

    bootc empties /boot before it computes the digest of an image. The repository also has the image with its /boot.
    """
    image = os.path.basename(path)
    for root, place in boots:
        try:
            with inside.opened(root, place) as boot:
                yield from carriers.in_boot(boot, image, os.path.join(root, place))
        except OSError as error:
            if error.errno not in LEADS_NOWHERE:
                raise
    others = _list_objects(sysroot)
    for other in others[:_MAX_IMAGES]:
        yield from _in_image(sysroot, other, image)
    if len(others) > _MAX_IMAGES:
        yield Unusable(f"the repository has {len(others)} images, of which {_MAX_IMAGES} were searched")


def _list_objects(sysroot: str) -> list[str]:
    """List the images, one name for each object. Raises OSError."""
    listed: dict[str, str] = {}
    with inside.opened(sysroot, paths.IMAGES) as images:
        for name in filter(paths.is_image_digest, inside.list_names(images, ".")):
            with suppress(OSError):
                listed.setdefault(os.readlink(name, dir_fd=images), name)
    return list(listed.values())


def _in_image(sysroot: str, other: str, image_digest: str) -> Iterator[Found | Unusable]:
    """Yield the signature that another image has in /boot. One that cannot be read hides no other."""
    path = f"/boot/{carriers.name_in_boot(image_digest)}"
    where = f"{path} of the image {other[:12]}"
    try:
        with _opened(sysroot, other) as (fd, objects):
            signature = _read(fd, objects, path.lstrip("/"), pkcs7.MAX_SIZE + 1)
        if signature is not None:
            yield Found(where, signature)
    except _UNREADABLE as error:
        yield Unusable(f"{where}: {'not a regular file' if isinstance(error, files.NotRegular) else error}")


@contextmanager
def _opened(sysroot: str, image: str) -> Iterator[tuple[int, int]]:
    """Open an image and the directory of all objects. Raises OSError, Refusal, NotRegular."""
    with inside.opened(sysroot, paths.IMAGES) as images, inside.opened(sysroot, paths.COMPOSEFS_OBJECTS) as objects:
        fd = files.open_regular(objects, composefs.find_object(images, image, image))
        try:
            yield fd, objects
        finally:
            os.close(fd)


def _read(fd: int, objects: int, path: str, size: int) -> bytes | None:
    """Read the start of a file of an open image; None if it is not there. Raises OSError, Damaged, NotRegular."""
    content = erofs.find(fd, path, size)
    if content is None:
        return None
    return inside.read(objects, content.object, size) if content.object else content.inline


def pair_of(image: str) -> str:
    """Return where digest and signature of an image belong, without their suffixes: beside it, but not in a repository.

    Raises Failure. Garbage collection of composefs-rs ends with an error at a file that it did not make.
    """
    path = os.path.abspath(image)
    repository = _find_repository(path)
    if not repository:
        return image
    directory, name = os.path.split(os.path.relpath(path, repository))
    if directory != os.path.basename(paths.IMAGES) or not paths.is_image_digest(name):
        hint = "sign a copy of the image, or its name in composefs/images"
        raise Failure(DATA, f"Failed to write digest and signature beside {image}: it is in a repository", hint)
    state = os.path.join(os.path.dirname(repository), paths.state_of(name))
    if not os.path.isdir(state):
        hint = "sign a copy of the image, or deploy it first"
        raise Failure(DATA, f"Failed to find the directory for digest and signature of {image}: no {state}", hint)
    return os.path.join(state, paths.PAIR)


def _find_repository(path: str) -> str:
    """Return the composefs repository that a path is in; empty if it is in none."""
    while (parent := os.path.dirname(path)) != path:
        path = parent
        if all(os.path.isdir(os.path.join(path, name)) for name in ("images", "objects")):
            return path
    return ""


def find_orphans(sysroot: str) -> list[str]:
    """List files of a killed process whose deployment is gone, by path below the physical root."""
    with suppress(OSError), inside.opened(sysroot, paths.STATES) as top:
        return [os.path.join(paths.STATES, one) for one in orphans_among(inside.list_names(top, "."))]
    return []
