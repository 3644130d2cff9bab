# SPDX-License-Identifier: LGPL-2.1-or-later
"""Datagrams to systemd: the journal's native protocol and sd_notify(3). Neither ever fails the caller's work."""

import os

# Not `socket`, which adds selectors, enums and 8 ms to every boot, and nothing that is used here.
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket

_JOURNAL = "/run/systemd/journal/socket"
# The service manager reads so many bytes, and ignores a message that is longer (NOTIFY_BUFFER_MAX).
_NOTIFY_MAX = 4096


def send(fields: dict[str, str]) -> bool:
    """Sends one journal entry; False if there is no journal to take it."""
    return _datagram(_JOURNAL, b"".join(_field(key, value) for key, value in fields.items()))


def _field(key: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return key.encode() + b"=" + data + b"\n"


def notify(state: str) -> bool:
    """Tells the service manager, e.g. "STATUS=...", as much of it as it takes; False when none listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    data = state.encode(errors="backslashreplace")[:_NOTIFY_MAX]
    return bool(address) and _datagram("\0" + address[1:] if address[0] == "@" else address, data)


def _datagram(address: str, data: bytes) -> bool:
    try:
        sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
    except OSError:
        return False
    try:
        sock.sendto(data, address)
    except OSError:
        return False
    finally:
        sock.close()
    return True
