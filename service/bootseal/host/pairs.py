# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check a digest and its signature as the boot does, wherever they come from, and write them beside an image."""

import contextlib
import os
from typing import NamedTuple

from .. import paths
from ..errors import Refusal
from ..linux import files
from ..stages import verify
from ..values import DIGEST_FILE, BootKeyring, Unverified, Verified
from . import sidecars
from .output import CANNOT_CREATE, Failure, os_failure


class Given(NamedTuple):
    """A digest, its signature, names for their origins, which a refusal shows, and what the signature may cover."""

    digest: bytes
    signature: bytes
    digest_name: str
    signature_name: str
    forms: tuple[str, ...] = (DIGEST_FILE,)


def as_unverified(given: Given) -> Unverified:
    """Return what the boot would have read."""
    return Unverified(given.digest, stands_in=False, signature=given.signature, pair_path=paths.PAIR, forms=given.forms)


def check(given: Given, keyring: BootKeyring) -> Verified:
    """Verify as the boot does. Raises Refusal, which names the origin."""
    try:
        return verify.verify(as_unverified(given), keyring)
    except Refusal as refusal:
        names = {paths.digest_of(paths.PAIR): given.digest_name, paths.signature_of(paths.PAIR): given.signature_name}
        path = names.get(refusal.path, refusal.path)
        raise Refusal(refusal.verdict, refusal.what, path, refusal.hint, details=tuple(refusal.details)) from refusal


def write(image: str, content: sidecars.Pair, *, keep_other: bool) -> None:
    """Write both files beside the image. Raises Failure, with `keep_other` also if they are there for another digest."""
    directory, name = os.path.split(image)
    hint = ""
    try:
        fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if is_immutable(fd):
                hint = "a deployment's directory is immutable: sign a copy of the image, and use 'bootseal deploy'"
            place = sidecars.Place(fd, name, fd, f".{name}.bootseal")
            if keep_other and (there := sidecars.read(place)) and there.digest != content.digest:
                what = f"Failed to write {paths.signature_of(image)}: {paths.digest_of(image)} exists with another digest"
                raise Failure(CANNOT_CREATE, what, "give the path of the image that has this digest, or remove both files")
            with sidecars.staged(place, content):
                sidecars.install(place, content)
        finally:
            os.close(fd)
    except OSError as error:
        what = f"Failed to write {paths.digest_of(image)} and {paths.signature_of(image)}"
        raise os_failure(CANNOT_CREATE, what, error, hint) from error


def is_immutable(fd: int) -> bool:
    """Tell whether the flag is set; on a filesystem without flags it is not."""
    with contextlib.suppress(OSError):
        return files.is_immutable(fd)
    return False
