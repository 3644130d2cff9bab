# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's consoles: which devices they are, and a write that a stuck serial line cannot delay for long."""

import os
import time

from . import files

CONSOLES = "/proc/consoles"
CONSOLE = "/dev/console"
_TRIES = 10
_PAUSE = 0.02  # seconds


def devices() -> list[str]:
    """List the devices behind /dev/console, which is only the last of them; see proc(5)."""
    try:
        listed = [f"/dev/{line.split()[0]}" for line in files.read_lines(CONSOLES) if line.strip()]
    except OSError:
        listed = []
    return [path for path in listed if os.path.exists(path)] or [CONSOLE]


def write(path: str, data: bytes) -> None:
    """Write to one device; drop what it does not take within 0.2 seconds. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                pass
            if not data:
                return
            time.sleep(_PAUSE)
    finally:
        os.close(fd)
