# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put digest and signature beside a deployment's image, and enable fs-verity on it; write nothing that the boot refuses."""

import contextlib
import ctypes
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from .. import digest, paths, verdicts
from ..digest import Digest
from ..errors import Refusal
from ..formats import pkcs7
from ..linux import files, fsverity
from ..stages import writable
from ..stages.writable import Writable
from . import carriers, deployments, imagedigest, inside, objects, pairs, sidecars
from .checker import Checker
from .deployments import Deployed
from .output import CANNOT_CREATE, DATA, IO_ERROR, OS_ERROR, Failure, os_failure

_PATIENCE = 60  # seconds; placing takes less than one


class Wish(NamedTuple):
    """Options of the user: files with digest and signature; seal the objects as well; seal nothing (`offline`)."""

    digest_file: str | None = None
    signature_file: str | None = None
    seal_objects: bool = False
    offline: bool = False


def place(sysroot: str, deployed: Deployed, checker: Checker, wish: Wish) -> bool:
    """Complete a deployment. Returns False if there was nothing to change. Raises Failure, Refusal."""
    path = paths.image_of(deployed.path, sysroot)
    content = _find_pair(wish, sysroot, deployed, checker)
    with _locked(), _open_writable(sysroot, deployed, offline=wish.offline) as where:
        changed = not wish.offline and _seal(where, deployed, digest.from_bytes(content.digest), path)
        if wish.seal_objects:
            changed |= _seal_objects(where)
        return _put(where, deployed, content, path) or changed


def attempt(sysroot: str, deployed: Deployed, checker: Checker, wish: Wish) -> Failure | None:
    """Complete a deployment as place() does, or return why that is impossible."""
    try:
        place(sysroot, deployed, checker, wish)
    except Refusal as refusal:
        return Failure(refusal.verdict.exit_status, str(refusal), refusal.hint)
    except Failure as failure:
        return failure
    return None


def is_placed(sysroot: str, deployed: Deployed) -> bool:
    """Tell whether a pair is in place, its digest is the one that the kernel enforces, and no killed run left anything.

    It is a cheap look, and no verdict.
    """
    work = paths.work_prefix(deployed.path)
    with contextlib.suppress(OSError), inside.opened(sysroot, os.path.dirname(deployed.path)) as parent:
        if any(name.startswith(work) for name in inside.list_names(parent, ".")):
            return False
    with contextlib.suppress(OSError), inside.opened(sysroot, deployed.path) as directory:
        present = sidecars.read(sidecars.Place(directory, paths.IMAGE, directory, ""))
        fd = objects.open_file(paths.IMAGE, directory)
        try:
            return present is not None and fsverity.measure(fd)[1] == present.digest
        finally:
            os.close(fd)
    return False


def remove_orphans(sysroot: str) -> None:
    """Remove what a killed run left beside a deployment that is gone; a read-only filesystem keeps it."""
    orphans = deployments.find_orphans(sysroot)
    if not orphans:
        return
    with contextlib.suppress(OSError, Failure), _locked():
        for path in orphans:
            with writable.opened_below(sysroot, os.path.dirname(path)) as where:
                os.unlink(os.path.basename(path), dir_fd=where.deployment)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Keep other processes from placing. Raises Failure when another one has been at work for too long.

    Root alone can open the file, because any process that opens a file can lock it.
    """
    path = os.path.join(paths.RUN, "lock")
    try:
        os.makedirs(paths.RUN, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # not root, who alone can change a running system
        yield
        return
    try:
        _wait_for_lock(fd, path)
        yield
    finally:
        os.close(fd)


def _wait_for_lock(fd: int, path: str) -> None:
    for _ in range(_PATIENCE):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(1)
    raise Failure(CANNOT_CREATE, f"Failed to lock {path}: another 'bootseal deploy' is at work", "run it again later")


def _find_pair(wish: Wish, sysroot: str, deployed: Deployed, checker: Checker) -> sidecars.Pair:
    """Find digest and signature, and verify them as the boot does, before anything is written. Raises Failure, Refusal."""
    path = paths.image_of(deployed.path, sysroot)
    try:
        with inside.opened(sysroot, deployed.path) as directory:
            os.stat(paths.IMAGE, dir_fd=directory, follow_symlinks=False)
            image_digest = _compute(wish.digest_file, _choose_algorithm(directory), directory, path)
            found = _find_signatures(wish.signature_file, sysroot, deployed, directory, image_digest)
    except FileNotFoundError as error:
        raise Refusal(verdicts.NO_IMAGE, "missing", path) from error
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to open the image {path}", error) from error
    trusted = checker.keyring(deployed)

    def accept(one: carriers.Found) -> sidecars.Pair:
        pairs.check(pairs.Given(image_digest.value, one.signature, path, one.where), trusted)
        return sidecars.Pair(image_digest.value, one.signature)

    return carriers.first_accepted(found, accept)


def _compute(digest_file: str | None, algorithm: str, directory: int, path: str) -> Digest:
    """Compute the digest of the deployment's image, and compare it with the digest file that was given. Raises Failure."""
    if not digest_file:
        return imagedigest.compute(path, algorithm, verdicts.NO_IMAGE.hint, directory)
    wanted = imagedigest.read(digest_file)
    computed = imagedigest.compute(path, wanted.algorithm, verdicts.NO_IMAGE.hint, directory)
    if wanted != computed:
        hint = "sign the image of this very deployment: two commits of the same tree may give two images"
        raise Failure(DATA, f"Failed to deploy: {path} has the digest {computed}, but the signature is for {wanted}", hint)
    return computed


def _choose_algorithm(directory: int) -> str:
    """Return the algorithm that fs-verity enforces for the image already, or ostree's."""
    with contextlib.suppress(OSError):
        fd = objects.open_file(paths.IMAGE, directory)
        try:
            return fsverity.ALGORITHMS.get(fsverity.measure(fd)[0], "sha256")
        finally:
            os.close(fd)
    return "sha256"


def _find_signatures(
    given: str | None, sysroot: str, deployed: Deployed, directory: int, image_digest: Digest
) -> list[carriers.Found]:
    """Return the signature that was given, or else the commit's, and the one that is in place. Raises Failure, Refusal."""
    if given:
        return [carriers.Found(given, inside.read_named(given, "the signature", pkcs7.MAX_SIZE))]
    commit = carriers.Commit(sysroot, paths.REPOSITORY, deployed.parts[1])
    found = carriers.usable([*commit.signatures(), *carriers.in_tree(directory, image_digest.value)])
    present = sidecars.read(sidecars.Place(directory, paths.IMAGE, directory, ""))
    if present and present.digest == image_digest.value:
        found.append(carriers.Found(paths.signature_of(paths.image_of(deployed.path, sysroot)), present.signature))
    if not found:
        hint = "sign the commit: 'bootseal sign --repo=', or give a signature with --signature="
        what = f"the commit {deployed.parts[1][:12]} carries no signature"
        raise Refusal(verdicts.NO_SIGNATURE, what, paths.image_of(deployed.path, sysroot), hint)
    return found


@contextlib.contextmanager
def _open_writable(sysroot: str, deployed: Deployed, *, offline: bool) -> Iterator[Writable]:
    """Open the deployment for writing. Raises Failure."""
    try:
        with (_opened_as_it_is if offline else writable.opened_below)(sysroot, deployed.path) as where:
            yield where
    except OSError as error:
        hint = "run as root" if isinstance(error, PermissionError) else ""
        raise os_failure(CANNOT_CREATE, f"Failed to write below {sysroot}", error, hint) from error
    except writable.Busy as error:
        what = f"Failed to change the deployment {os.path.basename(deployed.path)}: another 'bootseal deploy' is at work"
        raise Failure(CANNOT_CREATE, what, "run it again when the other one has ended") from error


@contextlib.contextmanager
def _opened_as_it_is(sysroot: str, deployment: str) -> Iterator[Writable]:
    """Open a tree that is writable already: a container may not mount. Raises OSError."""
    with contextlib.ExitStack() as stack:
        fds = []
        for path in (".", os.path.dirname(deployment), deployment):
            place = stack.enter_context(inside.opened(sysroot, path))
            fds.append(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place))
            stack.callback(os.close, fds[-1])
        yield Writable(*fds)


def _put(where: Writable, deployed: Deployed, content: sidecars.Pair, path: str) -> bool:
    """Write the pair, and sync the deployment. Returns False if the pair was there already."""
    place = sidecars.Place(where.deployment, paths.IMAGE, where.parent, paths.work_prefix(deployed.path))
    try:
        writable.complete(where, deployed.path)
        sidecars.clear(place)
        present = sidecars.read(place) == content
        if not present:
            immutable = pairs.is_immutable(where.deployment)
            with (
                sidecars.staged(place, content),
                writable.mutable(where, deployed.path) if immutable else contextlib.nullcontext(),
            ):
                sidecars.install(place, content)
        sync(where.deployment)
    except OSError as error:
        hint = "remount the filesystem: 'mount -o remount,rw'" if error.errno == errno.EROFS else ""
        what = f"Failed to write {paths.digest_of(path)} and {paths.signature_of(path)}"
        raise os_failure(CANNOT_CREATE, what, error, hint) from error
    return not present


def sync(fd: int) -> None:
    """Call syncfs(2): an earlier run may have been killed after its last write and before its fsync. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _seal(where: Writable, deployed: Deployed, wanted: Digest, path: str) -> bool:
    """Enable fs-verity on the image. Returns False if it was on.

    Raises Failure, and Refusal for another digest.
    """
    try:
        changed = objects.enable(paths.IMAGE, where.deployment, wanted.algorithm)
        fd = objects.open_file(paths.IMAGE, where.deployment)
        try:
            number, value = fsverity.measure(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise os_failure(OS_ERROR, f"Failed to enable fs-verity on {path}", error, objects.hint(error)) from error
    enforced = Digest(fsverity.ALGORITHMS.get(number, ""), value)
    if enforced != wanted:
        hint = f"deploy {deployed.name} again, or sign its image with --algorithm={enforced.algorithm}"
        raise Refusal(
            verdicts.IMAGE_MISMATCH, f"fs-verity already enforces {enforced}, but the signature is for {wanted}", path, hint
        )
    return changed


def _seal_objects(where: Writable) -> bool:
    """Enable fs-verity on the image's objects. Returns False if it was on. Raises Failure."""
    try:
        directory = files.open_directory(where.top, paths.OBJECTS)
        try:
            store = objects.Store(directory)
            with open(objects.open_file(paths.IMAGE, where.deployment), "rb") as file:
                unsealed = store.check(file.fileno()).unsealed
            store.seal(unsealed, directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise os_failure(OS_ERROR, "Failed to check the objects", error) from error
    return bool(unsealed)
