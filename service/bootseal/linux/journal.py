# SPDX-License-Identifier: LGPL-2.1-or-later
"""Send datagrams to the journal and, as sd_notify(3), to the service manager.

Errors are not raised: a boot must not fail because a message is lost.
"""

import os

# Not `socket`, which imports selectors and enums and costs every boot 8 ms.
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket

_JOURNAL = "/run/systemd/journal/socket"
# The service manager ignores longer messages (NOTIFY_BUFFER_MAX).
_NOTIFY_MAX = 4096


def send(fields: dict[str, str]) -> bool:
    """Send a journal entry. Returns False if the journal did not receive it."""
    return _send_datagram(_JOURNAL, b"".join(_encode(key, value) for key, value in fields.items()))


def _encode(key: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return key.encode() + b"=" + data + b"\n"


def notify(state: str) -> bool:
    """Send a state such as "STATUS=...", cut to the allowed size. Returns False if it was not received."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    data = state.encode(errors="backslashreplace")[:_NOTIFY_MAX]
    return bool(address) and _send_datagram("\0" + address[1:] if address[0] == "@" else address, data)


def _send_datagram(address: str, data: bytes) -> bool:
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
