# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal deploy: put digest and signature beside a deployment's image, and enable fs-verity on it.

It writes nothing that the boot would refuse.
"""

import argparse
import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator

from ... import digest, paths, verdicts
from ...digest import Digest
from ...errors import Refusal, printable
from ...formats import pkcs7
from ...linux import files, fsverity
from ...stages import verify, writable
from ...stages.writable import Writable
from ...values import BootKeyring, Unverified
from .. import arguments as shared
from .. import deployments, gateunits, imagedigest, inside, objects, sidecars
from ..checker import Checker
from ..deployments import Deployed
from ..output import CANNOT_CREATE, DATA, OS_ERROR, Failure, emit, error, note, os_failure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--digest",
        metavar="FILE",
        help="the digest file that 'bootseal sign' made (default: computed from the deployment's image)",
    )
    parser.add_argument("--signature", metavar="FILE", required=True, help="the signature that 'bootseal sign' made")
    parser.add_argument("--objects", action="store_true", help="also enable fs-verity on the image's objects where it is off")
    shared.add_source_arguments(parser)


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    """Complete a deployment, and return the exit status. Raises Failure, Refusal."""
    sysroot = shared.sysroot(arguments)
    deployed = deployments.choose(sysroot, arguments.deployment)
    path = paths.image_of(deployed.path, sysroot)
    content = _make_pair(arguments, sysroot, deployed, path)
    checker = Checker(sysroot, shared.key_source(arguments))
    _refuse_untrusted(checker, deployed, content, arguments.signature)
    with _open_writable(sysroot, deployed) as where:
        changed = _seal(where, deployed, digest.from_bytes(content.digest), path)
        if arguments.objects:
            changed |= _seal_objects(where)
        changed |= _put(where, deployed, content, path)
    record = checker.check(deployed)
    if deployed.state == "staged":
        gateunits.look_again()
    text = f"{printable(deployed.name)}: {record['verdict']}{'' if changed else ' (nothing to change)'}"
    emit(record | {"changed": changed}, arguments.json, text)
    if record["exit_status"]:
        error(f"Deployment {deployed.name} would not boot: {record['message']}", record["hint"])
        return int(record["exit_status"])
    for line in record["missing"]:
        note(f"missing: {line}")
    return 0


def _make_pair(arguments: argparse.Namespace, sysroot: str, deployed: Deployed, image_path: str) -> sidecars.Pair:
    """Read or compute digest and signature, and check that the digest is this image's. Raises Failure."""
    try:
        with inside.opened(sysroot, deployed.path) as directory:
            return _match(arguments, directory, image_path)
    except OSError as error:
        raise os_failure(
            verdicts.NO_IMAGE.exit_status, f"Failed to open the image {image_path}", error, verdicts.NO_IMAGE.hint
        ) from error


def _match(arguments: argparse.Namespace, directory: int, image_path: str) -> sidecars.Pair:
    computed = imagedigest.compute(image_path, "sha256", verdicts.NO_IMAGE.hint, directory)
    signature = inside.read_named(arguments.signature, "the signature", pkcs7.MAX_SIZE)
    given = inside.read_named(arguments.digest, "the digest", 64) if arguments.digest else computed.value
    try:
        wanted = digest.from_bytes(given)
    except ValueError as error:
        raise Failure(DATA, f"Failed to use the digest {arguments.digest}: {error}") from error
    if wanted.algorithm != computed.algorithm:
        computed = imagedigest.compute(image_path, wanted.algorithm, verdicts.NO_IMAGE.hint, directory)
    if wanted != computed:
        hint = "sign the image of this very deployment: two commits of the same tree may give two images"
        raise Failure(
            DATA, f"Failed to deploy: {image_path} has the digest {computed}, but the signature is for {wanted}", hint
        )
    return sidecars.Pair(given, signature)


def _refuse_untrusted(checker: Checker, deployed: Deployed, content: sidecars.Pair, signature: str) -> None:
    """Verify as the boot does, before anything is written. Raises Refusal that names the given `signature`."""
    keyring = checker.keyring(deployed)
    unverified = Unverified(content.digest, stands_in=False, signature=content.signature, image_path=paths.IMAGE)
    try:
        verify.verify(unverified, BootKeyring(keyring.certificates, ()))
    except Refusal as refusal:
        raise Refusal(refusal.verdict, refusal.what, signature, refusal.hint, details=tuple(refusal.details)) from refusal


@contextlib.contextmanager
def _open_writable(sysroot: str, deployed: Deployed) -> Iterator[Writable]:
    """Open the deployment for writing. Raises Failure."""
    try:
        with writable.opened_below(sysroot, deployed.path) as where:
            yield where
    except PermissionError as error:
        raise os_failure(CANNOT_CREATE, f"Failed to write below {sysroot}", error, "run as root") from error
    except writable.Busy as error:
        what = f"Failed to change the deployment {os.path.basename(deployed.path)}: another 'bootseal deploy' is at work"
        raise Failure(CANNOT_CREATE, what, "run it again when the other one has ended") from error


def _put(where: Writable, deployed: Deployed, content: sidecars.Pair, path: str) -> bool:
    """Write the pair, and sync the deployment. Returns False if the pair was there already."""
    place = sidecars.Place(where.deployment, paths.IMAGE, where.parent, paths.work_prefix(deployed.path))
    try:
        writable.complete(where, deployed.path)
        sidecars.clear(place)
        present = sidecars.read(place) == content
        if not present:
            with sidecars.staged(place, content), writable.mutable(where, deployed.path):
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
    directory = files.open_directory(where.top, paths.OBJECTS)
    try:
        store = objects.Store(directory)
        with open(objects.open_file(paths.IMAGE, where.deployment), "rb") as file:
            unsealed = store.check(file.fileno()).unsealed
        store.seal(unsealed, directory)
    except OSError as error:
        raise os_failure(OS_ERROR, "Failed to check the objects", error) from error
    finally:
        os.close(directory)
    return bool(unsealed)
