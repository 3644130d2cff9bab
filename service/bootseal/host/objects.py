# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the objects of an image that the boot would miss: absent ones, and those without fs-verity.

Nothing here follows a link to an object: overlayfs follows none in a data-only layer, and a foreign file must not be sealed.
"""

import errno
import os
import re
from typing import NamedTuple

from ..digest import BLOCK_SIZE, NUMBERS
from ..errors import LEADS_NOWHERE
from ..linux import files, fsverity, syscall
from .imagedigest import MAX_SIZE
from .output import OS_ERROR, Progress, os_failure

# The image holds the path of an object in a "redirect" extended attribute, as plain text. ostree's objects have a suffix, and
# those of a composefs repository the digest as their name, which may be of SHA-512.
_NAME = re.compile(rb"/([0-9a-f]{2}/(?:[0-9a-f]{126}|[0-9a-f]{62}(?:\.file)?))")
_LONGEST = len("/00/") + 126
_SHA512_NAME = 2 + 1 + 126
_CHUNK = 1 << 20
_EXT4_FEATURES = "/sys/fs/ext4/features"  # of the kernel, see Documentation/ABI/testing/sysfs-fs-ext4
MAX_OBJECTS = 1 << 20


class Objects(NamedTuple):
    missing: list[str]
    unsealed: list[str]


class Store:
    """The objects of one repository. Remembers their states, because deployments share most of them."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._states: dict[str, str] = {}

    def check(self, image: int) -> Objects:
        """Return the objects that an open image names and that are missing or unsealed. Raises OSError."""
        missing, unsealed = [], []
        for name in sorted(_find_names(image)):
            state = self._states.get(name) or self._find_state(name)
            self._states[name] = state
            if state == "missing":
                missing.append(name)
            elif state == "unsealed":
                unsealed.append(name)
        return Objects(missing, unsealed)

    def _find_state(self, name: str) -> str:
        try:
            fd = open_file(name, self._directory)
        except OSError as error:
            if error.errno not in LEADS_NOWHERE:
                raise
            return "missing"
        try:
            fsverity.measure(fd)
        except OSError as error:
            if error.errno not in fsverity.ABSENT:
                raise
            return "unsealed"
        finally:
            os.close(fd)
        return "sealed"

    def seal(self, names: list[str], directory: int) -> None:
        """Enable fs-verity on objects through a writable descriptor of their directory. Raises Failure."""
        with Progress("Enabling fs-verity on objects", len(names)) as progress:
            for name in names:
                try:
                    enable(name, directory, "sha512" if len(name) == _SHA512_NAME else "sha256")
                except OSError as error:
                    raise os_failure(
                        OS_ERROR, f"Failed to enable fs-verity on the object {name}", error, hint(error)
                    ) from error
                progress.add(1)
                self._states[name] = "sealed"


def _find_names(image: int) -> set[str]:
    """Find the names in an image, in constant memory. Raises OSError, EFBIG above MAX_SIZE or MAX_OBJECTS."""
    if os.fstat(image).st_size > MAX_SIZE:
        raise syscall.oserror(errno.EFBIG)
    names: set[str] = set()
    data, offset = b"", 0
    while chunk := os.pread(image, _CHUNK, offset):
        offset += len(chunk)
        data += chunk
        # A name that begins after this may be truncated.
        whole = len(data) - _LONGEST
        names |= {match[1].decode() for match in _NAME.finditer(data) if match.start() <= whole}
        if len(names) > MAX_OBJECTS or offset > MAX_SIZE:
            raise syscall.oserror(errno.EFBIG)
        data = data[max(whole + 1, 0) :]
    return names | {name.decode() for name in _NAME.findall(data)}


def open_file(name: str, directory: int) -> int:
    """Open a regular file for reading without following a link.

    Raises OSError, ELOOP also for other kinds of files.
    """
    try:
        return files.open_regular(directory, name)
    except files.NotRegular as error:
        raise syscall.oserror(errno.ELOOP, name) from error


def enable(name: str, directory: int, algorithm: str) -> bool:
    """Enable fs-verity without a signature. Returns False if it was on already. Raises OSError."""
    fd = open_file(name, directory)
    try:
        fsverity.enable(fd, NUMBERS[algorithm], BLOCK_SIZE, b"")
    except FileExistsError:
        return False
    finally:
        os.close(fd)
    return True


def kernel_lacks_fsverity() -> bool:
    """Tell whether sysfs shows it. A kernel without ext4 shows nothing, and does not count."""
    return os.path.isdir(_EXT4_FEATURES) and not os.path.exists(f"{_EXT4_FEATURES}/verity")


def hint(error: OSError) -> str:
    """Advise on an error of enable()."""
    if error.errno in fsverity.UNSUPPORTED:
        if kernel_lacks_fsverity():
            return "use a kernel with fs-verity (CONFIG_FS_VERITY)"
        return "enable fs-verity in the filesystem: ext4 needs 'tune2fs -O verity DEVICE'; btrfs and f2fs support it"
    if error.errno == errno.EINVAL:
        return "use a filesystem with a block size of 4096"
    return ""


def describe(checked: Objects) -> list[str]:
    """Describe what the boot would miss, in one line for each kind."""
    lines = []
    for names, what in ((checked.missing, "missing"), (checked.unsealed, "without fs-verity, and cannot be read")):
        if names:
            lines.append(f"{len(names)} object{'s are' if len(names) > 1 else ' is'} {what}, such as {names[0]}")
    return lines
