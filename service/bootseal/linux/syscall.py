# SPDX-License-Identifier: LGPL-2.1-or-later
"""Call libc and the kernel, with the numbers and the ioctl encoding of each architecture."""

import ctypes
import errno
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)

# Machine as uname(2) names it, for 64-bit userspace: (add_key, keyctl), from the kernel's syscall tables.
_KEY_CALLS = {
    "x86_64": (248, 250),
    "aarch64": (217, 219),
    "riscv64": (217, 219),
    "loongarch64": (217, 219),
    "ppc64le": (269, 271),
    "s390x": (278, 280),
}
# These, and all newer calls, have the same number on every architecture.
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, FSPICK = 428, 429, 430, 431, 432, 433
OPENAT2, MOUNT_SETATTR = 437, 442


def _read_machine() -> str:
    return os.uname().machine if struct.calcsize("P") == 8 else "32-bit"


def key_calls() -> tuple[int, int]:
    """Return the numbers of add_key(2) and keyctl(2). Raises OSError: ENOSYS on an unknown architecture."""
    try:
        return _KEY_CALLS[_read_machine()]
    except KeyError:
        raise oserror(errno.ENOSYS, f"keyctl on {_read_machine()}") from None


def syscall(number: int, *arguments: object) -> int:
    """Call syscall(2). Bytes are passed by pointer, None as NULL, ints as long. Raises OSError."""
    result: int = _LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise oserror(ctypes.get_errno())
    return result


def oserror(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


def unshare(flags: int) -> None:
    """Call unshare(2). Raises OSError."""
    if _LIBC.unshare(ctypes.c_int(flags)) < 0:
        raise oserror(ctypes.get_errno())


def setns(fd: int, flags: int) -> None:
    """Call setns(2). Raises OSError."""
    if _LIBC.setns(ctypes.c_int(fd), ctypes.c_int(flags)) < 0:
        raise oserror(ctypes.get_errno())


def mount(source: str | None, target: str, fstype: str | None, flags: int) -> None:
    """Call mount(2) without data. Raises OSError."""
    texts = [os.fsencode(t) if t is not None else None for t in (source, target, fstype)]
    if _LIBC.mount(*texts, ctypes.c_ulong(flags), None) < 0:
        raise oserror(ctypes.get_errno(), target)


def umount(target: str, flags: int) -> None:
    """Call umount2(2). Raises OSError."""
    if _LIBC.umount2(os.fsencode(target), ctypes.c_int(flags)) < 0:
        raise oserror(ctypes.get_errno(), target)


def statx(dirfd: int, path: str, flags: int, mask: int) -> bytes:
    """Call statx(2); return struct statx, 256 bytes. Raises OSError."""
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statx(ctypes.c_int(dirfd), os.fsencode(path), ctypes.c_int(flags), ctypes.c_uint(mask), buffer) < 0:
        raise oserror(ctypes.get_errno(), path)
    return buffer.raw


_READ, _WRITE = 2, 1


def ior(kind: str, number: int, size: int) -> int:
    """Encode an ioctl number as _IOR() of <asm/ioctl.h> does."""
    return _encode(_READ, kind, number, size)


def iow(kind: str, number: int, size: int) -> int:
    """Encode an ioctl number as _IOW() does."""
    return _encode(_WRITE, kind, number, size)


def iowr(kind: str, number: int, size: int) -> int:
    """Encode an ioctl number as _IOWR() does."""
    return _encode(_READ | _WRITE, kind, number, size)


def _encode(direction: int, kind: str, number: int, size: int) -> int:
    if _read_machine() == "ppc64le":
        # 13 bits of size; read is 2 and write is 4, one bit higher (arch/powerpc/include/uapi/asm/ioctl.h)
        shifted = ((direction & _READ) | (4 if direction & _WRITE else 0)) << 29
        return shifted | size << 16 | ord(kind) << 8 | number
    return direction << 30 | size << 16 | ord(kind) << 8 | number
