# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask whether the gate's units are on, and have them judge the staged deployment again."""

import subprocess
from contextlib import suppress

SWITCH = "bootseal-gate.path"
SERVICE = "bootseal-gate.service"
# Answers of 'systemctl is-enabled' for a switch that is off. Any other answer, an error included, means on.
_OFF = ("disabled", "masked", "masked-runtime", "not-found")
_SECONDS = 30


def is_off() -> bool:
    """Tell whether the gate is off. Reads the disk, because at shutdown the manager may not answer."""
    try:
        result = subprocess.run(
            ["systemctl", "--root=/", "is-enabled", SWITCH], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.stdout.strip() in _OFF


def look_again() -> None:
    """Restart the service if the gate is on, because it may have judged an unsigned deployment."""
    if is_off():
        return
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["systemctl", "--no-block", "restart", SERVICE], capture_output=True, check=False, timeout=_SECONDS)
