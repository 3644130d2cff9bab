# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 4: Deployment -> Candidate. Reads digest and signature once, bounded; believes nothing."""

import errno
import os
from collections.abc import Callable

from .. import digest, verdicts
from ..digest import Digest
from ..errors import Refusal, unreadable
from ..formats import pkcs7
from ..linux import files
from ..values import Deployment, Unverified
from ..verdicts import Verdict

IMAGE = ".ostree.cfs"
# The digest file was enrolled with a key that is gone (or was changed): it cannot be opened any more, not even to read. So it
# is with a signature in it that this kernel cannot parse or calculate, say after a step back to an older one. Here EBADMSG may
# also be a wrong checksum of the file's inode: the image's digest must be signed in either case.
_BARRED_BY_SIGNATURE = frozenset({errno.ENOKEY, errno.EKEYREJECTED, errno.EBADMSG, errno.ENOPKG})


def read(deployment: Deployment, image_digest: Callable[[], Digest], sysroot: str = "/sysroot") -> Unverified:
    """Raises Refusal: `no-digest`, `no-signature`, `bad-digest`, `bad-signature`, `unsupported`, `io-error`, `mount-failed`.

    `image_digest` gives the digest that the kernel enforces for the image; it stands in for a digest file that can no
    longer be opened, and has to be signed just the same.
    """
    image_path = f"{sysroot}/{deployment.path}/{IMAGE}"
    limit = max(digest.SIZES.values())
    try:
        content: bytes | None = _read(deployment.fd, ".digest", limit, verdicts.NO_DIGEST, verdicts.BAD_DIGEST, image_path)
    except Unopenable:
        content = None
    signature = _read(deployment.fd, ".sig", pkcs7.MAX_SIZE, verdicts.NO_SIGNATURE, verdicts.BAD_SIGNATURE, image_path)
    return Unverified(
        digest=image_digest().value if content is None else content,
        stands_in=content is None,
        signature=signature,
        image_path=image_path,
    )


class Unopenable(Exception):
    """fs-verity refuses to open the file because of its built-in signature."""


def _read(dirfd: int, suffix: str, limit: int, absent: Verdict, bad: Verdict, image_path: str) -> bytes:
    path = image_path + suffix
    try:
        fd = files.open_regular(dirfd, IMAGE + suffix)
        try:
            content = files.read_bounded(fd, limit)
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise Refusal(absent, "missing", path) from error
    except files.NotRegular as error:
        raise Refusal(bad, "not a regular file", path) from error
    except OSError as error:
        if suffix == ".digest" and error.errno in _BARRED_BY_SIGNATURE:
            raise Unopenable from error
        raise unreadable(error, bad, path) from error
    if content is None:
        raise Refusal(bad, f"larger than {limit} bytes", path)
    return content
