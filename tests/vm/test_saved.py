# SPDX-License-Identifier: LGPL-2.1-or-later
"""A boot resumed from a saved state says what a whole one says; without a state, a whole boot runs. Mostly without a guest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vm.harness import saved
from vm.harness.ask import ask
from vm.harness.cache import CHECKOUT
from vm.harness.jobs import Job
from vm.harness.signed import settings
from vm.refusals import REFUSALS
from vm.scenario import Outcome, Passed, Scenario

# --- the same boot, whole and resumed

SCRIPT = ask(
    unit="systemctl show -p ActiveState,SubState,Result,StatusText bootseal.service",
    record="cat /run/bootseal/boot.json",
    failed="systemctl --failed --no-legend --plain",
    mounts="for at in / /etc /var /sysroot; do findmnt --noheadings --raw --output=TARGET,FSTYPE,OPTIONS $at; done",
    clock='test "$(date +%Y)" -ge 2024 && echo set',
)
PAIRS = [
    next(scenario for scenario in REFUSALS if scenario.id == "other-key"),
    Scenario("booted", Passed(), initrd=settings("[Enroll]\nMethod=fsverity\n"), script=SCRIPT, nightly=True),
]
SECTIONS = ("unit", "targets", "switch", "failed", "mounts", "clock")
OF_ONE_BOOT = {"boot_id", "milliseconds", "kernel_times"}


def _without(record: Any, names: set[str]) -> Any:
    if isinstance(record, dict):
        return {name: _without(value, names) for name, value in record.items() if name not in names}
    return [_without(value, names) for value in record] if isinstance(record, list) else record


def _said(outcome: Outcome) -> dict[str, Any]:
    """Return the facts that a resumed boot must share with a whole one."""
    return {
        "status": outcome.result.status,
        "record": _without(outcome.record, OF_ONE_BOOT),
        "console": [line for line in outcome.console if line.startswith(("bootseal: ", "Linux version", "guest: booted"))],
        "sections": {name: outcome[name] for name in SECTIONS if name in outcome.sections},
        "written": outcome.written > 0,
    }


@pytest.mark.vm
@pytest.mark.parametrize(
    ("scenario", "whole", "resumed"),
    [scenario.row(scenario, replace(scenario, whole=True).job) for scenario in PAIRS],
)
def test_resumed_boot_says_what_a_whole_one_says(scenario: Scenario, resumed: Job[Outcome], whole: Job[Outcome]) -> None:
    for job in (resumed, whole):
        scenario.expect.check(job.result())
    assert _said(resumed.result()) == _said(whole.result())
    marks = [saved.ARRIVED in job.result().result.console for job in (resumed, whole)]
    assert marks == [True, False], "one of them did not begin as it should"
    assert resumed.result().result.console.count("Linux version") == 1


def test_states_without_a_guest() -> None:
    """In a process of their own: they replace PATH and the cache, which the guests of this process use meanwhile."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("saved_cases.py"))]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "17 passed" in done.stdout
