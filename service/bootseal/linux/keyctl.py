# SPDX-License-Identifier: LGPL-2.1-or-later
"""Add, link, restrict, read and list kernel keys: add_key(2), keyctl(2), /proc/keys."""

import ctypes
import struct

from ..namedtuple import NamedTuple
from . import files
from .syscall import key_calls, syscall

PROCESS_KEYRING = -2
USER_KEYRING = -4

_SETPERM, _DESCRIBE, _LINK, _READ, _PKEY_VERIFY, _RESTRICT_KEYRING = 5, 6, 8, 11, 28, 29
# Longest payload of a `user` key in bytes (security/keys/user_defined.c).
_MAX_PAYLOAD = 32767


def add_key(kind: str, description: str, payload: bytes | None, keyring: int) -> int:
    """Call add_key(2); return the serial. Raises OSError: EBADMSG, EDQUOT, ENOPKG, EPERM and others."""
    number, _ = key_calls()
    size = len(payload) if payload else 0
    return syscall(number, kind.encode(), description.encode(), payload, size, keyring)


def _keyctl(*arguments: object) -> int:
    _, number = key_calls()
    return syscall(number, *arguments)


def set_permissions(key: int, mask: int) -> None:
    """Call keyctl_setperm(3). The bytes of the mask are for possessor, user, group and others."""
    _keyctl(_SETPERM, key, mask)


def link(key: int, keyring: int) -> None:
    """Call keyctl_link(3)."""
    _keyctl(_LINK, key, keyring)


def restrict(keyring: int) -> None:
    """Forbid further links into a keyring, see keyctl_restrict_keyring(3).

    Raises OSError: EEXIST if the keyring is already restricted.
    """
    _keyctl(_RESTRICT_KEYRING, keyring, None, None)


def read(key: int) -> bytes:
    """Read the payload of a `user` key, or the packed serials of a keyring, see keyctl_read(3)."""
    buffer = ctypes.create_string_buffer(_MAX_PAYLOAD)
    size = _keyctl(_READ, key, buffer, _MAX_PAYLOAD)
    return buffer.raw[:size]


def members(keyring: int) -> tuple[int, ...]:
    """List the serials of the keys in a keyring. Needs the permission to read it."""
    packed = read(keyring)
    return struct.unpack(f"={len(packed) // 4}i", packed)


def verify_signature(key: int, info: str, digest: bytes, signature: bytes) -> None:
    """Verify a signature with a kernel key, see keyctl_pkey_verify(3).

    Any OSError means that the signature is not verified. The caller must possess the key, for example in its process
    keyring. `info` names encoding and hash, as in "enc=pkcs1 hash=sha256".
    """
    # struct keyctl_pkey_params: key_id, in_len, in2_len, __spare[7]
    parameters = struct.pack("=iII7I", key, len(digest), len(signature), *[0] * 7)
    _keyctl(_PKEY_VERIFY, parameters, info.encode(), digest, signature)


class Key(NamedTuple):
    serial: int
    permissions: int
    uid: int
    kind: str
    description: str


def describe(key: int) -> Key:
    """Call keyctl_describe(3). Raises OSError: ENOKEY, EACCES without permission to view the key."""
    buffer = ctypes.create_string_buffer(_MAX_PAYLOAD)
    size = _keyctl(_DESCRIBE, key, buffer, _MAX_PAYLOAD)
    # type;uid;gid;permissions;description
    kind, uid, _, permissions, description = buffer.raw[: size - 1].decode(errors="backslashreplace").split(";", 4)
    return Key(key, int(permissions, 16), int(uid), kind, description)


def listed_keys() -> list[Key]:
    """List the keys that this process may view. Raises OSError if the kernel has no keys.

    Only the serials are taken from proc_keys(5), because a newline in a description can fake a line of it.
    """
    serials = {serial for line in files.read_lines("/proc/keys") if (serial := _parse_serial(line))}
    keys = []
    for serial in sorted(serials):
        try:
            keys.append(describe(serial))
        except OSError:
            pass
    return keys


def _parse_serial(line: str) -> int:
    try:
        return int(line[:8], 16)
    except ValueError:
        return 0
