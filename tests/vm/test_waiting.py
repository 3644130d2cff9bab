# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service waits for the physical root: however long, whatever happens meanwhile, and with a verdict in the end."""

from __future__ import annotations

from typing import Any

import pytest

from vm import waiting
from vm.harness.jobs import Job
from vm.harness.parse import first_json
from vm.scenario import Interrupted, Outcome, Scenario, rows, runs
from vm.waiting import WAITING

pytestmark = pytest.mark.vm


def _check_waiting(outcome: Outcome, section: str, text: str = WAITING) -> None:
    unit = outcome.unit(section)
    assert (unit["ActiveState"], unit["SubState"], unit["StatusText"]) == ("activating", "start", text)


def _check_verified(outcome: Outcome, section: str = "unit") -> None:
    unit = outcome.unit(section)
    assert (unit["ActiveState"], unit["SubState"], unit["Result"]) == ("active", "exited", "success")
    assert unit["StatusText"].startswith("verified ")


# --- the disk comes late


@rows(waiting.PASSPHRASE)
def test_a_passphrase_may_take_long(scenario: Scenario, job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    assert f'Status: "{WAITING}"' in outcome["asked"]
    assert "Active: activating (start) since" in outcome["asked"]
    _check_waiting(outcome, "later")
    _check_verified(outcome)
    assert outcome.record["keyring"]["sealed_before_mount"] is True
    assert outcome.record["milliseconds"]["wait"] > waiting.LATE[scenario.suite] * 1000


# --- the disk does not come


FAILURE = f"refused (interrupted): {waiting.NO_MOUNT}: sysroot.mount"


@runs(*waiting.FAILED_MOUNT)
def test_failed_mount_is_refused(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    said = [line for line in outcome.console if line.startswith("bootseal: ")]
    record = first_json(outcome["boot.json"])
    assert said[:2] == [f"bootseal: {FAILURE}", f"bootseal: hint: {record['hint']}"]
    assert (record["verdict"], record["message"]) == ("interrupted", FAILURE)
    assert "sysroot.mount" in record["hint"]
    assert not [m for m in outcome.mounts("mountinfo") if f"{m.target}/".startswith("/sysroot/")]


@runs(*waiting.FAILED_MOUNT)
def test_service_waits_on_after_a_failed_mount(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    _check_waiting(outcome, "failed", f"Waiting for a mount at /sysroot, after: {FAILURE}")
    assert float(outcome["told"]) - float(outcome["began"]) < 11


@runs(*waiting.FAILED_MOUNT)
def test_restarted_service_waits_again(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    _check_waiting(
        outcome, "restarted", "Waiting for a mount at /sysroot, after: refused (interrupted): killed: bootseal.service"
    )


@runs(*waiting.FAILED_MOUNT)
def test_mount_by_hand_is_verified_and_boots(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    _check_verified(outcome, "by_hand")
    assert outcome.record["verdict"] == "verified"
    assert f"bootseal: {outcome.record['message']}" in outcome.console
    _check_verified(outcome, "booted")
    assert outcome["root"].startswith("composefs:")


@rows(waiting.NO_DEVICE)
def test_missing_device_is_refused(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# --- the service is disturbed while it waits


@rows(waiting.ENDED)
def test_service_that_ends_while_it_waits_refuses_the_boot(scenario: Scenario, job: Job[Outcome]) -> None:
    assert isinstance(scenario.expect, Interrupted)
    scenario.expect.check(job.result())


@runs(*waiting.DISTURBED)
def test_status_says_that_it_waits(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    assert f'Status: "{WAITING}"' in outcome["status"]
    assert "Active: activating (start) since" in outcome["status"]


@runs(*waiting.DISTURBED)
def test_wait_has_no_limit(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    _check_waiting(outcome, "late")
    _check_verified(outcome)
    assert outcome.record["milliseconds"]["wait"] > waiting.LONG * 1000


@runs(*waiting.DISTURBED)
def test_mount_that_comes_and_goes_is_not_taken(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    _check_waiting(outcome, "came_and_went")
    _check_verified(outcome)


@runs(*waiting.DISTURBED)
def test_paused_machine_waits_on(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    _check_waiting(outcome, "paused")
    _check_verified(outcome)


@runs(*waiting.ISOLATED)
def test_emergency_shell_during_the_wait_may_be_left(job: Job[Outcome]) -> None:
    """The isolation stops sysroot.mount, and the service with it; both start again when the shell is left."""
    outcome = job.result().must_end()
    unit = outcome.unit("isolated")
    assert (unit["ActiveState"], unit["StatusText"]) == ("failed", "refused (interrupted): killed: bootseal.service")
    _check_verified(outcome)


# --- a refusal before the disk is there


@rows(waiting.EARLY)
def test_boot_is_refused_before_the_disk_is_there(scenario: Scenario, job: Job[Outcome]) -> None:
    outcome = job.result()
    scenario.expect.check(outcome)
    assert outcome.unit("sysroot")["ActiveState"] == "inactive"
    if "repaired" in outcome.sections:
        _check_verified(outcome, "repaired")


# --- many certificates


@runs(*waiting.SEALED_FIRST)
def test_keyring_is_sealed_before_the_mount(job: Job[Outcome]) -> None:
    _check_sealing(job.result().must_end().record, 64, before=True)


@runs(*waiting.MOUNTED_FIRST)
def test_record_says_that_the_keyring_was_sealed_after_the_mount(job: Job[Outcome]) -> None:
    _check_sealing(job.result().must_end().record, 10, before=False)


def _check_sealing(record: Any, certificates: int, *, before: bool) -> None:
    assert record["verdict"] == "verified"
    keyring = record["keyring"]
    assert (keyring["certificates"], keyring["sealed"], keyring["sealed_before_mount"]) == (certificates, True, before)
