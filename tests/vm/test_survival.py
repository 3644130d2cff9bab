# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a system has to survive, and what an attacker has to fail at: kills, power cuts, masks, fstab, root."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from vm import scenario
from vm.harness import guest, parse, signed
from vm.harness.ask import ask
from vm.harness.cache import temporary
from vm.harness.changes import flip, object_of, put
from vm.harness.jobs import Job
from vm.harness.units import end_in_initrd, ended_at
from vm.harness.writes import Write, read_log, replay
from vm.scenario import Outcome

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


def _refused(title: str, files: Mapping[str, guest.Content], *, initrd: Path | None = None, append: str = "") -> Job[Outcome]:
    return Job(
        lambda: scenario.boot(
            initrd=initrd,
            append=f"{scenario.UNREAD_DISK} {append}",
            extra_initrd_files=files,
            emergency_script=scenario.WITNESS,
            title=title,
        )
    )


# --- the service does not run, or not to its end

NEVER = "it never ran: masked, missing, or the physical root could not be mounted"
DISTURBED = {
    "masked": (_refused("masked", {UNIT: guest.Symlink("/dev/null")}), NEVER),
    "missing": (_refused("missing", {"usr/lib/systemd/system/bootseal.service": guest.Symlink("/nowhere")}), NEVER),
    "killed": (_refused("killed", ended_at("kill 1 new_filesystem overlay")), "killed"),
    "hanging": (_refused("hanging", ended_at("stop 1 new_filesystem overlay")), "out of time"),
    "killed-while-writable": (
        _refused("killed while writable", {**ended_at("kill 1 enable"), **signed.settings(FSVERITY)}),
        "killed",
    ),
}


@pytest.mark.parametrize(("job", "what"), DISTURBED.values(), ids=list(DISTURBED))
def test_interrupted(job: Job[Outcome], what: str) -> None:
    scenario.check_interrupted(job.result(), what)


def _ending(on_refusal: str) -> Job[Outcome]:
    def run() -> Outcome:
        keys = [signed.named(signed.key().certificate)]
        made = guest.initrd("forky", keys=keys, conf=f"[Policy]\nOnRefusal={on_refusal}\n")
        return scenario.boot(initrd=made.path, append="rd.bootseal.nonsense", title=f"OnRefusal={on_refusal}")

    return Job(run)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        pytest.param(_ending("reboot"), "reboot: Restarting system", id="reboot"),
        pytest.param(_ending("poweroff"), "reboot: Power down", id="poweroff"),
    ],
)
def test_on_refusal(job: Job[Outcome], said: str) -> None:
    outcome = job.result()
    assert outcome.result.ended == "exit"
    assert outcome.result.status not in (guest.PASSED, guest.REFUSED, guest.FAILED)
    assert "bootseal: refused (bad-command-line)" in outcome.result.console
    assert said in outcome.result.console
    assert "emergency environment" not in outcome.result.console


# --- the disk's fstab, a second start, systemd's own switches

FSTAB = b"/evil /usr none bind 0 0\n/dev/vda /usr/share ext4 x-initrd.mount 0 0\ntmpfs /opt tmpfs x-initrd.mount 0 0\n"
FSTAB_JOB = Job(
    lambda: scenario.boot(
        put("{deployment}/etc/fstab", FSTAB),
        append=f"{scenario.UNREAD_DISK} rd.systemd.mask=bootseal.service",
        extra_initrd_files=end_in_initrd(SEEN),
        title="fstab of the disk",
    )
)


def _targets(mountinfo: str) -> list[str]:
    return sorted(line.split()[4] for line in mountinfo.splitlines() if line.split()[4].startswith("/sysroot"))


@pytest.mark.parametrize("job", [pytest.param(FSTAB_JOB, id="fstab")])
def test_nothing_is_mounted_over_the_verified_root(job: Job[Outcome]) -> None:
    outcome = job.result()
    parse.ended(outcome.result, guest.PASSED)
    assert json.loads(outcome.sections["record"])["verdict"] == "verified"
    expected = ["/sysroot", "/sysroot/boot", "/sysroot/etc", "/sysroot/sysroot", "/sysroot/var"]
    assert _targets(outcome.sections["mounts"]) == expected
    assert outcome.written == 0


@pytest.mark.parametrize("job", [pytest.param(FSTAB_JOB, id="fstab")])
def test_a_second_start_changes_nothing(job: Job[Outcome]) -> None:
    outcome = job.result()
    assert outcome.sections["again"].splitlines() == outcome.sections["mounts"].splitlines()
    assert outcome.sections["run"].split() == ["attached", "boot.json"]
    assert outcome.result.console.count("bootseal: verified") == 1


# --- root of the booted system against the kernel's keyrings

ATTACK = r"""python3 - <<'EOF'
import json, subprocess
def keyctl(*words):
    done = subprocess.run(["keyctl", *words], capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip()
listed = [line.split(None, 8) for line in open("/proc/keys")]
anchor = next("0x" + k[0] for k in listed if k[8].startswith(".fs-verity:"))
members = keyctl("rlist", anchor)[1].split()
named = {m: keyctl("rdescribe", m)[1].split(";")[-1] for m in members}
ring = next(m for m in members if named[m] == "bootseal")
certificate = next(m for m in members if named[m].startswith("bootseal:"))
digest = keyctl("rlist", ring)[1].split()[0]
own = keyctl("newring", "own", "@s")[1]  # of the session, or it is not ours to write to
other = keyctl("add", "user", "other", "x", own)[1]
attacks = [("padd", "user", "x", anchor), ("padd", "user", "composefs-digest", ring), ("update", digest, "x")]
for key in (anchor, ring, digest, certificate):
    attacks += [("revoke", key), ("invalidate", key), ("setperm", key, "0x3f3f3f3f"), ("chown", key, "65534"),
                ("chgrp", key, "65534"), ("timeout", key, "1"), ("link", key, own)]
for target in (anchor, ring):
    attacks += [("clear", target), ("link", other, target), ("restrict_keyring", target), ("move", other, own, target),
                ("newring", "bootseal", target)]
    attacks += [("unlink", key, target) for key in (ring, digest, certificate)]
attacks += [("move", digest, ring, own), ("move", ring, anchor, own), ("move", certificate, anchor, own)]
tried = [(a, *keyctl(*a)) for a in attacks]
denied = ("Permission denied", "Operation not permitted")
succeeded = [a for a, status, said in tried if status == 0]
for_another_reason = [(a, said) for a, status, said in tried if status and not said.endswith(denied)]
subprocess.run(["keyctl", "clear", "@u"])
forged = keyctl("newring", "bootseal", "@u")[1]
print(json.dumps({"attacks": len(attacks), "succeeded": succeeded,
                  "for_another_reason": for_another_reason, "members": keyctl("rlist", anchor)[1].split() == members,
                  "digest": keyctl("print", digest)[1], "forged": forged in keyctl("rlist", anchor)[1].split()}))
EOF"""
OWN_VAR = b"guest-var /var tmpfs mode=0755 0 0\n"
ATTACK_JOBS = {
    suite: Job(
        lambda suite=suite: scenario.boot(  # type: ignore[misc]
            put("{deployment}/etc/fstab", OWN_VAR),
            suite=suite,
            script=ask(record="cat /run/bootseal/boot.json", attack=ATTACK, var="findmnt --noheadings --output=SOURCE /var"),
            title=f"attack on {suite}",
        )
    )
    for suite in ("forky", "trixie")
}


@pytest.mark.parametrize("job", ATTACK_JOBS.values(), ids=list(ATTACK_JOBS))
def test_root_cannot_change_the_keyrings(job: Job[Outcome]) -> None:
    outcome = job.result()
    parse.ended(outcome.result, guest.PASSED)
    image = json.loads(outcome.sections["record"])["image"]
    found = json.loads(outcome.sections["attack"])
    assert found["succeeded"] == []
    assert found["for_another_reason"] == []
    assert found["attacks"] > 40
    assert found["members"]
    assert not found["forged"]
    assert found["digest"] == f"{image['algorithm']}:{image['digest']}"


@pytest.mark.parametrize("job", ATTACK_JOBS.values(), ids=list(ATTACK_JOBS))
def test_a_var_of_its_own_is_mounted(job: Job[Outcome]) -> None:
    """One on another partition, say. systemd mounts nothing where something is mounted already."""
    outcome = job.result()
    parse.ended(outcome.result, guest.PASSED)
    assert outcome.sections["var"].split() == ["guest-var"]
    assert "/var" in json.loads(outcome.sections["record"])["not_covered"]


# --- a changed object

OBJECT_JOB = Job(
    lambda: scenario.boot(
        flip(object_of(TAMPERED), 20000),
        script=ask(
            tampered=f"cat {TAMPERED} 2>&1 >/dev/null || true",
            others="cat /usr/bin/* /usr/lib/systemd/system/*.service >/dev/null && echo whole",
        ),
        title="changed object",
    )
)


@pytest.mark.parametrize("job", [pytest.param(OBJECT_JOB, id="object")])
def test_a_changed_object_cannot_be_read(job: Job[Outcome]) -> None:
    outcome = job.result()
    parse.ended(outcome.result, guest.PASSED)
    assert "Input/output error" in outcome.sections["tampered"]
    assert outcome.sections["others"] == "whole"


# --- power cuts, with the method that writes

POINTS = 12  # a first boot writes twelve times, on ext4: one cut before each, and one behind the last
SEEN_ENROLLED = ask(
    record="cat /run/bootseal/boot.json",
    mounts="cat /proc/self/mountinfo",
    leftovers="ls -A /sysroot/sysroot/ostree/deploy/guest/deploy",
)
_lock = threading.Lock()


def _boot_to_initrd(title: str, disk: Path | None = None, writes: Path | None = None) -> guest.Result:
    """A boot that enrolls and ends in the initrd, from a new disk or one that it goes on to write to."""
    files = {**end_in_initrd(SEEN_ENROLLED), **signed.settings(FSVERITY)}
    return guest.boot(
        signed.image(),
        signed.initrd(),
        append=scenario.UNREAD_DISK,
        disk=disk,
        snapshot=disk is None,
        extra_initrd_files=files,
        writes=writes,
        title=title,
    )


@functools.cache
def _writes() -> list[Write]:
    """All that a first boot writes to its disk."""
    log = temporary() / "writes"
    parse.ended(_boot_to_initrd("first boot, its writes recorded", writes=log), guest.PASSED)
    writes = read_log(log)
    assert len(writes) > POINTS // 2, "hardly two of the points differ"
    return writes


def _after_cut(point: int) -> guest.Result:
    """The boot from what the disk holds if the first one loses its power after so many twelfths of its writes."""
    with _lock:
        writes = _writes()
    count = len(writes) * point // POINTS
    disk = guest.overlay(signed.image().disk, temporary() / "cut.qcow2")
    replay(writes[:count], disk)
    return _boot_to_initrd(f"boot after a power cut behind write {count} of {len(writes)}", disk)


CUTS = [pytest.param(Job(functools.partial(_after_cut, point)), point, id=f"{point}-twelfths") for point in range(POINTS + 1)]


@pytest.mark.parametrize(("job", "point"), CUTS)
def test_a_power_cut_while_enrolling(job: Job[guest.Result], point: int) -> None:
    result = job.result()
    parse.ended(result, guest.PASSED)
    found = parse.sections(result.report)
    record = json.loads(found["record"])
    assert record["verdict"] == "verified"
    assert record["enrollment"]["missing"] == []
    assert record["enrollment"]["first_boot"] in {0: {True}, POINTS: {False}}.get(point, {True, False})
    assert not [name for name in found["leftovers"].split() if name.startswith(".bootseal")]
    assert {line.split(" - ")[1].split()[2] for line in found["mounts"].splitlines() if " /sysroot/sysroot " in line} == {"ro"}
