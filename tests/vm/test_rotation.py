# SPDX-License-Identifier: LGPL-2.1-or-later
"""A digest file that was enrolled with a key that is gone: replaced at boot and by `deploy`, cut at each point of either.

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

from vm.harness import guest, parse, qemu, signed
from vm.harness.ask import ask, put_file
from vm.harness.cache import SCRIPTS, output_of, temporary
from vm.harness.changes import put
from vm.harness.jobs import Job
from vm.harness.parse import json_of
from vm.harness.units import PLAN, check_cut, end_in_initrd, ended_at

pytestmark = pytest.mark.vm

AIDS = "/usr/lib/bootseal-test"
_lock = threading.Lock()


def _new() -> signed.Key:
    return signed.key(name="new")


def _signature(kind: str = "signature") -> bytes:
    """By the new key; another kind is another signature."""
    return signed.sign(signed.image_digest(signed.image().deployment.cfs), _new(), kind=kind)


def _settings(method: str) -> dict[str, guest.Content]:
    """Files for the initrd: the new key's certificate, and what looks at the digest file."""
    look = {f"{AIDS[1:]}/enrolled.py": (SCRIPTS / "enrolled.py").read_bytes()}
    return {**signed.settings(f"[Enroll]\nMethod={method}\n", keys=[_new()]), **look}


def _look(verb: str, sysroot: str, aids: str = AIDS) -> str:
    return f"python3 -I {aids}/enrolled.py {verb} {sysroot} {signed.image().deployment.path}"


@functools.cache
def _made() -> Path:
    image, raw = signed.image(), temporary() / "rotated.raw"
    files = {**end_in_initrd("true"), **signed.settings("[Enroll]\nMethod=fsverity\n")}
    first = guest.boot(image, signed.initrd(), extra_initrd_files=files, title="enrolled with the old key")
    parse.ended(first, guest.PASSED)
    output_of("qemu-img", "convert", "-O", "raw", first.overlay, raw)
    put("{signature}", _signature())(image, raw)
    return raw


def _boot(
    method: str, *, disk: Path | None = None, files: Mapping[str, guest.Content] | None = None, **options: Any
) -> guest.Result:
    """From the one disk of all, or from that of a boot before."""
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


def _record(section: str) -> dict[str, Any]:
    """The first JSON of a section."""
    found: dict[str, Any] = json.JSONDecoder().raw_decode(section, section.index("{"))[0]
    return found


def _state(section: str) -> dict[str, Any]:
    """The last line of a section."""
    found: dict[str, Any] = json.loads(section.splitlines()[-1])
    return found


BESIDE = {"files": [signed.IMAGE, signed.DIGEST, signed.SIGNATURE]}
GONE = {"opens": "ENOKEY", **BESIDE}
PLAIN = {"opens": True, "size": 32, "verity": False, **BESIDE}
ENROLLED = {**PLAIN, "verity": True}


# --- without a disturbance


def _undisturbed() -> guest.Result:
    path = signed.image().deployment.path
    script = put_file("/run/enrolled.py", (SCRIPTS / "enrolled.py").read_bytes()) + ask(
        record="cat /run/bootseal/boot.json",
        digest=f"fsverity measure /sysroot/{path}/{signed.DIGEST}",
        state=_look("state", "/sysroot", "/run"),
    )
    return _boot("fsverity", script=script, title="rotated key, fsverity")


@pytest.mark.parametrize("job", [pytest.param(Job(_undisturbed), id="fsverity")])
def test_a_rotated_key_under_an_enrolled_digest_file(job: Job[guest.Result]) -> None:
    result = job.result()
    parse.ended(result, guest.PASSED)
    found = parse.sections(result.report)
    record = json.loads(found["record"])
    assert record["signature"]["subject"] == "CN=new p256"
    assert (record["enrollment"]["first_boot"], record["enrollment"]["missing"]) == (True, [])
    assert 0 < record["enrollment"]["bytes_written"] < 128 * 1024
    assert "the digest file cannot be opened" in result.console
    assert found["digest"].startswith("sha256:")
    assert _state(found["state"]) == {**ENROLLED, "immutable": True, "leftovers": [], "superblock": "rw"}


# --- at boot: killed before each step of the replacement, then the power cut between two of them

# The plan, what is there then, and whether the next start still has something to do.
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
# As after a kill that came too late: the physical root is at /sysroot again, and says nothing of it.
UNDO = "SERVICE_RESULT=signal EXIT_CODE=exited EXIT_STATUS=77 /usr/bin/python3 -ISB /usr/lib/bootseal cleanup"


def _writable(*commands: str) -> str:
    return "\n".join(["mount -o remount,rw /sysroot", *commands, "mount -o remount,ro /sysroot"])


def _kill_script() -> str:
    """For the emergency environment: the boot itself was killed at the first point."""
    sections = {}
    for number, (name, (plan, _, _)) in enumerate(KILLS.items()):
        again = f'{_again(plan)}\n{START} && echo "not killed"'
        sections[f"killed_{name}"] = f"{again if number else ':'}\n{_look('state', '/sysroot')}"
        keep = "" if number else _writable(_look("keep", "/sysroot"))
        record = "cat /run/bootseal/boot.json"
        sections[f"good_{name}"] = f"{keep}\nrm {PLAN}\n{START}\n{record}\n{_look('state', '/sysroot/sysroot')}\n{UNDO}"
    return ask(**sections, cut=f"{_again(CUT_AT)}\n{START}")


def _again(plan: str) -> str:
    return f"{_writable(_look('reset', '/sysroot'))}\necho {json.dumps(plan)} >{PLAN}"


def _killed_and_cut() -> tuple[guest.Result, guest.Result]:
    files = ended_at(next(iter(KILLS.values()))[0])
    cut = _boot("fsverity", files=files, emergency_script=_kill_script(), title="killed while replacing")
    return cut, _seen_in_initrd(cut, "after the power cut while replacing")


def _seen_in_initrd(cut: guest.Result, title: str) -> guest.Result:
    """The boot after a power cut."""
    seen = ask(record="cat /run/bootseal/boot.json", state=_look("state", "/sysroot/sysroot"))
    return _boot("fsverity", files=end_in_initrd(seen), disk=cut.overlay, title=title)


def _section(result: guest.Result, name: str) -> str:
    """A section of a boot that ends with a power cut, or earlier than it should."""
    found = parse.sections(result.report)
    assert name in found, f"{result.ended} {result.status}\n{result.console[-4000:]}\n--- report\n{result.report[-4000:]}"
    return found[name]


REPLACED = Job(_killed_and_cut)


@pytest.mark.parametrize("name", KILLS)
@pytest.mark.parametrize("job", [pytest.param(REPLACED, id="boot")])
def test_killed_while_the_digest_file_is_replaced(job: Job[tuple[guest.Result, guest.Result]], name: str) -> None:
    _, expected, unfinished = KILLS[name]
    killed, good = (_section(job.result()[0], f"{which}_{name}") for which in ("killed", "good"))
    assert _state(killed) == {**expected, "superblock": "ro"}
    assert "not killed" not in killed
    _check_good(_record(good), _state(good), first=unfinished)


def _after_cut(cut: guest.Result, after: guest.Result) -> dict[str, str]:
    """What the boot after a power cut reports."""
    _section(cut, "cut")
    check_cut(cut)
    parse.ended(after, guest.PASSED)
    return parse.sections(after.report)


def _check_good(record: dict[str, Any], state: dict[str, Any], *, first: bool, left: Sequence[str] = ()) -> None:
    assert (record["verdict"], record["signature"]["subject"]) == ("verified", "CN=new p256")
    assert (record["enrollment"]["first_boot"], record["enrollment"]["missing"]) == (first, [])
    assert state == {**ENROLLED, "immutable": True, "leftovers": [*left], "superblock": "ro"}


@pytest.mark.parametrize("job", [pytest.param(REPLACED, id="boot")])
def test_a_power_cut_while_the_digest_file_is_replaced(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    found = _after_cut(*job.result())
    assert "the digest file cannot be opened" in job.result()[1].console
    _check_good(json.loads(found["record"]), _state(found["state"]), first=True)


# --- in the booted system: the method keyring leaves the file as it is, `deploy` replaces it

DEPLOY_KILLS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "staged": ("kill 1 set_immutable False", {**GONE, "immutable": True, "leftovers": ["digest.new", "immutable", "sig.new"]}),
    "between": (
        "kill 1 rename .digest.new",
        {**GONE, "immutable": False, "leftovers": ["digest.new", "digest.old", "immutable", "sig.old"]},
    ),
    # The first time is what the run before has left to do.
    "renamed": (
        "kill 2 set_immutable True",
        {**PLAIN, "immutable": False, "leftovers": ["digest.old", "immutable", "sig.old"]},
    ),
}


def _in_booted(**sections: str) -> str:
    """A script with its files: what looks, what kills, and two signatures by the new key."""
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
    state = _look("state", "/sysroot", "/run")
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


DEPLOYED = Job(_deployed_and_cut)
deployed = pytest.mark.parametrize("job", [pytest.param(DEPLOYED, id="deploy")])


@deployed
def test_a_rotated_key_without_writing(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    """The method keyring leaves the old file as it is, so it can still not be opened."""
    result = job.result()[0]
    record = json.loads(_section(result, "record"))
    assert (record["verdict"], record["enrollment"]["bytes_written"]) == ("verified", 0)
    assert "the digest file cannot be opened" in result.console
    assert "Required key not available" in _section(result, "measure")
    assert _state(_section(result, "before")) == {**GONE, "immutable": True, "leftovers": [], "superblock": "rw"}


@deployed
@pytest.mark.parametrize("name", DEPLOY_KILLS)
def test_deploy_killed(job: Job[tuple[guest.Result, guest.Result]], name: str) -> None:
    killed = _section(job.result()[0], f"killed_{name}")
    assert "status 137" in killed
    assert _state(killed) == {**DEPLOY_KILLS[name][1], "superblock": "rw"}


@deployed
def test_deploy_completes_what_a_killed_one_began(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    section = _section(job.result()[0], "deployed")
    assert json_of(section)["verdict"] == "verified"
    assert _state(section) == {**PLAIN, "immutable": True, "leftovers": [], "superblock": "rw"}


@deployed
def test_a_power_cut_while_deploying(job: Job[tuple[guest.Result, guest.Result]]) -> None:
    """The boot makes the directory immutable again; what else lies about is the next run's to clear away."""
    found = _after_cut(*job.result())
    _check_good(json.loads(found["record"]), _state(found["state"]), first=True, left=["digest.new", "sig.old"])
