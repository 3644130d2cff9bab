# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the block device behind a file.

btrfs gives each subvolume a device number of its own, so two of its ioctls are needed: include/uapi/linux/btrfs.h.
"""

import errno
import fcntl
import os
import stat
import struct

from . import syscall

# #define BTRFS_IOC_DEV_INFO _IOWR(0x94, 30, struct btrfs_ioctl_dev_info_args): __u64 devid, 3064 bytes of others, path[1024]
_DEV_INFO_SIZE, _PATH_OFFSET = 4096, 3072
_DEV_INFO = syscall.iowr("\x94", 30, _DEV_INFO_SIZE)
# #define BTRFS_IOC_FS_INFO _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args): __u64 max_id, __u64 num_devices, and others
_FS_INFO_SIZE = 1024
_FS_INFO = syscall.ior("\x94", 31, _FS_INFO_SIZE)


def number(fd: int) -> int:
    """Return the number of the only block device behind a file or directory; the descriptor may be O_PATH.

    Raises OSError: ENODEV if the filesystem has several devices, ENOTTY if it has none.
    """
    device = os.fstat(fd).st_dev
    return device if os.major(device) else _ask_btrfs(fd)


def _ask_btrfs(fd: int) -> int:
    opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.stat(_read_path(opened))
    finally:
        os.close(opened)
    if not stat.S_ISBLK(status.st_mode):
        raise syscall.oserror(errno.ENODEV)
    return status.st_rdev


def _read_path(fd: int) -> bytes:
    """Return the path of the device. Its id is the largest id, because there is only one device."""
    info = bytearray(_FS_INFO_SIZE)
    fcntl.ioctl(fd, _FS_INFO, info)
    max_id, devices = struct.unpack_from("=QQ", info)
    if devices != 1:
        raise syscall.oserror(errno.ENODEV)
    device = bytearray(struct.pack("=Q", max_id).ljust(_DEV_INFO_SIZE, b"\0"))
    fcntl.ioctl(fd, _DEV_INFO, device)
    return bytes(device[_PATH_OFFSET:]).partition(b"\0")[0]
