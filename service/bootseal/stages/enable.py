# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 6, method fsverity: the digest file gets fs-verity with its signature built in, once.

Power may go at any instruction: enabling in place is atomic (the kernel sees to it), and a file that cannot be enabled in
place is replaced by rename. The physical root may be mounted read-only: its superblock is made writable for that moment
only, while the mount that others see stays read-only; MARKER tells the clean-up after a kill to make it read-only again.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .. import verdicts
from ..digest import BLOCK_SIZE, NUMBERS
from ..errors import Refusal
from ..linux import blockdev, files, fsverity, mountapi
from ..values import Deployment, Verified

FILE = ".ostree.cfs.digest"
MARKER = "/run/bootseal/superblock-was-read-only"
_SECTOR = 512


class EnableFailed(Exception):
    """FS_IOC_ENABLE_VERITY failed with `error`."""

    def __init__(self, error: OSError) -> None:
        self.error = error


class CannotWrite(Exception):
    """The file or its filesystem cannot be written: what was being done, and the errno."""

    def __init__(self, step: str, error: OSError) -> None:
        self.step, self.error = step, error


def enroll(deployment: Deployment, verified: Verified, path: str) -> tuple[bool, int | None]:
    """(whether it was done now, bytes written to the device if that can be told).

    Raises EnableFailed, CannotWrite, and Refusal `io-error` if the disk now gives another digest than it gave before.
    """
    if _done(deployment.fd, verified) and not _pending(deployment):
        return False, 0
    before = _bytes_written(deployment.sysroot_fd)
    with _writable(deployment) as (parent_fd, fd):
        _complete_replacement(deployment, parent_fd, fd)
        if _openable(fd, verified, path) and not _done(fd, verified):
            _enable_in_place(fd, verified)
        if not _done(fd, verified):
            _replace(deployment, verified, parent_fd, fd)
    after = _bytes_written(deployment.sysroot_fd)
    return True, None if before is None or after is None else after - before


def restore_read_only(sysroot: str = "/sysroot") -> None:
    """After a kill: makes the superblock read-only again if it was us who made it writable. Raises OSError."""
    if not os.path.exists(MARKER):
        return
    fd = os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mountapi.reconfigure(fd, "ro")
    finally:
        os.close(fd)
    os.unlink(MARKER)


def _done(dirfd: int, verified: Verified) -> bool:
    """Whether fs-verity is on, with just this signature. The kernel's answers come from the disk: nothing rests on them."""
    try:
        fd = files.open_regular(dirfd, FILE)
    except (OSError, files.NotRegular):
        return False
    try:
        number, value = fsverity.measure(fd)
        same = (number, value) == (NUMBERS[verified.signed.algorithm], verified.signed.value)
        return same and fsverity.stored_signature(fd) == verified.signature
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP):
            return False
        raise CannotWrite("looking at the digest file", error) from error
    finally:
        os.close(fd)


def _openable(dirfd: int, verified: Verified, path: str) -> bool:
    """Whether the digest file can be read. Raises Refusal when it holds other bytes than were verified."""
    try:
        fd = files.open_regular(dirfd, FILE)
    except (OSError, files.NotRegular):
        return False
    try:
        content = files.read_bounded(fd, len(verified.digest.value))
    except OSError as error:
        raise CannotWrite("reading the digest file again", error) from error
    finally:
        os.close(fd)
    if content != verified.digest.value:
        raise Refusal(verdicts.IO_ERROR, "the disk gives another digest than a moment ago", path)
    return True


def _enable_in_place(dirfd: int, verified: Verified) -> None:
    with _step("opening the digest file"):
        fd = files.open_regular(dirfd, FILE)
    try:
        _enable(fd, verified)
        with _step("writing the digest file"):
            os.fsync(fd)
    except EnableFailed as failed:
        if failed.error.errno != errno.EEXIST:  # enabled before with another signature, or none: to be replaced
            raise
    finally:
        os.close(fd)


def _enable(fd: int, verified: Verified) -> None:
    arguments = (fd, NUMBERS[verified.signed.algorithm], BLOCK_SIZE, verified.signature)
    try:
        try:
            fsverity.enable(*arguments)
        except InterruptedError:
            fsverity.enable(*arguments)
    except OSError as error:
        raise EnableFailed(error) from error


def _replace(deployment: Deployment, verified: Verified, parent_fd: int, fd: int) -> None:
    """A new inode under the same name. The deployment's directory is immutable, and is so again afterwards.

    No fsync is needed between: enabling has written the data, and filesystems with fs-verity keep the order of all the rest.
    """
    try:
        _make_enrolled(_names(deployment)[0], verified, parent_fd)
        _rename(deployment, parent_fd, fd)
    except (EnableFailed, CannotWrite):
        with suppress(CannotWrite):  # the first error is the one that counts
            _complete_replacement(deployment, parent_fd, fd)
        raise
    _complete_replacement(deployment, parent_fd, fd)


def _make_enrolled(new: str, verified: Verified, parent_fd: int) -> None:
    with _step("writing a new digest file"):
        _write(parent_fd, new, verified.digest.value)
        made = os.open(new, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent_fd)
    try:
        _enable(made, verified)
    finally:
        os.close(made)


def _rename(deployment: Deployment, parent_fd: int, fd: int) -> None:
    """A second name for the new file stands in the parent directory as long as the directory may have lost its flag."""
    new, pending = _names(deployment)
    with _step("replacing the digest file"):
        if files.is_immutable(fd):
            os.link(new, pending, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
            files.set_immutable(fd, immutable=False)
        os.rename(new, FILE, src_dir_fd=parent_fd, dst_dir_fd=fd)


def _complete_replacement(deployment: Deployment, parent_fd: int, fd: int) -> None:
    """What is left to do after the rename, or after a cut or an error at any point before: the flag, and our two names."""
    with _step("completing the replacement of the digest file"):
        new, pending = _names(deployment)
        if _pending(deployment) and not files.is_immutable(fd):
            files.set_immutable(fd, immutable=True)
        for name in (new, pending):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent_fd)


def _names(deployment: Deployment) -> tuple[str, str]:
    base = f".bootseal-{deployment.checksum}.{deployment.serial}"
    return base + ".new", base + ".immutable"


def _pending(deployment: Deployment) -> bool:
    parent = os.path.dirname(deployment.path)
    try:
        fd = files.openat2(
            deployment.sysroot_fd, f"{parent}/{_names(deployment)[1]}", os.O_PATH | os.O_NOFOLLOW, files.CONFINED
        )
    except OSError:
        return False
    os.close(fd)
    return True


def _write(dirfd: int, name: str, content: bytes) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o644, dir_fd=dirfd)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


@contextmanager
def _writable(deployment: Deployment) -> Iterator[tuple[int, int]]:
    """Writable descriptors of the directory above the deployment and of the deployment's own."""
    with _step("making the filesystem writable for a moment"):
        tree = mountapi.clone(deployment.sysroot_fd)
        mountapi.set_attributes(tree, clear=mountapi.MOUNT_ATTR_RDONLY)
        was_read_only = _superblock_is_read_only(tree)
        if was_read_only:
            _make_writable(deployment.sysroot_fd)
    try:
        with _directories(deployment, tree) as opened:
            yield opened
            if not was_read_only:  # to be made read-only again writes it all out
                _write_out(opened[1])
    except BaseException:
        with suppress(CannotWrite):  # what went wrong before decides: a refusal must not turn into something impossible
            _close(tree, deployment, was_read_only=was_read_only)
        raise
    _close(tree, deployment, was_read_only=was_read_only)


def _write_out(fd: int) -> None:
    """The file first: on btrfs a directory's fsync brings names to the disk, and not what they name."""
    with _step("writing the directory"):
        file = files.open_regular(fd, FILE)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        os.fsync(fd)


@contextmanager
def _directories(deployment: Deployment, tree: int) -> Iterator[tuple[int, int]]:
    opened: list[int] = []
    try:
        with _step("opening the deployment for writing"):
            for path in (os.path.dirname(deployment.path), deployment.path):
                resolve = files.CONFINED | files.RESOLVE_NO_SYMLINKS
                opened.append(files.openat2(tree, path, os.O_RDONLY | os.O_DIRECTORY, resolve))
        yield opened[0], opened[1]
    finally:
        for fd in opened:
            os.close(fd)


def _close(tree: int, deployment: Deployment, *, was_read_only: bool) -> None:
    os.close(tree)
    if was_read_only:
        with _step("making the filesystem read-only again"):
            mountapi.reconfigure(deployment.sysroot_fd, "ro")
            os.unlink(MARKER)


def _superblock_is_read_only(tree: int) -> bool:
    # The mount's own attribute is cleared, so this is the superblock's. Not access(2): a physical root may be immutable.
    return bool(os.fstatvfs(tree).f_flag & os.ST_RDONLY)


def _make_writable(sysroot_fd: int) -> None:
    os.makedirs(os.path.dirname(MARKER), exist_ok=True)
    os.close(os.open(MARKER, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        mountapi.reconfigure(sysroot_fd, "rw")
    except OSError:
        os.unlink(MARKER)
        raise


@contextmanager
def _step(step: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(step, error) from error


def _bytes_written(fd: int) -> int | None:
    """Bytes that the block device behind a descriptor has written since it is there; None where that cannot be told."""
    try:
        device = blockdev.number(fd)
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat", encoding="ascii") as file:
            return int(file.read().split()[6]) * _SECTOR
    except OSError:
        return None
