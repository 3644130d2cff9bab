# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal deploy: digest and signature beside a deployment's image, fs-verity on it, and nothing that would not boot."""

import argparse
import errno
import os

from ... import digest, verdicts
from ...digest import Digest
from ...errors import Refusal, printable
from ...formats import pkcs7
from ...linux import files, fsverity
from ...stages import image, verify
from ...values import BootKeyring, Unverified
from .. import deployments as sysroots
from .. import imagedigest, inside, mutable, objects, sidecars
from ..deployments import Found
from ..mutable import Writable
from ..output import CANNOT_CREATE, DATA, NO_INPUT, OS_ERROR, Failure, emit, note, os_failure
from . import gate
from . import verify as check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--digest",
        metavar="FILE",
        help="the digest file that 'bootseal sign' made (default: computed from the deployment's image)",
    )
    parser.add_argument("--signature", metavar="FILE", required=True, help="the signature that 'bootseal sign' made")
    parser.add_argument(
        "--objects", action="store_true", help="switch on fs-verity on the image's objects, too, where it is off"
    )
    check.add_source_arguments(parser)


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    sysroot = os.path.abspath(arguments.sysroot or sysroots.default_sysroot())
    found = sysroots.choose(sysroot, arguments.deployment)
    path = os.path.join(sysroot, found.path, image.IMAGE)
    content = _pair(arguments, sysroot, found, path)
    checker = check.Checker(sysroot, arguments)
    _refuse_untrusted(checker, found, content, path)
    with mutable.writable(sysroot, found.path) as writable:
        changed = _seal(writable, found, digest.from_bytes(content.digest), path)
        if arguments.objects:
            changed |= _seal_objects(writable)
        changed |= _put(writable, found, content, path)
    record = checker.check(found)
    if found.state == "staged":
        gate.look_again()
    emit(
        record | {"changed": changed},
        arguments.json,
        f"{printable(found.name)}: {record['verdict']}{'' if changed else ' (nothing to change)'}",
    )
    if record["exit_status"]:
        raise Failure(
            record["exit_status"], f"Failed to deploy {found.name}: it would not boot: {record['message']}", record["hint"]
        )
    for line in record["missing"]:
        note(f"missing: {line}")
    return 0


def _pair(arguments: argparse.Namespace, sysroot: str, found: Found, image_path: str) -> sidecars.Pair:
    """What is to be put beside the image, and that it belongs to this image."""
    try:
        with inside.opened(sysroot, found.path) as directory:
            return _matching(arguments, directory, image_path)
    except OSError as error:
        raise os_failure(NO_INPUT, f"Failed to open the image {image_path}", error, verdicts.NO_IMAGE.hint) from error


def _matching(arguments: argparse.Namespace, directory: int, image_path: str) -> sidecars.Pair:
    computed = imagedigest.compute(image_path, "sha256", verdicts.NO_IMAGE.hint, directory)
    signature = _content(arguments.signature, "the signature", pkcs7.MAX_SIZE)
    given = _content(arguments.digest, "the digest", 64) if arguments.digest else computed.value
    try:
        wanted = digest.from_bytes(given)
    except ValueError as error:
        raise Failure(DATA, f"Failed to use the digest {arguments.digest}: {error}") from error
    if wanted.algorithm != computed.algorithm:
        computed = imagedigest.compute(image_path, wanted.algorithm, verdicts.NO_IMAGE.hint, directory)
    if wanted != computed:
        hint = "sign the image of this very deployment: two commits of the same tree may give two images"
        raise Failure(DATA, f"Failed to deploy: the image {image_path} has the digest {computed}, signed is {wanted}", hint)
    return sidecars.Pair(given, signature)


def _content(path: str, what: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise os_failure(NO_INPUT, f"Failed to read {what} {path}", error) from error
    if len(content) > limit:
        raise Failure(DATA, f"Failed to use {what} {path}: larger than {limit} bytes")
    return content


def _refuse_untrusted(checker: check.Checker, found: Found, content: sidecars.Pair, path: str) -> None:
    """The boot's own check, before anything is written. Raises Refusal."""
    keyring = checker.keyring(found)
    verify.verify(
        Unverified(content.digest, stands_in=False, signature=content.signature, image_path=path),
        BootKeyring(keyring.certificates, ()),
    )


def _put(writable: Writable, found: Found, content: sidecars.Pair, path: str) -> bool:
    """Write the pair unless it is there, and all of the run to the disk. False if the pair was there."""
    place = sidecars.Place(writable.deployment, image.IMAGE, writable.parent, mutable.prefix(found.path))
    try:
        mutable.complete(writable, place.prefix)
        sidecars.clear(place)
        present = sidecars.read(place) == content
        if not present:
            with sidecars.staged(place, content), mutable.mutable(writable, place.prefix):
                sidecars.install(place, content)
        mutable.sync(writable.deployment)
    except OSError as error:
        raise os_failure(CANNOT_CREATE, f"Failed to write {path}.digest and {path}.sig", error, _write_hint(error)) from error
    return not present


def _write_hint(error: OSError) -> str:
    return "the filesystem itself is mounted read-only: 'mount -o remount,rw' it" if error.errno == errno.EROFS else ""


def _seal(writable: Writable, found: Found, wanted: Digest, path: str) -> bool:
    try:
        changed = objects.enable(image.IMAGE, writable.deployment, wanted.algorithm)
        fd = objects.open_file(image.IMAGE, writable.deployment)
        try:
            number, value = fsverity.measure(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise os_failure(OS_ERROR, f"Failed to enable fs-verity on {path}", error, objects.hint(error)) from error
    enforced = Digest(fsverity.ALGORITHMS.get(number, ""), value)
    if enforced != wanted:
        hint = f"deploy {found.name} again, or sign its image with --algorithm={enforced.algorithm}"
        raise Refusal(verdicts.IMAGE_MISMATCH, f"fs-verity enforces {enforced} already, signed is {wanted}", path, hint)
    return changed


def _seal_objects(writable: Writable) -> bool:
    directory = files.open_directory(writable.top, "ostree/repo/objects")
    try:
        store = objects.Store(directory)
        with open(objects.open_file(image.IMAGE, writable.deployment), "rb") as file:
            unsealed = store.check(file.fileno()).unsealed
        store.seal(unsealed, directory)
    except OSError as error:
        raise os_failure(OS_ERROR, "Failed to look at the objects", error) from error
    finally:
        os.close(directory)
    return bool(unsealed)
