# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 7: what the verified root calls itself: its own os-release, see os-release(5).

Stateroot and checksum are names that the disk gives. The digest covers this file.
"""

import errno
import os

from .. import verdicts
from ..errors import failed
from ..linux import files
from ..values import Release

_PLACES = ("etc/os-release", "usr/lib/os-release")  # the image's own: the disk's /etc is not mounted yet
_KEYS = ("IMAGE_ID", "ID", "IMAGE_VERSION", "VERSION_ID")
# What os-release(5) allows in them, upper case, and '+', '~' and '^' of version numbers. None of it needs an escape.
_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+~^"
_LENGTH = 64
_SIZE = 1 << 16  # bytes
_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def read(root_fd: int) -> Release:
    """A file that is missing, irregular, too large or of another form gives empty names.

    Raises Refusal, `io-error` or `mount-failed`, if a file that the image has cannot be read: whoever damages its object
    must not hide which image this is.
    """
    for path in _PLACES:
        try:
            if _exists(root_fd, path):
                return parse(_content(root_fd, path).decode(errors="replace"))
        except OSError as error:
            raise failed(error, verdicts.MOUNT_FAILED, "cannot be read through the verified root", f"/{path}") from error
    return Release("", "")


def _exists(root_fd: int, path: str) -> bool:
    """Whether the image has it. Opening it may still fail, with ENOENT, too: when its object is missing."""
    try:
        os.close(files.openat2(root_fd, path, os.O_PATH, files.CONFINED))
    except OSError as error:
        if error.errno in _NOWHERE:
            return False
        raise
    return True


def _content(root_fd: int, path: str) -> bytes:
    try:
        fd = files.open_regular(root_fd, path, follow=True)
    except files.NotRegular:
        return b""
    try:
        return files.read_bounded(fd, _SIZE) or b""
    finally:
        os.close(fd)


def parse(text: str) -> Release:
    """IMAGE_ID, or else ID; IMAGE_VERSION, or else VERSION_ID. As in a shell, the last assignment counts."""
    found = dict.fromkeys(_KEYS, "")
    for line in text.split("\n"):
        key, _, value = line.strip(" \t").partition("=")
        if key in found:
            found[key] = _unquoted(value)
    return Release(found["IMAGE_ID"] or found["ID"], found["IMAGE_VERSION"] or found["VERSION_ID"])


def _unquoted(value: str) -> str:
    """The value without its quotation marks; empty unless it has the form of a name."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return "" if value.strip(_CHARACTERS) or len(value) > _LENGTH else value
