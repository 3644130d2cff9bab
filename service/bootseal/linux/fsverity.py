# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ioctls of fs-verity: include/uapi/linux/fsverity.h, Documentation/filesystems/fsverity.rst."""

import ctypes
import errno
import fcntl
import sys

from .syscall import iow, iowr

# Errnos of measure(): the filesystem has no fs-verity; that, or fs-verity is not enabled on the file.
UNSUPPORTED = frozenset({errno.ENOTTY, errno.EOPNOTSUPP})
ABSENT = UNSUPPORTED | {errno.ENODATA}
_MAX_DIGEST_SIZE = 64
_ORDER = sys.byteorder
_METADATA_TYPE_SIGNATURE = 3

ALGORITHMS = {1: "sha256", 2: "sha512"}


class _EnableArg(ctypes.Structure):
    """struct fsverity_enable_arg"""

    _fields_ = [
        ("version", ctypes.c_uint32),
        ("hash_algorithm", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("salt_size", ctypes.c_uint32),
        ("salt_ptr", ctypes.c_uint64),
        ("sig_size", ctypes.c_uint32),
        ("__reserved1", ctypes.c_uint32),
        ("sig_ptr", ctypes.c_uint64),
        ("__reserved2", ctypes.c_uint64 * 11),
    ]


class _ReadMetadataArg(ctypes.Structure):
    """struct fsverity_read_metadata_arg"""

    _fields_ = [
        ("metadata_type", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("buf_ptr", ctypes.c_uint64),
        ("__reserved", ctypes.c_uint64),
    ]


# #define FS_IOC_ENABLE_VERITY        _IOW('f', 133, struct fsverity_enable_arg)
_ENABLE = iow("f", 133, ctypes.sizeof(_EnableArg))
# #define FS_IOC_MEASURE_VERITY       _IOWR('f', 134, struct fsverity_digest)
_MEASURE = iowr("f", 134, 4)
# #define FS_IOC_READ_VERITY_METADATA _IOWR('f', 135, struct fsverity_read_metadata_arg)
_READ_METADATA = iowr("f", 135, ctypes.sizeof(_ReadMetadataArg))


def enable(fd: int, algorithm: int, block_size: int, signature: bytes) -> None:
    """Enable fs-verity on the file behind a read-only descriptor. An empty signature means none.

    Raises OSError; the documented errnos are EACCES, EBADMSG, EBUSY, EEXIST, EFAULT, EFBIG, EINTR, EINVAL, EISDIR,
    EKEYREJECTED, EMSGSIZE, ENOKEY, ENOPKG, ENOTTY, EOPNOTSUPP, EPERM, EROFS, ETXTBSY.
    """
    blob = ctypes.create_string_buffer(signature, len(signature)) if signature else None
    arg = _EnableArg(
        version=1,
        hash_algorithm=algorithm,
        block_size=block_size,
        sig_size=len(signature),
        sig_ptr=ctypes.addressof(blob) if blob else 0,
    )
    fcntl.ioctl(fd, _ENABLE, arg)


def measure(fd: int) -> tuple[int, bytes]:
    """Return (hash algorithm number, digest) that the kernel enforces for this file.

    Raises OSError: ENODATA if fs-verity is off, ENOTTY and EOPNOTSUPP if the filesystem has no fs-verity, EOVERFLOW.
    """
    # struct fsverity_digest: __u16 digest_algorithm, __u16 digest_size, __u8 digest[]
    buffer = bytearray(b"\0\0" + _MAX_DIGEST_SIZE.to_bytes(2, _ORDER) + bytes(_MAX_DIGEST_SIZE))
    fcntl.ioctl(fd, _MEASURE, buffer)
    size = int.from_bytes(buffer[2:4], _ORDER)
    return int.from_bytes(buffer[:2], _ORDER), bytes(buffer[4 : 4 + size])


def stored_signature(fd: int, limit: int) -> bytes:
    """Return at most `limit` bytes of a file's built-in signature; empty without one.

    The kernel reads it from the disk again, so it is not to be trusted. Raises OSError.
    """
    blob = ctypes.create_string_buffer(limit)
    arg = _ReadMetadataArg(metadata_type=_METADATA_TYPE_SIGNATURE, length=limit, buf_ptr=ctypes.addressof(blob))
    try:
        size: int = fcntl.ioctl(fd, _READ_METADATA, arg)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        raise
    return blob.raw[:size]
