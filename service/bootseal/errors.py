# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one way a boot is refused: a Refusal, raised by any stage, caught in boot.py alone."""

import errno
import os

from . import messages
from .messages import Verdict


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


# What a disk answers when it fails, or when its own structures or fs-verity's hashes do not add up.
DISK_FAILED = frozenset({errno.EIO, errno.EUCLEAN, errno.EREMOTEIO, errno.ENODATA, errno.ETIMEDOUT, errno.ENXIO})


def failed(error: OSError, verdict: Verdict, what: str, path: str) -> Refusal:
    """The Refusal for a system call that failed: `io-error` when it was the disk, `verdict` otherwise.

    ENODATA counts as a failed disk (the block layer's answer to a medium error): callers that expect it handle it first.
    """
    if error.errno in DISK_FAILED:
        verdict = messages.IO_ERROR
    return Refusal(verdict, f"{what}: {reason(error)}", path)


def reason(error: OSError) -> str:
    """The error as 'Input/output error (EIO)'."""
    number = error.errno or 0
    return f"{os.strerror(number)} ({_NAMES.get(number, number)})"


# Of the two names that one number has on Linux, the one of the manual pages.
_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}


def printable(text: str) -> str:
    """The text without control, non-ASCII or surrogate characters: names from the disk reach a terminal."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
