# SPDX-License-Identifier: LGPL-2.1-or-later
"""Install IMAGE.digest and IMAGE.sig together or not at all.

Both are complete and on the disk under other names before either gets its own. Signals wait during the two renames, and an
error undoes them. The signature goes first: if the power fails between the renames, the digest is missing or still the old
one. The boot refuses both by name. For an unchanged digest (a new signature for the same image) one rename is enough.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple

from ..formats.pkcs7 import MAX_SIZE
from ..paths import DIGEST_SUFFIX, SIGNATURE_SUFFIX
from . import objects


class Pair(NamedTuple):
    digest: bytes
    signature: bytes


class Place(NamedTuple):
    """Where a pair belongs: beside `name` in `directory`.

    It is written in `staging`, on the same filesystem, as `prefix`.
    """

    directory: int
    name: str
    staging: int
    prefix: str


def read(place: Place) -> Pair | None:
    """Read the pair; None unless both files can be read."""
    try:
        return Pair(_content(place, DIGEST_SUFFIX), _content(place, SIGNATURE_SUFFIX))
    except OSError:
        return None


def clear(place: Place) -> None:
    """Remove the leftovers of a killed run.

    Unlinks only what exists, because the filesystem may be read-only.
    """
    names = [place.prefix + suffix + kind for suffix in (DIGEST_SUFFIX, SIGNATURE_SUFFIX) for kind in (".new", ".old")]
    for name in names:
        with suppress(FileNotFoundError):
            # By name, because fs-verity files may not open.
            os.stat(name, dir_fd=place.staging, follow_symlinks=False)
            os.unlink(name, dir_fd=place.staging)


@contextmanager
def staged(place: Place, pair: Pair) -> Iterator[None]:
    """Write the pair to `staging` for install(), and remove leftovers after the block. Raises OSError."""
    clear(place)
    try:
        for suffix, content in ((DIGEST_SUFFIX, pair.digest), (SIGNATURE_SUFFIX, pair.signature)):
            _write(place.staging, place.prefix + suffix + ".new", content)
        os.fsync(place.staging)
        yield
    finally:
        clear(place)


def install(place: Place, pair: Pair) -> None:
    """Move the staged pair into place, durably. Raises OSError after restoring the previous files."""
    with _signals_wait():
        done: list[str] = []
        try:
            for suffix in _find_changes(place, pair):
                _exchange(place, suffix)
                done.append(suffix)
            os.fsync(place.directory)
        except OSError:
            _take_back(place, done)
            raise


def _find_changes(place: Place, pair: Pair) -> tuple[str, ...]:
    """Return the suffixes to replace. Syncs a digest that stays, whoever wrote it."""
    try:
        with _opened(place, DIGEST_SUFFIX) as file:
            if file.read(MAX_SIZE + 1) == pair.digest:
                os.fsync(file.fileno())
                return (SIGNATURE_SUFFIX,)
    except OSError:  # also if the key that enrolled the digest file is gone
        pass
    return (SIGNATURE_SUFFIX, DIGEST_SUFFIX)


def _take_back(place: Place, done: list[str]) -> None:
    for suffix in reversed(done):
        _restore(place, suffix)
    with suppress(OSError):  # install() raises the first error
        os.fsync(place.directory)


def _exchange(place: Place, suffix: str) -> None:
    with suppress(FileNotFoundError):
        _keep(place, suffix)
    new = place.prefix + suffix + ".new"
    os.rename(new, place.name + suffix, src_dir_fd=place.staging, dst_dir_fd=place.directory)


def _keep(place: Place, suffix: str) -> None:
    """Keep the present file under another name.

    A copy does where hard links are impossible or not permitted.
    """
    fds = {"src_dir_fd": place.directory, "dst_dir_fd": place.staging}
    try:
        os.link(place.name + suffix, _old(place, suffix), follow_symlinks=False, **fds)
    except FileNotFoundError:
        raise
    except OSError:
        _write(place.staging, _old(place, suffix), _content(place, suffix))


def _restore(place: Place, suffix: str) -> None:
    try:
        os.rename(_old(place, suffix), place.name + suffix, src_dir_fd=place.staging, dst_dir_fd=place.directory)
    except FileNotFoundError:
        os.unlink(place.name + suffix, dir_fd=place.directory)


def _old(place: Place, suffix: str) -> str:
    return place.prefix + suffix + ".old"


def _content(place: Place, suffix: str) -> bytes:
    with _opened(place, suffix) as file:
        return file.read(MAX_SIZE + 1)


def _opened(place: Place, suffix: str) -> BinaryIO:
    return open(objects.open_file(place.name + suffix, place.directory), "rb")


def _write(directory: int, name: str, content: bytes) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o644, dir_fd=directory), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _signals_wait() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
