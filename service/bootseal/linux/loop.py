# SPDX-License-Identifier: LGPL-2.1-or-later
"""Attach a read-only loop device: include/uapi/linux/loop.h.

On some kernels EROFS mounts only block devices.
"""

import ctypes
import errno
import fcntl
import os

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_RETRIES = 16


class _LoopInfo64(ctypes.Structure):
    """struct loop_info64, of which only the flags are used"""

    _fields_ = [
        ("before", ctypes.c_uint8 * 52),
        ("lo_flags", ctypes.c_uint32),
        ("after", ctypes.c_uint8 * 176),
    ]


class _LoopConfig(ctypes.Structure):
    """struct loop_config"""

    _fields_ = [
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo64),
        ("__reserved", ctypes.c_uint64 * 8),
    ]


def attach(fd: int) -> tuple[int, str]:
    """Attach a loop device to an open file; return its descriptor and path. Its last user removes it.

    Raises OSError: ENOENT or ENODEV if the kernel has no loop devices.
    """
    with open("/dev/loop-control", "rb", buffering=0) as control:
        for _ in range(_RETRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            try:
                return _configure(number, fd)
            except OSError as error:
                if error.errno != errno.EBUSY:  # another process took the device first
                    raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/dev/loop-control")


def _configure(number: int, fd: int) -> tuple[int, str]:
    path = f"/dev/loop{number}"
    device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        config = _LoopConfig(fd=fd, info=_LoopInfo64(lo_flags=_LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR))
        fcntl.ioctl(device, _LOOP_CONFIGURE, config)
        return device, path
    except BaseException:
        os.close(device)
        raise
