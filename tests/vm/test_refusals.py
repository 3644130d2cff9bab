# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cause every refusal by a real change of the disk, the initrd or the command line."""

from __future__ import annotations

import pytest

from vm.harness.jobs import Job
from vm.refusals import REFUSALS
from vm.scenario import EXIT_STATUS, Outcome, Refused, Scenario, rows

pytestmark = pytest.mark.vm


@rows(REFUSALS)
def test_refusal_shows_verdict_everywhere(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


def test_make_test_boots_every_verdict() -> None:
    elsewhere = {"verified", "interrupted", "changed"}
    always = [scenario.expect for scenario in REFUSALS if not scenario.nightly]
    verdicts = {expect.verdict for expect in always if isinstance(expect, Refused)}
    assert verdicts | elsewhere == set(EXIT_STATUS) | elsewhere
