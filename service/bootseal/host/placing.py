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
from ..values import DIGEST_FILE, Entry
from . import carriers, deployments, imagedigest, inside, layouts, objects, pairs, sidecars
from .checker import Checker
from .deployed import Deployed, Where
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
    where = _find(sysroot, deployed)
    content = _find_pair(wish, sysroot, deployed, where, checker)
    with _locked(), _open_writable(sysroot, deployed, offline=wish.offline) as opened:
        changed = not wish.offline and _seal(opened, deployed, where, digest.from_bytes(content.digest))
        if wish.seal_objects:
            changed |= _seal_objects(opened, where)
        return _put(opened, deployed, where, content) or changed


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
    with contextlib.suppress(OSError, Refusal):
        where = layouts.of(deployed.layout).where(deployed.path, sysroot)
        with inside.opened(sysroot, deployed.path) as directory, inside.opened(sysroot, where.image_place) as images:
            present = sidecars.read(sidecars.Place(directory, where.pair, directory, ""))
            fd = objects.open_file(where.image, images)
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


def _find(sysroot: str, deployed: Deployed) -> Where:
    """Find the deployment's files. Raises Failure, Refusal."""
    try:
        return layouts.of(deployed.layout).where(deployed.path, sysroot)
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to find the image of {deployed.name}", error) from error


def _find_pair(wish: Wish, sysroot: str, deployed: Deployed, where: Where, checker: Checker) -> sidecars.Pair:
    """Find digest and signature, and verify them as the boot does, before anything is written. Raises Failure, Refusal."""
    try:
        with inside.opened(sysroot, deployed.path) as directory, inside.opened(sysroot, where.image_place) as images:
            os.stat(where.image, dir_fd=images, follow_symlinks=False)
            image = Entry(images, where.image, where.image_path)
            image_digest = _compute(wish.digest_file, image)
            found = _find_signatures(wish.signature_file, sysroot, deployed, directory, image_digest, where)
    except FileNotFoundError as error:
        raise Refusal(verdicts.NO_IMAGE, "missing", where.image_path) from error
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to open the image {where.image_path}", error) from error
    trusted, forms = checker.keyring(deployed), _find_forms(checker, deployed)

    def accept(one: carriers.Found) -> sidecars.Pair:
        pairs.check(pairs.Given(image_digest.value, one.signature, where.image_path, one.where, forms), trusted)
        return sidecars.Pair(image_digest.value, one.signature)

    return carriers.first_accepted(found, accept)


def _find_forms(checker: Checker, deployed: Deployed) -> tuple[str, ...]:
    """Return what the boot lets a signature cover; a configuration that it refuses has its own verdict later."""
    with contextlib.suppress(Refusal):
        return checker.policy(deployed).signed
    return (DIGEST_FILE,)


def _compute(digest_file: str | None, image: Entry) -> Digest:
    """Compute the digest of the deployment's image, and compare it with the digest file that was given. Raises Failure."""
    if not digest_file:
        return imagedigest.compute(image.path, _choose_algorithm(image), verdicts.NO_IMAGE.hint, image)
    wanted = imagedigest.read(digest_file)
    computed = imagedigest.compute(image.path, wanted.algorithm, verdicts.NO_IMAGE.hint, image)
    if wanted != computed:
        hint = "sign the image of this very deployment: two commits of the same tree may give two images"
        what = f"Failed to deploy: {image.path} has the digest {computed}, but the signature is for {wanted}"
        raise Failure(DATA, what, hint)
    return computed


def _choose_algorithm(image: Entry) -> str:
    """Return the algorithm that fs-verity enforces for the image already, that of its name, or ostree's."""
    with contextlib.suppress(OSError):
        fd = objects.open_file(image.name, image.fd)
        try:
            return fsverity.ALGORITHMS.get(fsverity.measure(fd)[0], "sha256")
        finally:
            os.close(fd)
    return imagedigest.algorithm_of(image.path)


def _find_signatures(
    given: str | None, sysroot: str, deployed: Deployed, directory: int, image_digest: Digest, where: Where
) -> list[carriers.Found]:
    """Return the signature that was given, or else those that came along, and the one in place. Raises Failure, Refusal."""
    if given:
        return [carriers.Found(given, inside.read_named(given, "the signature", pkcs7.MAX_SIZE))]
    layout = layouts.of(deployed.layout)
    found = carriers.usable(layout.signatures(deployed.path, image_digest.value, sysroot, deployments.list_boots(sysroot)))
    present = sidecars.read(sidecars.Place(directory, where.pair, directory, ""))
    if present and present.digest == image_digest.value:
        found.append(carriers.Found(paths.signature_of(where.pair_path), present.signature))
    if not found:
        what, hint = layout.unsigned(deployed.path)
        raise Refusal(verdicts.NO_SIGNATURE, what, where.image_path, hint)
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


def _put(opened: Writable, deployed: Deployed, where: Where, content: sidecars.Pair) -> bool:
    """Write the pair, and sync the deployment. Returns False if the pair was there already."""
    place = sidecars.Place(opened.deployment, where.pair, opened.parent, paths.work_prefix(deployed.path))
    try:
        writable.complete(opened, deployed.path)
        sidecars.clear(place)
        present = sidecars.read(place) == content
        if not present:
            immutable = pairs.is_immutable(opened.deployment)
            with (
                sidecars.staged(place, content),
                writable.mutable(opened, deployed.path) if immutable else contextlib.nullcontext(),
            ):
                sidecars.install(place, content)
        sync(opened.deployment)
    except OSError as error:
        hint = "remount the filesystem: 'mount -o remount,rw'" if error.errno == errno.EROFS else ""
        what = f"Failed to write {paths.digest_of(where.pair_path)} and {paths.signature_of(where.pair_path)}"
        raise os_failure(CANNOT_CREATE, what, error, hint) from error
    return not present


def sync(fd: int) -> None:
    """Call syncfs(2): an earlier run may have been killed after its last write and before its fsync. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _seal(opened: Writable, deployed: Deployed, where: Where, wanted: Digest) -> bool:
    """Enable fs-verity on the image. Returns False if it was on.

    Raises Failure, and Refusal for another digest.
    """
    path = where.image_path
    try:
        with _opened_below(opened, where.image_place) as directory:
            changed = objects.enable(where.image, directory, wanted.algorithm)
            fd = objects.open_file(where.image, directory)
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


def _seal_objects(opened: Writable, where: Where) -> bool:
    """Enable fs-verity on the image's objects. Returns False if it was on. Raises Failure."""
    try:
        with _opened_below(opened, where.objects) as directory, _opened_below(opened, where.image_place) as images:
            store = objects.Store(directory)
            with open(objects.open_file(where.image, images), "rb") as file:
                unsealed = store.check(file.fileno()).unsealed
            store.seal(unsealed, directory)
    except OSError as error:
        raise os_failure(OS_ERROR, "Failed to check the objects", error) from error
    return bool(unsealed)


@contextlib.contextmanager
def _opened_below(opened: Writable, place: str) -> Iterator[int]:
    """Open a directory through the writable clone. Raises OSError."""
    directory = files.open_directory(opened.top, place)
    try:
        yield directory
    finally:
        os.close(directory)
