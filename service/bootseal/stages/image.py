# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a Pinned image: open it, and compare its enforced fs-verity digest with the Verified one."""

import errno
import os

from .. import verdicts
from ..digest import SIZES, Digest
from ..errors import Refusal, failed, unreadable
from ..linux import files, fsverity, mountapi
from ..values import Deployment, Entry, Pinned, Verified

# The kernel itself implements the fs-verity of these. Another filesystem (FUSE, network) could answer anything.
FILESYSTEMS = ("ext4", "btrfs", "f2fs")


def pin(deployment: Deployment, verified: Verified) -> Pinned:
    """Return the open image if the kernel enforces the verified digest for it, and that is the one that was asked for.

    Raises Refusal: `no-image`, `bad-image`, `image-unsealed`, `image-mismatch`, `unsupported`, `io-error`, `mount-failed`.
    """
    path = deployment.image.path
    fd = _open(deployment.image)
    size = os.fstat(fd).st_size
    if size == 0:
        raise Refusal(verdicts.BAD_IMAGE, "empty", path)
    compare(_measure(fd, path), deployment, verified)
    return Pinned(verified, fd, path, size)


def compare(found: Digest, deployment: Deployment, verified: Verified) -> None:
    """Raise Refusal `image-mismatch` unless a digest of the image is the one that was asked for and the verified one."""
    path = deployment.image.path
    if deployment.wished not in ("", found.value.hex()):
        what = f"the image has the digest {found}, asked for was {deployment.wished}"
        details = (("image has", str(found)), ("asked for", deployment.wished))
        raise Refusal(verdicts.IMAGE_MISMATCH, what, path, details=details)
    if found != verified.digest:
        what = f"the image has the digest {found}, signed is {verified.digest}"
        details = (("image has", str(found)), ("signed is", str(verified.digest)))
        raise Refusal(verdicts.IMAGE_MISMATCH, what, path, details=details)


def enforced_digest(image: Entry) -> Digest:
    """Return the digest that the kernel enforces for an image. Raises Refusal as pin does."""
    fd = _open(image)
    try:
        return _measure(fd, image.path)
    finally:
        os.close(fd)


def _open(image: Entry) -> int:
    try:
        return files.open_regular(image.fd, image.name)
    except FileNotFoundError as error:
        raise Refusal(verdicts.NO_IMAGE, "missing", image.path) from error
    except files.NotRegular as error:
        raise Refusal(verdicts.BAD_IMAGE, "not a regular file", image.path) from error
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise failed(error, verdicts.BAD_IMAGE, "a link or no directory on the way to it", image.path) from error
        raise unreadable(error, verdicts.BAD_IMAGE, image.path) from error


def _find_filesystem(fd: int, path: str) -> str:
    try:
        return mountapi.mount_of(fd).fstype
    except LookupError as error:  # in a chroot, say
        raise Refusal(verdicts.UNSUPPORTED, "the mount table of this process does not have its filesystem", path) from error


def _measure(fd: int, path: str) -> Digest:
    fstype = _find_filesystem(fd, path)
    if fstype not in FILESYSTEMS:
        raise Refusal(verdicts.UNSUPPORTED, f"{fstype} has no fs-verity that can be relied on", path)
    try:
        number, value = fsverity.measure(fd)
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise Refusal(verdicts.IMAGE_UNSEALED, "fs-verity is not enabled on the image", path) from error
        verdict = verdicts.UNSUPPORTED if error.errno in fsverity.UNSUPPORTED else verdicts.IMAGE_MISMATCH
        raise failed(error, verdict, f"the kernel gives no fs-verity digest on this {fstype}", path) from error
    algorithm = fsverity.ALGORITHMS.get(number, "")
    if SIZES.get(algorithm) != len(value):
        what = f"an fs-verity digest of {len(value)} bytes with algorithm number {number}"
        raise Refusal(verdicts.IMAGE_MISMATCH, what, path)
    return Digest(algorithm, value)
