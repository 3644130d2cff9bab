# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kills, power cuts, masks and fstab that a system must survive; attacks by root that must fail."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import pytest

from vm.enrolled import IN_INITRD
from vm.harness import guest, signed
from vm.harness.ask import ask, put_file
from vm.harness.cache import SCRIPTS, temporary
from vm.harness.changes import flip, object_of, put
from vm.harness.jobs import Job
from vm.harness.parse import Said, last_json, must_end
from vm.harness.units import end_in_initrd, ended_at
from vm.harness.writes import Write, read_log, replay
from vm.scenario import UNREAD_DISK, Ended, Interrupted, Outcome, Passed, Scenario, nightly, rows, runs

pytestmark = pytest.mark.vm

FSVERITY = "[Enroll]\nMethod=fsverity\n"
TAMPERED = "/usr/share/bootseal-test/tamper"
UNIT = "etc/systemd/system/bootseal.service"

# In the initrd, after the verified root was mounted and before the switch.
SEEN = ask(
    record="cat /run/bootseal/boot.json",
    mounts="cat /proc/self/mountinfo",
    run="ls -A /run/bootseal",
    again="/usr/bin/python3 -ISB /usr/lib/bootseal boot && cat /proc/self/mountinfo",
)


# --- the service never runs, or is killed

NEVER = "it never ran: masked or missing"
DISTURBED = [
    # Whole, because systemd reads the unit before the files of a resumed boot are there.
    Scenario("masked", Interrupted(NEVER), initrd={UNIT: guest.Symlink("/dev/null")}, whole=True),
    Scenario(
        "missing",
        Interrupted(NEVER),
        initrd={"usr/lib/systemd/system/bootseal.service": guest.Symlink("/nowhere")},
        whole=True,
        nightly=True,
    ),
    Scenario("killed", Interrupted("killed"), initrd=ended_at("kill 1 new_filesystem overlay")),
    Scenario("hanging", Interrupted("out of time"), initrd=ended_at("stop 1 new_filesystem overlay"), idle=True),
    Scenario(
        "killed-while-writable",
        Interrupted("killed"),
        initrd={**ended_at("kill 1 enable"), **signed.settings(FSVERITY)},
    ),
]


@rows(DISTURBED)
def test_interrupted(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# test_last_look.py has a reboot.
POWEROFF = Scenario(
    "poweroff",
    Ended("bad-command-line", "reboot: Power down"),
    cmdline="rd.bootseal.nonsense",
    fsck=True,
    emergency="",
    built=functools.partial(signed.initrd, "forky", "[Policy]\nOnRefusal=poweroff\n"),
)


@rows([POWEROFF])
def test_refusal_ends_as_configured(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# --- the disk's fstab, a second start, systemd's own switches

FSTAB = Scenario(
    "fstab",
    Passed(unwritten=True),
    disk=put(
        "{deployment}/etc/fstab",
        b"/evil /usr none bind 0 0\n/dev/vda /usr/share ext4 x-initrd.mount 0 0\ntmpfs /opt tmpfs x-initrd.mount 0 0\n",
    ),
    cmdline="rd.systemd.mask=bootseal.service",
    initrd=end_in_initrd(SEEN),
)


@runs(FSTAB)
def test_nothing_is_mounted_over_the_verified_root(job: Job[Outcome]) -> None:
    outcome = job.result()
    FSTAB.expect.check(outcome)
    assert outcome.record["verdict"] == "verified"
    expected = ["/sysroot", "/sysroot/boot", "/sysroot/etc", "/sysroot/sysroot", "/sysroot/var"]
    assert sorted(m.target for m in outcome.mounts() if m.target.startswith("/sysroot")) == expected


@runs(FSTAB)
def test_a_second_start_changes_nothing(job: Job[Outcome]) -> None:
    outcome = job.result()
    assert outcome["again"].splitlines() == outcome["mounts"].splitlines()
    assert outcome["run"].split() == ["attached", "boot.json"]
    assert outcome.result.console.count("bootseal: verified") == 1


# --- root of the booted system against the kernel's keyrings

ATTACKS = [
    Scenario(
        suite,
        Passed(),
        disk=put("{deployment}/etc/fstab", b"guest-var /var tmpfs mode=0755 0 0\n"),
        suite=suite,
        fsck=True,
        script=put_file("/run/attack.py", (SCRIPTS / "attack.py").read_bytes())
        + ask(
            record="cat /run/bootseal/boot.json",
            attack="python3 /run/attack.py",
            var="findmnt --noheadings --output=SOURCE /var",
        ),
    )
    for suite in ("forky", "trixie")
]


@runs(*ATTACKS)
def test_root_cannot_change_the_keyrings(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    image, found = outcome.record["image"], last_json(outcome["attack"])
    assert found["succeeded"] == []
    assert found["for_another_reason"] == []
    assert found["attacks"] > 40
    assert found["members"]
    assert not found["forged"]
    assert found["digest"] == f"{image['algorithm']}:{image['digest']}"


@runs(*ATTACKS)
def test_a_var_of_its_own_is_mounted(job: Job[Outcome]) -> None:
    """On another partition, for example; systemd does not mount over another mount."""
    outcome = job.result().must_end()
    assert outcome["var"].split() == ["guest-var"]
    assert "/var" in outcome.record["not_covered"]


# --- a changed object

OBJECT = Scenario(
    "object",
    Passed(),
    disk=flip(object_of(TAMPERED), 20000),
    fsck=True,
    script=ask(
        tampered=f"cat {TAMPERED} 2>&1 >/dev/null || true",
        others="cat /usr/bin/* /usr/lib/systemd/system/*.service >/dev/null && echo whole",
    ),
)


@runs(OBJECT)
def test_a_changed_object_cannot_be_read(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    assert "Input/output error" in outcome["tampered"]
    assert outcome["others"] == "whole"


# --- power cuts, with the method that writes

POINTS = 12  # a first boot writes twelve times, on ext4: one cut before each, and one behind the last
SEEN_ENROLLED = ask(
    record="cat /run/bootseal/boot.json",
    mounts="cat /proc/self/mountinfo",
    leftovers="ls -A /sysroot/sysroot/ostree/deploy/guest/deploy",
)
_lock = threading.Lock()


def _boot_to_initrd(title: str, disk: Path | None = None, writes: Path | None = None) -> guest.Result:
    """Boot, enroll and end in the initrd, from a new disk or one that this boot writes to."""
    files = {**end_in_initrd(SEEN_ENROLLED), **signed.settings(FSVERITY)}
    return guest.boot(
        signed.image(),
        signed.initrd(),
        append=UNREAD_DISK,
        disk=disk,
        snapshot=disk is None,
        extra_initrd_files=files,
        writes=writes,
        title=title,
    )


@functools.cache
def _writes() -> list[Write]:
    """Record all that a first boot writes to its disk."""
    log = temporary() / "writes"
    must_end(_boot_to_initrd("first boot, its writes recorded", writes=log))
    writes = read_log(log)
    assert len(writes) > POINTS // 2, "hardly two of the points differ"
    return writes


def _after_cut(point: int) -> guest.Result:
    """Boot the disk as a power cut leaves it after so many twelfths of the first boot's writes."""
    with _lock:
        writes = _writes()
    count = len(writes) * point // POINTS
    disk = guest.overlay(signed.image().disk, temporary() / "cut.qcow2")
    replay(writes[:count], disk)
    return _boot_to_initrd(f"boot after a power cut behind write {count} of {len(writes)}", disk)


CUTS = [
    pytest.param(Job(functools.partial(_after_cut, point)), point, id=f"{point}-twelfths", marks=nightly(point % 2 == 1))
    for point in range(POINTS + 1)
]


@pytest.mark.parametrize(("job", "point"), CUTS)
def test_power_cut_while_enrolling_leaves_a_bootable_disk(job: Job[guest.Result], point: int) -> None:
    said = Said.of(job.result())
    enrollment = said.record["enrollment"]
    assert said.record["verdict"] == "verified"
    assert enrollment["missing"] == []
    assert enrollment["first_boot"] in {0: {True}, POINTS: {False}}.get(point, {True, False})
    assert not [name for name in said["leftovers"].split() if name.startswith(".bootseal")]
    assert {m.super_options for m in said.mounts() if m.target == IN_INITRD} == {("ro",)}
