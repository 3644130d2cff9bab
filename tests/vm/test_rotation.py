# SPDX-License-Identifier: LGPL-2.1-or-later
"""Replace a digest file whose enrolling key was removed: at boot and by `deploy`, cut at each point.

One disk for all: enrolled with one key, then signed with another, whose certificate is the only one in each initrd here.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vm.enrolled import ENROLLED, GONE, IN_INITRD, LOOK, PLAIN, PROGRAM, look
from vm.harness import guest, qemu, signed
from vm.harness.ask import ask, put_file
from vm.harness.cache import SCRIPTS, output_of, temporary
from vm.harness.changes import put
from vm.harness.jobs import Job
from vm.harness.parse import Said, first_json, last_json, must_end
from vm.harness.units import PLAN, check_cut, end_in_initrd, ended_at

pytestmark = pytest.mark.vm

_lock = threading.Lock()


def _new() -> signed.Key:
    return signed.key(name="new")


def _signature(kind: str = "signature") -> bytes:
    """Sign with the new key; another kind is another signature."""
    return signed.sign(signed.image_digest(signed.image().deployment.cfs), _new(), kind=kind)


def _settings(method: str) -> dict[str, guest.Content]:
    """Make files for the initrd: the new key's certificate, and the program that looks at the digest file."""
    return {**signed.settings(f"[Enroll]\nMethod={method}\n", keys=[_new()]), **LOOK}


@functools.cache
def _made() -> Path:
    image, raw = signed.image(), temporary() / "rotated.raw"
    files = {**end_in_initrd("true"), **signed.settings("[Enroll]\nMethod=fsverity\n")}
    first = guest.boot(image, signed.initrd(), extra_initrd_files=files, title="enrolled with the old key")
    must_end(first)
    output_of("qemu-img", "convert", "-O", "raw", first.overlay, raw)
    put("{signature}", _signature())(image, raw)
    return raw


def _boot(
    method: str, *, disk: Path | None = None, files: Mapping[str, guest.Content] | None = None, **options: Any
) -> guest.Result:
    """Boot the one disk of all, or that of a boot before."""
    with _lock:
        rotated = _made()
    return guest.boot(
        signed.image(),
        signed.initrd(),
        disk=disk or rotated,
        snapshot=disk is None,
        extra_initrd_files={**_settings(method), **(files or {})},
        timeout=qemu.LONG,
        **options,
    )


# --- without interruptions


def _undisturbed() -> guest.Result:
    path = signed.image().deployment.path
    script = put_file("/run/enrolled.py", PROGRAM) + ask(
        record="cat /run/bootseal/boot.json",
        digest=f"fsverity measure /sysroot/{path}/{signed.DIGEST}",
        state=look("state", "/sysroot", "/run"),
    )
    return _boot("fsverity", script=script, title="rotated key, fsverity")


@pytest.mark.parametrize("job", [pytest.param(Job(_undisturbed), id="fsverity")])
def test_rotated_key_with_fsverity_replaces_the_digest_file(job: Job[guest.Result]) -> None:
    said = Said.of(job.result())
    assert said.record["signature"]["subject"] == "CN=new p256"
    enrollment = said.record["enrollment"]
    assert (enrollment["first_boot"], enrollment["missing"]) == (True, [])
    assert 0 < enrollment["bytes_written"] < 128 * 1024
    assert "the digest file cannot be opened" in said.result.console
    assert said["digest"].startswith("sha256:")
    assert last_json(said["state"]) == {**ENROLLED, "immutable": True, "leftovers": [], "superblock": "rw"}


# --- at boot: killed before each step of the replacement, then the power cut between two of them

# The plan, the state after it, and whether the next start still has work to do.
KILLS: Mapping[str, tuple[str, dict[str, Any], bool]] = {
    "written": ("kill 1 enable", {**GONE, "immutable": True, "leftovers": ["new"]}, True),
    "linked": ("kill 1 set_immutable False", {**GONE, "immutable": True, "leftovers": ["immutable", "new"]}, True),
    "mutable": ("kill 1 rename .bootseal-", {**GONE, "immutable": False, "leftovers": ["immutable", "new"]}, True),
    "renamed": ("kill 1 set_immutable True", {**ENROLLED, "immutable": False, "leftovers": ["immutable"]}, True),
    "restored": ("kill 2 unlink .immutable", {**ENROLLED, "immutable": True, "leftovers": ["immutable"]}, True),
    "complete": ("kill 1 reconfigure 'ro'", {**ENROLLED, "immutable": True, "leftovers": []}, False),
}
CUT_AT = KILLS["mutable"][0].replace("kill", "cut")
START = "systemctl reset-failed bootseal.service; systemctl restart bootseal.service"
# As after a kill that came too late: the physical root is at /sysroot again, without a trace.
UNDO = "SERVICE_RESULT=signal EXIT_CODE=exited EXIT_STATUS=77 /usr/bin/python3 -ISB /usr/lib/bootseal cleanup"


def _writable(*commands: str) -> str:
    return "\n".join(["mount -o remount,rw /sysroot", *commands, "mount -o remount,ro /sysroot"])


def _kill_script() -> str:
    """Make a script for the emergency environment: the boot itself was killed at the first point."""
    sections = {}
    for number, (name, (plan, _, _)) in enumerate(KILLS.items()):
        again = f'{_again(plan)}\n{START} && echo "not killed"'
        sections[f"killed_{name}"] = f"{again if number else ':'}\n{look('state', '/sysroot')}"
        keep = "" if number else _writable(look("keep", "/sysroot"))
        record = "cat /run/bootseal/boot.json"
        sections[f"good_{name}"] = f"{keep}\nrm {PLAN}\n{START}\n{record}\n{look('state', '/sysroot/sysroot')}\n{UNDO}"
    return ask(**sections, cut=f"{_again(CUT_AT)}\n{START}")


def _again(plan: str) -> str:
    return f"{_writable(look('reset', '/sysroot'))}\necho {json.dumps(plan)} >{PLAN}"


def _killed_and_cut() -> tuple[guest.Result, guest.Result]:
    files = ended_at(next(iter(KILLS.values()))[0])
    cut = _boot("fsverity", files=files, emergency_script=_kill_script(), title="killed while replacing")
    return cut, _seen_in_initrd(cut, "after the power cut while replacing")


def _seen_in_initrd(cut: guest.Result, title: str) -> guest.Result:
    """Boot after a power cut."""
    seen = ask(record="cat /run/bootseal/boot.json", state=look("state", IN_INITRD))
    return _boot("fsverity", files=end_in_initrd(seen), disk=cut.overlay, title=title)


REPLACED = Job(_killed_and_cut, boots=2)


@pytest.mark.parametrize("name", KILLS)
@pytest.mark.parametrize("job", [pytest.param(REPLACED, id="boot")])
def test_killed_replacement_is_completed_by_the_next_start(job: Job[tuple[guest.Result, guest.Result]], name: str) -> None:
    _, expected, unfinished = KILLS[name]
    killed, good = (Said(job.result()[0])[f"{which}_{name}"] for which in ("killed", "good"))
    assert last_json(killed) == {**expected, "superblock": "ro"}
    assert "not killed" not in killed
    _check_good(first_json(good), last_json(good), first=unfinished)


def _after_cut(cut: guest.Result, after: guest.Result) -> Said:
    """Read the report of the boot after a power cut."""
    assert "cut" in Said(cut).sections
    check_cut(cut)
    return Said.of(after)


def _check_good(record: dict[str, Any], state: dict[str, Any], *, first: bool, left: Sequence[str] = ()) -> None:
    assert (record["verdict"], record["signature"]["subject"]) == ("verified", "CN=new p256")
    assert (record["enrollment"]["first_boot"], record["enrollment"]["missing"]) == (first, [])
    assert state == {**ENROLLED, "immutable": True, "leftovers": [*left], "superblock": "ro"}


@pytest.mark.parametrize("job", [pytest.param(REPLACED, id="boot")])
def test_power_cut_while_replacing_leaves_a_bootable_disk(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    said = _after_cut(*job.result())
    assert "the digest file cannot be opened" in said.result.console
    _check_good(said.record, last_json(said["state"]), first=True)


# --- in the booted system: the method keyring leaves the file as it is, `deploy` replaces it

DEPLOY_KILLS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "staged": ("kill 1 set_immutable False", {**GONE, "immutable": True, "leftovers": ["digest.new", "immutable", "sig.new"]}),
    "between": (
        "kill 1 rename .digest.new",
        {**GONE, "immutable": False, "leftovers": ["digest.new", "digest.old", "immutable", "sig.old"]},
    ),
    # The first call completes what the run before has left.
    "renamed": (
        "kill 2 set_immutable True",
        {**PLAIN, "immutable": False, "leftovers": ["digest.old", "immutable", "sig.old"]},
    ),
}


def _in_booted(**sections: str) -> str:
    """Make a script with its files: the programs that look and kill, and two signatures by the new key."""
    files = {f"/run/{name}.py": (SCRIPTS / f"{name}.py").read_bytes() for name in ("cut", "enrolled")}
    files |= {"/run/keys.d/new.pem": _new().certificate.read_bytes()}
    files |= {"/run/old.sig": _signature(), "/run/new.sig": _signature("signature-again")}
    return "".join(put_file(path, content) for path, content in files.items()) + ask(
        record="cat /run/bootseal/boot.json", **sections
    )


def _deploy(which: str, plan: str = "") -> str:
    command = f"deploy --keys /run/keys.d --signature /run/{which}.sig --json=short"
    if not plan:
        return f"bootseal {command}"
    return f"echo {json.dumps(plan)} >/run/plan\npython3 -I /run/cut.py /run/plan {command} 2>&1"


def _deployed_and_cut() -> tuple[guest.Result, guest.Result]:
    state = look("state", "/sysroot", "/run")
    digest = f"/sysroot/{signed.image().deployment.path}/{signed.DIGEST}"
    kills = {
        f"killed_{name}": f'{_deploy("new", plan)} || echo "status $?"\n{state}' for name, (plan, _) in DEPLOY_KILLS.items()
    }
    script = _in_booted(
        measure=f"fsverity measure {digest} 2>&1 || true",
        before=state,
        **kills,
        deployed=f"{_deploy('new')}\n{state}",
        cut=_deploy("old", "cut 1 set_immutable True"),
    )
    cut = _boot("keyring", script=script, title="rotated key, keyring; deploy killed")
    return cut, _seen_in_initrd(cut, "after the power cut while deploying")


DEPLOYED = Job(_deployed_and_cut, boots=2)
deployed = pytest.mark.parametrize("job", [pytest.param(DEPLOYED, id="deploy")])


@deployed
def test_rotated_key_with_keyring_boots_without_writing(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    """The method keyring leaves the old file unchanged, so it still cannot be opened."""
    said = Said(job.result()[0])
    record = said.record
    assert (record["verdict"], record["enrollment"]["bytes_written"]) == ("verified", 0)
    assert "the digest file cannot be opened" in said.result.console
    assert "Required key not available" in said["measure"]
    assert last_json(said["before"]) == {**GONE, "immutable": True, "leftovers": [], "superblock": "rw"}


@deployed
@pytest.mark.parametrize("name", DEPLOY_KILLS)
def test_killed_deploy_leaves_a_known_state(job: Job[tuple[guest.Result, guest.Result]], name: str) -> None:
    killed = Said(job.result()[0])[f"killed_{name}"]
    assert "status 137" in killed
    assert last_json(killed) == {**DEPLOY_KILLS[name][1], "superblock": "rw"}


@deployed
def test_deploy_completes_what_a_killed_one_began(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    section = Said(job.result()[0])["deployed"]
    assert first_json(section)["verdict"] == "verified"
    assert last_json(section) == {**PLAIN, "immutable": True, "leftovers": [], "superblock": "rw"}


@deployed
def test_power_cut_while_deploying_leaves_a_bootable_disk(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    """The boot makes the directory immutable again; the next run removes the leftovers."""
    said = _after_cut(*job.result())
    _check_good(said.record, last_json(said["state"]), first=True, left=["digest.new", "sig.old"])
