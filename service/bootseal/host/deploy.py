# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal deploy: digest and signature beside a deployment's image, fs-verity on it, and nothing that would not boot."""

import argparse
import contextlib
import errno
import os
from collections.abc import Iterator
from typing import NamedTuple

from .. import cms, digest, image, messages, verify
from ..digest import Digest
from ..errors import Refusal, printable
from ..linux import files, fsverity, mountapi
from ..values import BootKeyring, Candidate
from . import check, gate, imagefile, inside, objects, pair
from . import sysroot as sysroots
from .output import CANNOT_CREATE, DATA, NO_INPUT, OS_ERROR, Failure, emit, note, os_failure
from .sysroot import Found


class Writable(NamedTuple):
    """Descriptors through which the physical root can be written, also where others see it read-only."""

    top: int
    parent: int
    deployment: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "deployment",
        nargs="?",
        metavar="DEPLOYMENT",
        help="checksum or its beginning, pending, or booted (default: what boots next)",
    )
    parser.add_argument(
        "--digest",
        metavar="FILE",
        help="the digest file that 'bootseal sign' made (default: computed from the deployment's image)",
    )
    parser.add_argument("--signature", metavar="FILE", required=True, help="the signature that 'bootseal sign' made")
    parser.add_argument(
        "--objects", action="store_true", help="switch on fs-verity on the image's objects, too, where it is off"
    )
    parser.add_argument("--sysroot", metavar="DIR", help="physical root (default: the running system's)")
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--initrd", metavar="FILE", help="initrd or UKI whose keys must accept the signature (default: the deployment's own)"
    )
    keys.add_argument("--keys", metavar="DIR", help="directory with certificates to use instead")
    keys.add_argument("--system-keys", action="store_true", help="certificates and configuration of the running system")


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    sysroot = os.path.abspath(arguments.sysroot or sysroots.default_sysroot())
    found = sysroots.choose(sysroot, arguments.deployment)
    path = os.path.join(sysroot, found.path, image.IMAGE)
    content = _pair(arguments, sysroot, found, path)
    checker = check.Checker(sysroot, arguments)
    _refuse_untrusted(checker, found, content, path)
    with _writable(sysroot, found) as writable:
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


def _pair(arguments: argparse.Namespace, sysroot: str, found: Found, image_path: str) -> pair.Pair:
    """What is to be put beside the image, and that it belongs to this image."""
    try:
        with inside.opened(sysroot, found.path) as directory:
            return _matching(arguments, directory, image_path)
    except OSError as error:
        raise os_failure(NO_INPUT, f"Failed to open the image {image_path}", error, messages.NO_IMAGE.hint) from error


def _matching(arguments: argparse.Namespace, directory: int, image_path: str) -> pair.Pair:
    computed = imagefile.compute(image_path, "sha256", messages.NO_IMAGE.hint, directory)
    signature = _content(arguments.signature, "the signature", cms.MAX_SIZE)
    given = _content(arguments.digest, "the digest", 64) if arguments.digest else computed.value
    try:
        wanted = digest.from_bytes(given)
    except ValueError as error:
        raise Failure(DATA, f"Failed to use the digest {arguments.digest}: {error}") from error
    if wanted.algorithm != computed.algorithm:
        computed = imagefile.compute(image_path, wanted.algorithm, messages.NO_IMAGE.hint, directory)
    if wanted != computed:
        hint = "sign the image of this very deployment: two commits of the same tree may give two images"
        raise Failure(DATA, f"Failed to deploy: the image {image_path} has the digest {computed}, signed is {wanted}", hint)
    return pair.Pair(given, signature)


def _content(path: str, what: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise os_failure(NO_INPUT, f"Failed to read {what} {path}", error) from error
    if len(content) > limit:
        raise Failure(DATA, f"Failed to use {what} {path}: larger than {limit} bytes")
    return content


def _refuse_untrusted(checker: check.Checker, found: Found, content: pair.Pair, path: str) -> None:
    """The boot's own check, before anything is written. Raises Refusal."""
    keyring = checker.keyring(found)
    verify.verify(
        Candidate(content.digest, stands_in=False, signature=content.signature, image_path=path),
        BootKeyring(keyring.certificates, ()),
    )


@contextlib.contextmanager
def _writable(sysroot: str, found: Found) -> Iterator[Writable]:
    """A private copy of the mount, made writable: /sysroot itself may stay read-only for everybody else."""
    opened: list[int] = []
    try:
        top = os.open(sysroot, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(top)
        tree = mountapi.clone(top)
        opened.append(tree)
        mountapi.set_attributes(tree, clear=mountapi.MOUNT_ATTR_RDONLY)
        for place in (os.path.dirname(found.path), found.path):
            flags = os.O_RDONLY | os.O_DIRECTORY
            opened.append(files.openat2(tree, place, flags, files.CONFINED | files.RESOLVE_NO_SYMLINKS))
        yield Writable(tree, opened[2], opened[3])
    except PermissionError as error:
        raise os_failure(CANNOT_CREATE, f"Failed to write below {sysroot}", error, "run as root") from error
    finally:
        for fd in opened:
            os.close(fd)


def _put(writable: Writable, found: Found, content: pair.Pair, path: str) -> bool:
    """Writes the pair unless it is there. False if there was nothing to do."""
    place = pair.Place(writable.deployment, image.IMAGE, writable.parent, f".bootseal-{os.path.basename(found.path)}")
    try:
        _complete(writable, place.prefix)
        pair.clear(place)
        if pair.read(place) == content:
            return False
        with pair.staged(place, content), _mutable(writable, place.prefix):
            pair.install(place, content)
    except OSError as error:
        raise os_failure(CANNOT_CREATE, f"Failed to write {path}.digest and {path}.sig", error, _write_hint(error)) from error
    return True


def _write_hint(error: OSError) -> str:
    return "the filesystem itself is mounted read-only: 'mount -o remount,rw' it" if error.errno == errno.EROFS else ""


@contextlib.contextmanager
def _mutable(writable: Writable, prefix: str) -> Iterator[None]:
    """A deployment's top directory is immutable, and is so again afterwards: a mark in its parent says so after a power cut."""
    immutable = files.is_immutable(writable.deployment)
    if immutable:
        with contextlib.suppress(FileExistsError):  # O_EXCL: what is there is neither followed nor opened
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(_mark(prefix), flags, 0o600, dir_fd=writable.parent))
        os.fsync(writable.parent)
        files.set_immutable(writable.deployment, immutable=False)
    try:
        yield
    finally:
        if immutable:
            _complete(writable, prefix)


def _complete(writable: Writable, prefix: str) -> None:
    """Makes the directory immutable again if it was before; also what a cut run left to do."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(_mark(prefix), dir_fd=writable.parent, follow_symlinks=False)
        files.set_immutable(writable.deployment, immutable=True)
        os.fsync(writable.deployment)
        os.unlink(_mark(prefix), dir_fd=writable.parent)
        os.fsync(writable.parent)


def _mark(prefix: str) -> str:
    # The name that builtin.py uses: a boot with Method=fsverity completes it, too.
    return prefix + ".immutable"


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
        raise Refusal(messages.IMAGE_MISMATCH, f"fs-verity enforces {enforced} already, signed is {wanted}", path, hint)
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
