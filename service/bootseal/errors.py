# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one way a boot is refused: a Refusal, raised by any stage, caught in boot.py alone."""

import errno
import os

from . import verdicts
from .verdicts import Verdict


class Refusal(Exception):
    """A boot that must not go on: which verdict, what was wrong, and where.

    `what` is one line without a trailing full stop; `path` is the file, directory or kernel argument that it is about.
    `details` are (name, value): what was compared with what.
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


# A disk that fails: the errors of the kernel's block layer, and a device that is gone (ENXIO). A filesystem whose structures
# make no sense (EUCLEAN, in the kernel EFSCORRUPTED) or have a wrong checksum (EBADMSG, in the kernel EFSBADCRC).
# Without ENODEV: it also means a filesystem that the kernel does not have.
DISK_FAILED = frozenset(
    {
        errno.EIO, errno.ETIMEDOUT, errno.ETIME, errno.ENOLINK, errno.EREMOTEIO, errno.EBADE, errno.ENODATA, errno.EILSEQ,
        errno.ENXIO, errno.EUCLEAN, errno.EBADMSG,
    }
)  # fmt: skip
# A machine that is short of memory or descriptors: the fault of neither the disk nor a path.
EXHAUSTED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE})
# A path that leads to nothing below the directory where it starts.
LEADS_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV})


def failed(error: OSError, verdict: Verdict, what: str, path: str) -> Refusal:
    """Return the Refusal for a failed system call: `io-error` for a failed disk, `mount-failed` for an exhausted machine.

    Any other errno gets `verdict`. Callers must first handle an errno of DISK_FAILED that means something else to them.
    """
    if error.errno in DISK_FAILED:
        verdict = verdicts.IO_ERROR
    elif error.errno in EXHAUSTED:
        verdict = verdicts.MOUNT_FAILED
    return Refusal(verdict, f"{what}: {reason(error)}", path)


def unreadable(error: OSError, bad: Verdict, path: str) -> Refusal:
    """Return the Refusal for a file that cannot be opened or read; fs-verity may be enabled on it.

    `bad` is the verdict for a file whose built-in signature the kernel rejects.
    """
    if error.errno in (errno.ENOKEY, errno.EKEYREJECTED):
        what = "fs-verity was enabled on it with a built-in signature that no kernel key made"
        return Refusal(bad, f"{what}: {reason(error)}", path)
    if error.errno in (errno.EOPNOTSUPP, errno.ENOPKG):
        return failed(error, verdicts.UNSUPPORTED, "the kernel lacks the fs-verity that the file needs", path)
    # fs-verity's words for its own metadata if they make no sense.
    damaged = error.errno in (errno.EINVAL, errno.EMSGSIZE)
    return failed(error, verdicts.IO_ERROR if damaged else verdicts.MOUNT_FAILED, "cannot be read", path)


def reason(error: OSError) -> str:
    """The error as 'Input/output error (EIO)'."""
    number = error.errno or 0
    return f"{os.strerror(number)} ({_NAMES.get(number, number)})"


# Of the two names that one number has on Linux, the one of the manual pages.
_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}


def printable(text: str) -> str:
    """The text without control, non-ASCII or surrogate characters: names from the disk reach a terminal."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
