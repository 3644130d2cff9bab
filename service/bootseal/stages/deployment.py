# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the deployments that the command line or a list on the disk names, and open their directories.

It reads no file but that list. Both only select: the signature decides.
"""

import os

from .. import layouts, paths, verdicts
from ..errors import LEADS_NOWHERE, Refusal, failed
from ..layouts import confined
from ..linux import files
from ..values import Deployment, Policy, Request, Wish

_MAX_WISHES = 16
_LIST_SIZE = 1 << 14  # bytes
_LIST_HINT = "write one line for each image, such as composefs.digest=v1-sha512-12:HEX, the preferred one first"


def wishes(request: Request, sysroot: str = paths.SYSROOT) -> tuple[Wish, ...]:
    """Return what selects an image, the preferred first. Raises Refusal: `no-deployment`, as locate() without a list."""
    if request.wishes:
        return request.wishes
    where = f"{sysroot}/{request.root_list}"
    listed = _parse_list(_read_list(request.root_list, sysroot, where))
    if not listed:
        raise Refusal(verdicts.NO_DEPLOYMENT, "the list of bootseal.root= names no image", where, _LIST_HINT)
    return listed


def locate(wish: Wish, request: Request, policy: Policy, sysroot: str = paths.SYSROOT) -> Deployment:
    """Open the deployment that a wish selects.

    Raises Refusal: `no-deployment`, `no-image`, `bad-image`, `unsupported` (openat2), `io-error`, `mount-failed`.
    """
    return layouts.of(wish.layout).locate(wish.what, request, policy.roots[wish.layout], sysroot)


def _read_list(path: str, sysroot: str, where: str) -> bytes:
    sysroot_fd = confined.physical_root(sysroot)
    try:
        fd = files.open_regular(sysroot_fd, path)
        try:
            content = files.read_bounded(fd, _LIST_SIZE)
        finally:
            os.close(fd)
    except files.NotRegular as error:
        raise Refusal(verdicts.NO_DEPLOYMENT, "the list of bootseal.root= is not a regular file", where, _LIST_HINT) from error
    except OSError as error:
        verdict = verdicts.NO_DEPLOYMENT if error.errno in LEADS_NOWHERE else verdicts.MOUNT_FAILED
        raise failed(error, verdict, "the list of bootseal.root= cannot be read", where) from error
    finally:
        os.close(sysroot_fd)
    if content is None:
        what = f"the list of bootseal.root= is larger than {_LIST_SIZE} bytes"
        raise Refusal(verdicts.NO_DEPLOYMENT, what, where, _LIST_HINT)
    return content


def _parse_list(content: bytes) -> tuple[Wish, ...]:
    """Return the wishes in a list. A line that is none is skipped, because a damaged list must not hide a good line."""
    found: list[Wish] = []
    for line in files.lines(content):
        key, _, value = line.strip(" \t\r").partition("=")
        try:
            wish = layouts.parse(key, value) if key in layouts.KEYS else None
        except ValueError:
            continue
        if wish and wish not in found:
            found.append(wish)
    return tuple(found[:_MAX_WISHES])
