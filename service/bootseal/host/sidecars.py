# SPDX-License-Identifier: LGPL-2.1-or-later
"""IMAGE.digest and IMAGE.sig on disk, the one never without the other.

Both are complete and on the disk under other names before either gets its own; signals wait while that happens, and an error
takes it back. The signature goes first: if the power fails just between, there is either no digest or still the old one, and
both are refused at boot by name. With an unchanged digest (a new signature for the same image) there is one rename, so nothing
in between.
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
    """Where a pair belongs: beside `name` in `directory`; written in `staging`, on the same filesystem, under `prefix`."""

    directory: int
    name: str
    staging: int
    prefix: str


def read(place: Place) -> Pair | None:
    """The pair that is there; None unless both can be read."""
    try:
        return Pair(_content(place, DIGEST_SUFFIX), _content(place, SIGNATURE_SUFFIX))
    except OSError:
        return None


def clear(place: Place) -> None:
    """Removes what a run that was cut has left. What is not there is not asked for: the filesystem may be read-only."""
    names = [place.prefix + suffix + kind for suffix in (DIGEST_SUFFIX, SIGNATURE_SUFFIX) for kind in (".new", ".old")]
    for name in names:
        with suppress(FileNotFoundError):
            # By name, never by opening: these may be fs-verity files that cannot be opened.
            os.stat(name, dir_fd=place.staging, follow_symlinks=False)
            os.unlink(name, dir_fd=place.staging)


@contextmanager
def staged(place: Place, pair: Pair) -> Iterator[None]:
    """Writes the pair beside its place; install() puts it there. What is left of it goes away at the end."""
    clear(place)
    try:
        for suffix, content in ((DIGEST_SUFFIX, pair.digest), (SIGNATURE_SUFFIX, pair.signature)):
            _write(place.staging, place.prefix + suffix + ".new", content)
        os.fsync(place.staging)
        yield
    finally:
        clear(place)


def install(place: Place, pair: Pair) -> None:
    """Puts the staged pair in place, durably. Raises OSError; then what was there before is there again."""
    with _signals_wait():
        done: list[str] = []
        try:
            for suffix in _changing(place, pair):
                _exchange(place, suffix)
                done.append(suffix)
            os.fsync(place.directory)
        except OSError:
            _take_back(place, done)
            raise


def _changing(place: Place, pair: Pair) -> tuple[str, ...]:
    """A digest that stays is on the disk from here on, whoever wrote it."""
    try:
        with _opened(place, DIGEST_SUFFIX) as file:
            if file.read(MAX_SIZE + 1) == pair.digest:
                os.fsync(file.fileno())
                return (SIGNATURE_SUFFIX,)
    except OSError:  # also a digest file that was enrolled with a key that is gone
        pass
    return (SIGNATURE_SUFFIX, DIGEST_SUFFIX)


def _take_back(place: Place, done: list[str]) -> None:
    for suffix in reversed(done):
        _restore(place, suffix)
    with suppress(OSError):  # the first error is the one that counts
        os.fsync(place.directory)


def _exchange(place: Place, suffix: str) -> None:
    with suppress(FileNotFoundError):
        _keep(place, suffix)
    new = place.prefix + suffix + ".new"
    os.rename(new, place.name + suffix, src_dir_fd=place.staging, dst_dir_fd=place.directory)


def _keep(place: Place, suffix: str) -> None:
    """What is there, under another name. A copy where there are no hard links, or none to another user's files."""
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
