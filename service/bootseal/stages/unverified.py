# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read digest and signature of a Deployment once, bounded, into an Unverified."""

import errno
import os

from .. import digest, paths, verdicts
from ..digest import Digest
from ..errors import Refusal, unreadable
from ..formats import pkcs7
from ..linux import files
from ..values import DIGEST_FILE, IMAGE, Deployment, Entry, Unverified
from ..verdicts import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# fs-verity refuses to open a digest file, even to read it, if the key that enabled it is gone or changed. So it does if this
# kernel cannot parse or calculate the built-in signature, say after a downgrade. EBADMSG may also be a wrong checksum of the
# file's inode. In every case the image's digest must be signed.
_BARRED_BY_SIGNATURE = frozenset({errno.ENOKEY, errno.EKEYREJECTED, errno.EBADMSG, errno.ENOPKG})


def read(deployment: Deployment, image_digest: "Callable[[], Digest]", signed: tuple[str, ...] = (DIGEST_FILE,)) -> Unverified:
    """Read both files; without a digest file, if the signature of the image itself counts (`signed`).

    `image_digest` returns the digest that the kernel enforces for the image. It replaces the content of a digest file that
    cannot be opened. The signature must then cover it like that content.

    Raises Refusal: `no-digest`, `no-signature`, `bad-digest`, `bad-signature`, `unsupported`, `io-error`, `mount-failed`.
    """
    content, forms = None, signed
    if DIGEST_FILE in signed:
        try:
            content = _read_digest(deployment.pair)
        except Refusal as refusal:
            if IMAGE not in signed or refusal.verdict is not verdicts.NO_DIGEST:
                raise
            forms = (IMAGE,)
    limits = pkcs7.MAX_SIZE, verdicts.NO_SIGNATURE, verdicts.BAD_SIGNATURE
    signature = _read(deployment.pair, paths.SIGNATURE_SUFFIX, *limits)
    return Unverified(
        digest=image_digest().value if content is None else content,
        stands_in=content is None and DIGEST_FILE in forms,
        signature=signature,
        pair_path=deployment.pair.path,
        forms=forms,
    )


def _read_digest(pair: Entry) -> bytes | None:
    """Return the content of the digest file, or None if fs-verity refuses to open it. Raises Refusal."""
    limit = max(digest.SIZES.values())
    try:
        return _read(pair, paths.DIGEST_SUFFIX, limit, verdicts.NO_DIGEST, verdicts.BAD_DIGEST)
    except Refusal as refusal:
        if isinstance(refusal.__cause__, OSError) and refusal.__cause__.errno in _BARRED_BY_SIGNATURE:
            return None
        raise


def _read(pair: Entry, suffix: str, limit: int, absent: Verdict, bad: Verdict) -> bytes:
    path = pair.path + suffix
    try:
        fd = files.open_regular(pair.fd, pair.name + suffix)
        try:
            content = files.read_bounded(fd, limit)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise Refusal(absent, "missing", path) from error
    except files.NotRegular as error:
        raise Refusal(bad, "not a regular file", path) from error
    except OSError as error:
        raise unreadable(error, bad, path) from error
    if content is None:
        raise Refusal(bad, f"larger than {limit} bytes", path)
    return content
