# SPDX-License-Identifier: LGPL-2.1-or-later
"""Define Refusal, by which any stage refuses a boot, and turn errors of system calls into one."""

import errno
import os

from . import verdicts
from .verdicts import Verdict


class Refusal(Exception):
    """A boot that must not continue.

    `what` is one line without a full stop; `path` is the file, directory or kernel argument concerned. `details` are pairs of
    name and value, such as the digest and the signer that were compared.
    """

    def __init__(
        self, verdict: Verdict, what: str, path: str, hint: str = "", *, details: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.verdict = verdict
        self.what = printable(what)
        self.path = printable(path)
        self.hint = printable(hint or verdict.hint)
        self.details = [(name, printable(value)) for name, value in details]
        super().__init__(f"refused ({verdict.name}): {self.what}: {self.path}")


# A failing disk: the errors of the kernel's block layer, and a device that is gone (ENXIO). A corrupted filesystem: EUCLEAN
# (EFSCORRUPTED in the kernel), or EBADMSG for a wrong checksum (EFSBADCRC). Without ENODEV, which also means that the kernel
# lacks a filesystem.
DISK_FAILED = frozenset(
    {
        errno.EIO, errno.ETIMEDOUT, errno.ETIME, errno.ENOLINK, errno.EREMOTEIO, errno.EBADE, errno.ENODATA, errno.EILSEQ,
        errno.ENXIO, errno.EUCLEAN, errno.EBADMSG,
    }
)  # fmt: skip
# A machine out of memory or descriptors: neither the disk nor the path is at fault.
EXHAUSTED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
# A path that does not lead to anything below the directory where it starts.
LEADS_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV})


def failed(error: OSError, verdict: Verdict, what: str, path: str) -> Refusal:
    """Return the Refusal for a failed system call.

    A failing disk gets `io-error`, a machine out of resources `mount-failed`, any other errno `verdict`. Callers must first
    handle an errno of DISK_FAILED that means something else to them.
    """
    if error.errno in DISK_FAILED:
        verdict = verdicts.IO_ERROR
    elif error.errno in EXHAUSTED:
        verdict = verdicts.MOUNT_FAILED
    return Refusal(verdict, f"{what}: {reason(error)}", path)


def unreadable(error: OSError, bad: Verdict, path: str) -> Refusal:
    """Return the Refusal for a file, possibly with fs-verity, that cannot be opened or read.

    `bad` is the verdict for a file whose built-in signature the kernel rejects.
    """
    if error.errno in (errno.ENOKEY, errno.EKEYREJECTED):
        what = "fs-verity was enabled on it with a built-in signature that no kernel key made"
        return Refusal(bad, f"{what}: {reason(error)}", path)
    if error.errno in (errno.EOPNOTSUPP, errno.ENOPKG):
        return failed(error, verdicts.UNSUPPORTED, "the kernel lacks the fs-verity that the file needs", path)
    # How fs-verity reports that its own metadata is corrupted.
    damaged = error.errno in (errno.EINVAL, errno.EMSGSIZE)
    return failed(error, verdicts.IO_ERROR if damaged else verdicts.MOUNT_FAILED, "cannot be read", path)


def reason(error: OSError) -> str:
    """Format an error as in 'Input/output error (EIO)'."""
    number = error.errno or 0
    return f"{os.strerror(number)} ({_NAMES.get(number, number)})"


# One number has two names on Linux. The manual pages use this one.
_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}


def printable(text: str) -> str:
    """Escape control, non-ASCII and surrogate characters, because names from the disk reach a terminal."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
