# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal gate: ostree finalizes a staged deployment only if it would boot.

ostree-finalize-staged.service runs this before 'ostree admin finalize-staged' when the machine shuts down; systemd does not run
the second if the first fails, and the running deployment stays the default. It is switched on by enabling bootseal-gate.path,
which also runs this as soon as something is staged: then the reason can be seen before the reboot.
"""

import argparse
import os
import subprocess
from contextlib import suppress

from ... import record as records
from ...errors import reason
from .. import continuity, mutable
from .. import deployments as sysroots
from ..output import NO_PERMISSION, Failure, note, warning
from . import verify

SWITCH = "bootseal-gate.path"
SERVICE = "bootseal-gate.service"
# What 'systemctl is-enabled' says of a switch that is off. Anything else, an error included, is on.
_OFF = ("disabled", "masked", "masked-runtime", "not-found")
_UNTRUSTED_HINT = (
    "sign the image with a key that the firmware trusts (db, or shim's MOK); "
    "to finalize it nevertheless, switch the gate off: 'systemctl disable --now bootseal-gate.path'"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(initrd=None, keys=None, system_keys=False)


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    """Returns 0 to let the deployment pass."""
    if _is_off():
        return 0
    _complete(sysroots.default_sysroot())
    found = sysroots.staged()
    if found is None:
        note("no deployment is staged")
        return 0
    record = verify.Checker(sysroots.default_sysroot(), arguments).check(found)
    name = f"the disk names it {found.name}"
    if record["exit_status"]:
        what = f"Failed to let the staged deployment pass: it would not boot: {record['message']} ({name})"
        raise Failure(record["exit_status"], what, record["hint"])
    for kind, line in continuity.lines(record):
        warning(f"{kind} in the initrd of {found.name}: {line}")
    if text := verify.untrusted(record):
        # Firmware that finds nothing to start waits for somebody at the console. The running deployment starts.
        what = f"Failed to let the staged deployment pass: the firmware would not start its kernel image: {text} ({name})"
        raise Failure(NO_PERMISSION, what, _UNTRUSTED_HINT)
    note(f"the staged deployment would boot: {records.parse(record).identity} ({name})")
    for line in record["missing"]:
        note(f"missing: {line}")
    return 0


def _complete(sysroot: str) -> None:
    """Make directories immutable again that a killed 'bootseal deploy' left mutable. The boot does not depend on it."""
    for path in mutable.marked(sysroot):
        try:
            with mutable.writable(sysroot, path) as writable:
                mutable.complete(writable, mutable.prefix(path))
            note(f"the directory of {os.path.basename(path)} is immutable again: a 'bootseal deploy' was killed there")
        except OSError as error:
            warning(f"Failed to make the directory of {os.path.basename(path)} immutable again: {reason(error)}")
        except Failure as failure:
            warning(failure.what)


def look_again() -> None:
    """Has bootseal-gate.service, if the gate is on, decide anew: what it said of a deployment without signature is past."""
    if _is_off():
        return
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["systemctl", "--no-block", "restart", SERVICE], capture_output=True, check=False, timeout=30)


def _is_off() -> bool:
    """Read from the disk: at shutdown the manager may not answer any more."""
    try:
        result = subprocess.run(
            ["systemctl", "--root=/", "is-enabled", SWITCH], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.stdout.strip() in _OFF
