# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check a digest and its signature as the boot does, wherever they come from."""

from typing import NamedTuple

from .. import paths
from ..errors import Refusal
from ..stages import verify
from ..values import BootKeyring, Unverified, Verified


class Given(NamedTuple):
    """A digest, its signature, and names for their origins, which a refusal shows."""

    digest: bytes
    signature: bytes
    digest_name: str
    signature_name: str


def as_unverified(given: Given) -> Unverified:
    """Return what the boot would have read."""
    return Unverified(given.digest, stands_in=False, signature=given.signature, image_path=paths.IMAGE)


def check(given: Given, keyring: BootKeyring) -> Verified:
    """Verify as the boot does. Raises Refusal, which names the origin."""
    try:
        return verify.verify(as_unverified(given), keyring)
    except Refusal as refusal:
        names = {paths.digest_of(paths.IMAGE): given.digest_name, paths.signature_of(paths.IMAGE): given.signature_name}
        path = names.get(refusal.path, refusal.path)
        raise Refusal(refusal.verdict, refusal.what, path, refusal.hint, details=tuple(refusal.details)) from refusal
