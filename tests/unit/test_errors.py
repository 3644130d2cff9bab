# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test errors.py: the text of a Refusal, and the verdict for each errno."""

import errno

import pytest

from bootseal import verdicts
from bootseal.errors import Refusal, failed, printable, reason, unreadable
from unit.support import EVERY_ERRNO, errno_name, oserror

DISK = {
    errno.EIO, errno.ETIMEDOUT, errno.ETIME, errno.ENOLINK, errno.EREMOTEIO, errno.EBADE, errno.ENODATA, errno.EILSEQ,
    errno.ENXIO, errno.EUCLEAN, errno.EBADMSG,
}  # fmt: skip
EXHAUSTED = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}
UNREADABLE = (
    dict.fromkeys((*DISK, errno.EINVAL, errno.EMSGSIZE), "io-error")
    | {errno.ENOKEY: "bad-image", errno.EKEYREJECTED: "bad-image"}
    | {errno.EOPNOTSUPP: "unsupported", errno.ENOPKG: "unsupported"}
)


def test_refusal_is_formatted() -> None:
    assert str(Refusal(verdicts.NO_IMAGE, "missing", "/x")) == "refused (no-image): missing: /x"


def test_hint_defaults_to_that_of_the_verdict() -> None:
    assert Refusal(verdicts.NO_IMAGE, "missing", "/x").hint == verdicts.NO_IMAGE.hint
    assert Refusal(verdicts.NO_IMAGE, "missing", "/x", "do that").hint == "do that"


@pytest.mark.parametrize("number", EVERY_ERRNO, ids=errno.errorcode.get)
def test_failed_chooses_the_verdict(number: int) -> None:
    found = failed(oserror(number), verdicts.NO_IMAGE, "cannot do it", "/x")
    expected = "io-error" if number in DISK else "mount-failed" if number in EXHAUSTED else "no-image"
    assert (found.verdict.name, found.path) == (expected, "/x")
    assert f"({errno_name(number)})" in found.what


@pytest.mark.parametrize("number", EVERY_ERRNO, ids=errno.errorcode.get)
def test_unreadable_chooses_the_verdict(number: int) -> None:
    found = unreadable(oserror(number), verdicts.BAD_IMAGE, "/x")
    assert (found.verdict.name, found.path) == (UNREADABLE.get(number, "mount-failed"), "/x")
    assert f"({errno_name(number)})" in found.what
    assert ("built-in signature" in found.what) == (found.verdict is verdicts.BAD_IMAGE)
    assert ("the kernel lacks" in found.what) == (found.verdict is verdicts.UNSUPPORTED)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (oserror(errno.EIO), "Input/output error (EIO)"),
        (OSError(), "Success (0)"),
        (OSError(9999, "x"), "Unknown error 9999 (9999)"),
    ],
)
def test_reason_names_the_errno(error: OSError, text: str) -> None:
    assert reason(error) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain ~ text\\", "plain ~ text\\"),
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\0", "\\x00"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("ü", "\\xfc"),
        ("\udcff", "\\udcff"),
        ("\U0001f600", "\\U0001f600"),
        ("\u202e", "\\u202e"),
    ],
)
def test_printable_escapes(text: str, printed: str) -> None:
    assert printable(text) == printed


def test_refusal_is_one_printable_line() -> None:
    found = Refusal(verdicts.NO_IMAGE, "a\nb", "c\x1bd", "e\rf")
    assert (str(found), found.hint) == ("refused (no-image): a\\nb: c\\x1bd", "e\\rf")
