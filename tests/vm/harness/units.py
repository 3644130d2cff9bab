# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make files for initrds: units that end a boot, or the service in it, where a test needs it."""

from __future__ import annotations

from collections.abc import Mapping

from . import guest, parse
from .cache import SCRIPTS

_TEST_DIRECTORY = "usr/lib/bootseal-test"
_UNITS = "etc/systemd/system"
PLAN = "/etc/guest-plan"  # in the initrd


def _service(name: str, unit: str, service: str, wanted_by: str) -> dict[str, guest.Content]:
    text = f"[Unit]\nDefaultDependencies=no\n{unit}\n[Service]\n{service}\nStandardError=journal+console\n"
    return {
        f"{_UNITS}/{name}": text.encode(),
        f"{_UNITS}/{wanted_by}.wants/{name}": guest.Symlink(f"../{name}"),
    }


def ended_at(plan: str) -> Mapping[str, guest.Content]:
    """Kill or stop the service, or cut the power, right before a step, see guest/cut.py."""
    service = f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 -ISB /{_TEST_DIRECTORY}/cut.py {PLAN} boot\n"
    return {
        f"{_TEST_DIRECTORY}/cut.py": (SCRIPTS / "cut.py").read_bytes(),
        f"{_UNITS}/bootseal.service.d/50-cut.conf": service.encode(),
        PLAN[1:]: plan.encode(),
    }


def check_cut(result: guest.Result) -> None:
    """Fail unless the guest ended by the reset that stands for a power cut."""
    parse.must_end(result, 0)
    assert "sysrq: Resetting" in result.console, result.console[-4000:]


def end_in_initrd(script: str) -> Mapping[str, guest.Content]:
    """End a verified boot with `script`, after all mounts of the initrd and before the switch."""
    runner = f"""\
if sh -e /{_TEST_DIRECTORY}/end-script </dev/null >/dev/ttyS1 2>&1; then
    exec /{_TEST_DIRECTORY}/guest-exit {guest.PASSED}
fi
exec /{_TEST_DIRECTORY}/guest-exit {guest.FAILED}
"""
    unit = "After=bootseal.service initrd-root-fs.target initrd-fs.target\nBefore=initrd-cleanup.service"
    service = f"Type=oneshot\nExecStart=/bin/sh /{_TEST_DIRECTORY}/end"
    return {
        f"{_TEST_DIRECTORY}/end": runner.encode(),
        f"{_TEST_DIRECTORY}/end-script": script.encode(),
        **_service("bootseal-test-end.service", unit, service, "initrd-cleanup.service"),
    }
