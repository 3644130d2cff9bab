# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mount by descriptor: fsopen(2), open_tree(2), move_mount(2), mount_setattr(2). Parse mountinfo.

The flags are those of include/uapi/linux/mount.h. Most functions are one or two system calls.
"""

import os
import struct
import sys

from ..namedtuple import NamedTuple
from . import files, syscall
from .syscall import syscall as call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

AT_FDCWD = -100
_EMPTY_PATH = 0x1000  # AT_EMPTY_PATH
_RECURSIVE = 0x8000  # AT_RECURSIVE
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE, _FSCONFIG_CMD_RECONFIGURE = 0, 1, 6, 7
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = _FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
_MOVE_MOUNT_BENEATH = 0x200
_STATX_MNT_ID, _STATX_MNT_ID_UNIQUE = 0x1000, 0x4000
_STX_MNT_ID = slice(144, 152)  # in struct statx

MOUNT_ATTR_RDONLY = 0x1

CLONE_NEWNS = 0x20000
MNT_DETACH = 2
MS_PRIVATE, MS_REC, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 14, 1 << 19, 1 << 20


def open_context(fstype: str) -> int:
    """Call fsopen(2), for which the kernel loads the module of the filesystem. Raises OSError: ENODEV without one."""
    return call(syscall.FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC)


def new_filesystem(fstype: str, options: "Sequence[tuple[str, str | None]]", attributes: int) -> int:
    """Mount a new filesystem, detached. Options without a value are flags.

    Raises OSError: ENODEV if the kernel lacks the filesystem, EINVAL for an option that it does not know. `filename` of the
    error is the log of the filesystem context.
    """
    context = open_context(fstype)
    try:
        for key, value in options:
            _configure(context, key, value)
        call(syscall.FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return call(syscall.FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise syscall.oserror(error.errno or 0, _read_log(context)) from None
    finally:
        os.close(context)


def _configure(context: int, key: str, value: str | None) -> None:
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    call(syscall.FSCONFIG, context, command, key.encode(), None if value is None else os.fsencode(value), 0)


def _read_log(context: int) -> str:
    """Read the log of a filesystem context: one message per read(2), errors with 'e ' before them."""
    lines = []
    try:
        while True:
            lines.append(os.read(context, 1024).decode(errors="replace").strip())
    except OSError:
        return "; ".join(lines)


def reconfigure(dirfd: int, flag: str) -> None:
    """Set a flag, "ro" or "rw", on the superblock behind a mount. Raises OSError: EBUSY, EROFS, EACCES."""
    context = call(syscall.FSPICK, dirfd, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH)
    try:
        _configure(context, flag, None)
        call(syscall.FSCONFIG, context, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(context)


def clone(fd: int, *, recursive: bool = False) -> int:
    """Clone the mount at a descriptor, detached and rooted there.

    Raises OSError: EINVAL if the mount is in another namespace.
    """
    flags = _EMPTY_PATH | _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_RECURSIVE if recursive else 0)
    return call(syscall.OPEN_TREE, fd, b"", flags)


def set_attributes(fd: int, *, set_: int = 0, clear: int = 0, propagation: int = 0) -> None:
    """Call mount_setattr(2) on the single mount at a descriptor. Raises OSError."""
    attr = struct.pack("=QQQQ", set_, clear, propagation, 0)
    call(syscall.MOUNT_SETATTR, fd, b"", _EMPTY_PATH, attr, len(attr))


def attach(tree: int, dirfd: int, path: str, *, beneath: bool = False) -> None:
    """Attach a detached mount at `path`, on top of other mounts or just beneath the topmost.

    An empty path means the descriptor itself. Raises OSError: EINVAL if the kernel cannot mount beneath, which is the case
    before Linux 6.5, and later at children of the namespace's root.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (_MOVE_MOUNT_BENEATH if beneath else 0)
    flags |= 0 if path else _MOVE_MOUNT_T_EMPTY_PATH
    call(syscall.MOVE_MOUNT, tree, b"", dirfd, os.fsencode(path), flags)


class Identity(NamedTuple):
    """The ids of a mount. The kernel reuses `number`, as in mountinfo, but never `unique`."""

    number: int
    unique: int | None


def identity(dirfd: int, path: str) -> Identity:
    """Identify the topmost mount at a path, or that of the descriptor if it is empty. Raises OSError.

    `unique` is None before Linux 6.8.
    """
    number, _ = _read_id(dirfd, path, _STATX_MNT_ID)
    unique, given = _read_id(dirfd, path, _STATX_MNT_ID_UNIQUE)
    return Identity(number, unique if given & _STATX_MNT_ID_UNIQUE else None)


def _read_id(dirfd: int, path: str, mask: int) -> tuple[int, int]:
    """Return the id, and which fields the kernel filled in, see statx(2)."""
    answer = syscall.statx(dirfd, path, _EMPTY_PATH, mask)
    return int.from_bytes(answer[_STX_MNT_ID], sys.byteorder), int.from_bytes(answer[:4], sys.byteorder)


class MountInfo:
    """A line of mountinfo, see proc_pid_mountinfo(5). Raises ValueError."""

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        number, parent, self.device, root, target, self.options = left.split(" ")[:6]
        self.id, self.parent = int(number), int(parent)
        self.root, self.target = unescape(root), unescape(target)
        self.fstype, source, self.super_options = right.split(" ")[:3]
        self.source = unescape(source)


def unescape(field: str) -> str:
    """Decode space, tab, newline and backslash, which the tables in /proc write in octal."""
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def mounts(process: str = "self") -> list[MountInfo]:
    """List the mounts of a process's namespace, in arbitrary order. Raises OSError."""
    return parse(files.read_lines(f"/proc/{process}/mountinfo"))


def parse(lines: list[str]) -> list[MountInfo]:
    """Parse lines of mountinfo. A malformed line is skipped, because it must not hide the others."""
    result = []
    for line in lines:
        try:
            result.append(MountInfo(line))
        except ValueError:
            pass
    return result


def mount_of(fd: int) -> MountInfo:
    """Find the mount that a descriptor is on. Raises LookupError if that is in another namespace."""
    lines = files.read_lines(f"/proc/self/fdinfo/{fd}")
    wanted = next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
    for mount in mounts():
        if mount.id == wanted:
            return mount
    raise LookupError(f"mount {wanted}")
