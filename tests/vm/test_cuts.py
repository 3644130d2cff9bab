# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots that a kill ends around the switch of roots, leftovers, a read-only medium, and repairs afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from vm.enrolled import ENROLLED, IN_INITRD, LOOK, look
from vm.harness import guest, signed
from vm.harness.ask import ask
from vm.harness.changes import SIGNED_BY_STRANGER, commands, put, several
from vm.harness.jobs import Job
from vm.harness.parse import last_json
from vm.harness.units import end_in_initrd, ended_at
from vm.scenario import Interrupted, Outcome, Passed, Scenario, rows, runs

pytestmark = pytest.mark.vm

FSVERITY = "[Enroll]\nMethod=fsverity\n"
DEPLOYMENTS = "ostree/deploy/guest/deploy"
LIBRARY = "usr/lib/bootseal/bootseal"


# --- the service killed around the switch of roots, and before it could begin


KILLS = [
    Scenario(id, Interrupted("killed", unwritten=True), initrd=ended_at(f"kill 1 {step}"), suite=suite, nightly=repeated)
    for id, step, suite, repeated in [
        ("before-attaching", "attach '/sysroot'", "forky", False),
        ("beneath-the-physical-root", "umount '/sysroot'", "forky", False),
        ("attached-forky", "mounts '1'", "forky", False),
        ("attached-trixie", "mounts '1'", "trixie", True),
    ]
]


@rows(KILLS)
def test_service_killed_around_the_switch_is_a_refusal(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


BROKEN_IMPORT = Scenario(
    "import",
    Interrupted("it ended with status 1 and left no verdict", "internal", mounted=None),  # it does not wait
    initrd={f"{LIBRARY}/boot.py": b"import no_such_module\n"},
)


@rows([BROKEN_IMPORT])
def test_missing_module_in_the_initrd_is_a_refusal(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# --- refused, started again, repaired by hand, started again


def _right() -> Mapping[str, guest.Content]:
    return {"right.sig": signed.sign(signed.image_digest(signed.image().deployment.cfs), signed.key())}


def _put_right() -> str:
    path = f"/sysroot/{signed.image().deployment.path}/{signed.SIGNATURE}"
    return f"mount -o remount,rw /sysroot\ncat /right.sig >{path}\nmount -o remount,ro /sysroot"


REPAIR = Scenario(
    "repair",
    Passed(guest.REFUSED),
    disk=SIGNED_BY_STRANGER,
    initrd=_right,
    fsck=True,
    emergency=lambda: ask(
        again="systemctl restart bootseal.service 2>/dev/null || echo refused\ncat /run/bootseal/boot.json",
        repair=_put_right(),
        started="systemctl restart bootseal.service && systemctl is-active bootseal.service",
        record="cat /run/bootseal/boot.json",
        mounts="cat /proc/self/mountinfo",
        twice="systemctl restart bootseal.service && systemctl start bootseal.service && cat /proc/self/mountinfo",
    ),
)


@runs(REPAIR)
def test_repaired_service_starts_again_in_the_emergency_shell(job: Job[Outcome]) -> None:
    outcome = job.result()
    REPAIR.expect.check(outcome)
    first, _, record = outcome["again"].partition("\n")
    assert (first, json.loads(record)["verdict"]) == ("refused", "untrusted-signer")
    assert outcome["started"].splitlines()[-1] == "active"
    assert outcome.record["verdict"] == "verified"
    assert outcome["twice"] == outcome["mounts"]
    assert [m.target for m in outcome.mounts() if m.source.startswith("composefs:")] == ["/sysroot"]


# As the greeting of the emergency shell says: check again, and leave it; then its units run 'systemctl default'.
GO_ON = Scenario(
    "go-on",
    Passed(),
    disk=SIGNED_BY_STRANGER,
    initrd=_right,
    fsck=True,
    emergency=lambda: (
        f"""\
{_put_right()}
systemctl restart bootseal.service
systemctl --no-block default
sleep 200
"""
    ),
    script=ask(record="cat /run/bootseal/boot.json", unit="systemctl is-active bootseal.service"),
)


@runs(GO_ON)
def test_a_repaired_boot_goes_on(job: Job[Outcome]) -> None:
    outcome = job.result()
    GO_ON.expect.check(outcome)
    assert "bootseal: this boot was refused" in outcome.result.console
    assert (outcome.record["verdict"], outcome["unit"]) == ("verified", "active")


# --- leftovers of an earlier boot, and a medium that cannot be written


def _leftovers(image: guest.Image, disk: Path) -> None:
    """Change the disk as a cut between the two steps that clear and set the immutable flag does."""
    base = f"{DEPLOYMENTS}/.bootseal-{image.deployment.path.rsplit('/', 1)[1]}"
    junk = (put(f"{base}.new", b"junk"), put(f"{base}.immutable", b""))
    several(*junk, commands("set_inode_field /{deployment} flags 0x80000"))(image, disk)


def _seen() -> Mapping[str, guest.Content]:
    """End a verified boot in the initrd with its record, the mounts, and the state of the digest file."""
    sections = ask(record="cat /run/bootseal/boot.json", mounts="cat /proc/self/mountinfo", state=look("state", IN_INITRD))
    return {**end_in_initrd(sections), **LOOK, **signed.settings(FSVERITY)}


LEFTOVERS = Scenario("leftovers", Passed(), disk=_leftovers, initrd=_seen, fsck=True)


@runs(LEFTOVERS)
def test_leftovers_are_cleared_away(job: Job[Outcome]) -> None:
    """Leave a whole, enrolled digest file that can be opened, and no other file of the work."""
    outcome = job.result()
    LEFTOVERS.expect.check(outcome)
    enrollment = outcome.record["enrollment"]
    assert (outcome.record["verdict"], enrollment["missing"], enrollment["first_boot"]) == ("verified", [], True)
    assert last_json(outcome["state"]) == {**ENROLLED, "immutable": True, "leftovers": [], "superblock": "ro"}
    assert [m.super_options[0] for m in outcome.mounts() if m.target == IN_INITRD] == ["ro"]


READ_ONLY = Scenario("read-only", Passed(), initrd=_seen, readonly=True)


@runs(READ_ONLY)
def test_a_read_only_medium_boots_and_says_what_is_missing(job: Job[Outcome]) -> None:
    outcome = job.result()
    READ_ONLY.expect.check(outcome)
    enrollment = outcome.record["enrollment"]
    assert outcome.record["verdict"] == "verified"
    assert (enrollment["method"], enrollment["first_boot"], len(enrollment["missing"])) == ("fsverity", False, 1)
    assert f"bootseal: note: enrolling incomplete: {enrollment['missing'][0]}" in outcome.result.console
    assert last_json(outcome["state"])["verity"] is False
