# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal gate: put the signature of a staged deployment in place, and let it be finalized only if it would boot.

ostree-finalize-staged.service and bootc-finalize-staged.service run this before their own command when the machine shuts down.
If it fails, systemd does not run the second command, and the running deployment stays the default. Enabling bootseal-gate.path
switches the gate on. That unit also runs the gate as soon as something is staged, so that the reason can be seen before the
reboot.
"""

import argparse
import os

from ... import record as records
from ... import verdicts
from ...errors import reason
from ...stages import writable
from .. import continuity, deployments, gateunits, placing
from ..checker import Checker, KeySource, describe_untrusted
from ..layouts import ostree
from ..output import NO_PERMISSION, Failure, note, warning

_UNTRUSTED_HINT = (
    "sign the image with a key that the firmware trusts (db, or shim's MOK); "
    "to finalize it nevertheless, switch the gate off: 'systemctl disable --now bootseal-gate.path'"
)

# Placing would have provided what these lack, so why it failed is the reason.
_PLACED = tuple(verdict.name for verdict in (verdicts.NO_DIGEST, verdicts.NO_SIGNATURE, verdicts.IMAGE_UNSEALED))


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the gate has no options of its own."""


def run(_arguments: argparse.Namespace, _command: list[str]) -> int:
    """Return 0 to let the staged deployment pass. Raises Failure."""
    if gateunits.is_off():
        return 0
    sysroot = deployments.default_sysroot()
    _complete(sysroot)
    deployed = deployments.find_staged(sysroot)
    if deployed is None:
        note("no deployment is staged")
        return 0
    checker = Checker(sysroot, KeySource())
    problem = None if placing.is_placed(sysroot, deployed) else placing.attempt(sysroot, deployed, checker, placing.Wish())
    record = checker.check(deployed)
    name = f"the disk names it {deployed.name}"
    if record["exit_status"]:
        if problem is None or record["verdict"] not in _PLACED:
            problem = Failure(record["exit_status"], record["message"], record["hint"])
        raise Failure(problem.status, f"The staged deployment would not boot: {problem.what} ({name})", problem.hint)
    for kind, line in continuity.describe(record):
        warning(f"{kind} in the initrd of {deployed.name}: {line}")
    if text := describe_untrusted(record):
        # Firmware that finds nothing to start waits for somebody at the console. The running deployment starts.
        what = f"The firmware would not start the staged deployment's kernel image: {text} ({name})"
        raise Failure(NO_PERMISSION, what, _UNTRUSTED_HINT)
    note(f"the staged deployment would boot: {records.parse(record).identity} ({name})")
    for line in record["missing"]:
        note(f"missing: {line}")
    return 0


def _complete(sysroot: str) -> None:
    """Make directories immutable again that a killed 'bootseal deploy' left mutable.

    The boot does not depend on it.
    """
    for path in ostree.find_marked(sysroot):
        name = os.path.basename(path)
        try:
            with writable.opened_below(sysroot, path) as where:
                writable.complete(where, path)
            note(f"the directory of {name} is immutable again after a killed 'bootseal deploy'")
        except OSError as error:
            warning(f"Failed to make the directory of {name} immutable again: {reason(error)}")
        except writable.Busy:
            warning(f"Failed to make the directory of {name} immutable again: another 'bootseal deploy' is at work")
