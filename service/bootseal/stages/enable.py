# SPDX-License-Identifier: LGPL-2.1-or-later
"""Enable fs-verity on the digest file, with its signature built in: Method=fsverity.

A power cut may come at any instruction. The kernel enables fs-verity in place atomically; a file for which that is impossible
is replaced by rename (writable.py). If the superblock of the physical root is read-only, it is writable for that moment, while
the mount that others see stays read-only. After a kill, MARKER tells the clean-up to make the superblock read-only again.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from .. import paths, verdicts
from ..digest import BLOCK_SIZE, NUMBERS
from ..errors import Refusal
from ..formats import pkcs7
from ..linux import blockdev, files, fsverity, mountapi
from ..values import Deployment, Verified
from . import writable
from .writable import Writable

MARKER = paths.RUN + "/superblock-was-read-only"
_SECTOR = 512


class EnableFailed(Exception):
    """FS_IOC_ENABLE_VERITY failed with `error`."""

    def __init__(self, error: OSError) -> None:
        self.error = error


class CannotWrite(Exception):
    """The file or its filesystem cannot be written: the step that failed, and its error."""

    def __init__(self, step: str, error: OSError) -> None:
        self.step, self.error = step, error


def enroll(deployment: Deployment, verified: Verified, path: str) -> tuple[bool, int | None]:
    """Return whether fs-verity was enabled now, and how many bytes the device wrote, if known.

    Raises EnableFailed, CannotWrite, and Refusal `io-error` if the disk now gives another digest than it gave before.
    """
    name = paths.digest_of(deployment.pair.name)
    if _is_enabled(deployment.pair.fd, name, verified) and not _has_mark(deployment):
        return False, 0
    before = _count_bytes_written(deployment.sysroot_fd)
    with _make_writable(deployment, name) as where:
        _complete_replacement(deployment, where)
        if _is_readable(where.deployment, name, verified, path) and not _is_enabled(where.deployment, name, verified):
            _enable_in_place(where.deployment, name, verified)
        if not _is_enabled(where.deployment, name, verified):
            _replace(deployment, name, verified, where)
    after = _count_bytes_written(deployment.sysroot_fd)
    return True, None if before is None or after is None else after - before


def restore_read_only(sysroot: str = "/sysroot") -> None:
    """Make the superblock read-only again if a killed boot left it writable. Raises OSError."""
    if not os.path.exists(MARKER):
        return
    fd = os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mountapi.reconfigure(fd, "ro")
    finally:
        os.close(fd)
    os.unlink(MARKER)


def _is_enabled(dirfd: int, name: str, verified: Verified) -> bool:
    """Tell whether fs-verity is on, with this very signature. No verdict depends on it."""
    try:
        fd = files.open_regular(dirfd, name)
    except (OSError, files.NotRegular):
        return False
    try:
        number, value = fsverity.measure(fd)
        same = (number, value) == (NUMBERS[verified.signed.algorithm], verified.signed.value)
        return same and fsverity.stored_signature(fd, pkcs7.MAX_SIZE) == verified.signature
    except OSError as error:
        if error.errno in fsverity.ABSENT:
            return False
        raise CannotWrite("looking at the digest file", error) from error
    finally:
        os.close(fd)


def _is_readable(dirfd: int, name: str, verified: Verified, path: str) -> bool:
    """Tell whether the digest file can be opened. Raises Refusal if its bytes changed."""
    try:
        fd = files.open_regular(dirfd, name)
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


def _enable_in_place(dirfd: int, name: str, verified: Verified) -> None:
    with _step("opening the digest file"):
        fd = files.open_regular(dirfd, name)
    try:
        _enable(fd, verified)
        with _step("writing the digest file"):
            os.fsync(fd)
    except EnableFailed as failed:
        if failed.error.errno != errno.EEXIST:  # enabled with another signature, or without: enroll() replaces the file
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


def _replace(deployment: Deployment, name: str, verified: Verified, where: Writable) -> None:
    """Put a new file under the same name. The directory is immutable again afterwards if it was before.

    This needs no fsync in between: enabling has written the data, and filesystems with fs-verity keep the order of the rest.
    """
    try:
        _make_enabled(paths.new_of(deployment.path), verified, where.parent)
        _rename(deployment, name, where)
    except (EnableFailed, CannotWrite):
        with suppress(CannotWrite):  # the first error decides
            _complete_replacement(deployment, where)
        raise
    _complete_replacement(deployment, where)


def _make_enabled(new: str, verified: Verified, parent_fd: int) -> None:
    with _step("writing a new digest file"):
        _write(parent_fd, new, verified.digest.value)
        fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent_fd)
    try:
        _enable(fd, verified)
    finally:
        os.close(fd)


def _rename(deployment: Deployment, name: str, where: Writable) -> None:
    """Rename the new file. Its second name is the mark, made before the directory loses its flag."""
    new, mark = paths.new_of(deployment.path), paths.mark_of(deployment.path)
    with _step("replacing the digest file"):
        if files.is_immutable(where.deployment):
            os.link(new, mark, src_dir_fd=where.parent, dst_dir_fd=where.parent)
            files.set_immutable(where.deployment, immutable=False)
        os.rename(new, name, src_dir_fd=where.parent, dst_dir_fd=where.deployment)


def _complete_replacement(deployment: Deployment, where: Writable) -> None:
    """Do what is left after the rename, or after a cut or an error at any point before."""
    with _step("completing the replacement of the digest file"):
        writable.finish(where, deployment.path, restore=_has_mark(deployment), sync=False)


def _has_mark(deployment: Deployment) -> bool:
    path = os.path.join(os.path.dirname(deployment.path), paths.mark_of(deployment.path))
    try:
        fd = files.openat2(deployment.sysroot_fd, path, os.O_PATH | os.O_NOFOLLOW, files.CONFINED)
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
def _make_writable(deployment: Deployment, name: str) -> Iterator[Writable]:
    """Open the deployment for writing, and write it out after the block. Raises CannotWrite."""
    was_read_only = False
    try:
        with ExitStack() as stack:
            with _step("opening the deployment for writing"):
                where = stack.enter_context(writable.opened(deployment.sysroot_fd, deployment.path))
            with _step("making the filesystem writable for a moment"):
                if _superblock_is_read_only(where.top):
                    _make_superblock_writable(deployment.sysroot_fd)
                    was_read_only = True
            yield where
            if not was_read_only:  # to make it read-only again writes out everything
                _write_out(where.deployment, name)
    except BaseException:
        with suppress(CannotWrite):  # the first error decides: a refusal must not turn into something impossible
            _restore_superblock(deployment, was_read_only=was_read_only)
        raise
    _restore_superblock(deployment, was_read_only=was_read_only)


def _write_out(fd: int, name: str) -> None:
    """Write out the file, then the directory.

    On btrfs a directory's fsync brings names to the disk, but not what they name.
    """
    with _step("writing the directory"):
        file = files.open_regular(fd, name)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        os.fsync(fd)


def _restore_superblock(deployment: Deployment, *, was_read_only: bool) -> None:
    if was_read_only:
        with _step("making the filesystem read-only again"):
            mountapi.reconfigure(deployment.sysroot_fd, "ro")
            os.unlink(MARKER)


def _superblock_is_read_only(tree: int) -> bool:
    # opened() cleared the mount's own attribute, so this is the superblock's. access(2) would also fail in an immutable root.
    return bool(os.fstatvfs(tree).f_flag & os.ST_RDONLY)


def _make_superblock_writable(sysroot_fd: int) -> None:
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


def _count_bytes_written(fd: int) -> int | None:
    """Return how many bytes the block device behind a descriptor has written; None if unknown."""
    try:
        device = blockdev.number(fd)
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat", encoding="utf-8") as file:
            return int(file.read().split()[6]) * _SECTOR
    except OSError:
        return None
