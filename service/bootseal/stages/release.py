# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read name and version of the image from the verified root's os-release(5).

The digest covers this file. It does not cover stateroot and checksum, which are names on the disk.
"""

import errno
import os

from .. import verdicts
from ..errors import failed
from ..linux import files
from ..values import Release

_PLACES = ("etc/os-release", "usr/lib/os-release")  # those of the image: the /etc of the disk is not mounted yet
_KEYS = ("IMAGE_ID", "ID", "IMAGE_VERSION", "VERSION_ID")
# What os-release(5) allows in these values, and upper case, '+', '~' and '^', which version numbers contain. No shell has to
# quote any of them.
_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+~^"
_LENGTH = 64
_SIZE = 1 << 16  # bytes
_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def read(root_fd: int) -> Release:
    """Read os-release. A file that is missing, irregular, too large or malformed gives empty names.

    Raises Refusal, `io-error` or `mount-failed`, if a file of the image cannot be read: an attacker must not be able to hide
    the name of an image by damaging an object.
    """
    for path in _PLACES:
        try:
            if _exists(root_fd, path):
                return parse(_read_file(root_fd, path).decode(errors="replace"))
        except OSError as error:
            raise failed(error, verdicts.MOUNT_FAILED, "cannot be read through the verified root", f"/{path}") from error
    return Release("", "")


def _exists(root_fd: int, path: str) -> bool:
    """Tell whether the image has a file. Opening it may still fail with ENOENT if its object is missing."""
    try:
        os.close(files.openat2(root_fd, path, os.O_PATH, files.CONFINED))
    except OSError as error:
        if error.errno in _NOWHERE:
            return False
        raise
    return True


def _read_file(root_fd: int, path: str) -> bytes:
    try:
        fd = files.open_regular(root_fd, path, follow=True)
    except files.NotRegular:
        return b""
    try:
        return files.read_bounded(fd, _SIZE) or b""
    finally:
        os.close(fd)


def parse(text: str) -> Release:
    """Take IMAGE_ID, or else ID, and IMAGE_VERSION, or else VERSION_ID. The last assignment counts."""
    values = dict.fromkeys(_KEYS, "")
    for line in text.split("\n"):
        key, _, value = line.strip(" \t").partition("=")
        if key in values:
            values[key] = _unquote(value)
    return Release(values["IMAGE_ID"] or values["ID"], values["IMAGE_VERSION"] or values["VERSION_ID"])


def _unquote(value: str) -> str:
    """Remove the quotation marks of a value. Returns an empty text if it does not have the form of a name."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return "" if value.strip(_CHARACTERS) or len(value) > _LENGTH else value
