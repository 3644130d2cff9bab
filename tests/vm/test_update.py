# SPDX-License-Identifier: LGPL-2.1-or-later
"""Update day without hands: a guest fetches commits over HTTP, signed and not, and its units do the rest until the reboot.

One chain: in the first boot, bad updates come and go, and a good one stays. Later boots run it, fetch the next by a static
delta and shut down at once, and deploy one without staging, once placed by its unit and once cut by the power. The last boot is
a rollback to the update before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from vm.harness import guest, qemu, signed
from vm.harness.ask import TOLD, ask, put_file
from vm.harness.cache import SCRIPTS, temporary
from vm.harness.jobs import Job
from vm.harness.parse import Said, Told
from vm.harness.units import check_cut
from vm.harness.updates import GARBAGE, MOVED, updates
from vm.staging import SERVE, UPDATES, Chain, default_entry, entries, roomy, shut_down, upgrade

pytestmark = pytest.mark.vm

_HOME = "/sysroot/ostree/deploy/guest/deploy"
# A branch, the gate's verdict, and what else its units say.
BAD = {
    MOVED: ("wrong-signature", "is not over the digest"),
    GARBAGE: ("no-signature", "carries no signature"),
    "stranger": ("untrusted-signer", "the commit's detached metadata"),
}
_PROPERTIES = "systemctl show -p Result -p ExecMainStatus"
_GATE = f"{_PROPERTIES} bootseal-gate.service; journalctl -b -o cat -u bootseal-gate.service"
_DEPLOY = f"{_PROPERTIES} bootseal-deploy.service; journalctl -b -o cat -u bootseal-deploy.service"
_NAMES = f"(cd {_HOME}; ls -A; for d in *.[0-9]; do lsattr -d $d; echo $d/.ostree.cfs*; done)"
_JUDGE = "systemctl start bootseal-gate.service || :"
_QUIET = "export NO_COLOR=1\n"
_RECORD = {"record": "cat /run/bootseal/boot.json"}
# What libostree itself says: the name of each deployment, in boot order, and its arguments.
_ORACLE = """python3 -c '
import gi
gi.require_version("OSTree", "1.0")
from gi.repository import OSTree
sysroot = OSTree.Sysroot.new_default()
sysroot.load(None)
for one in sysroot.get_deployments():
    booted = "booted" if one.equal(sysroot.get_booted_deployment()) else "-"
    print(f"{one.get_osname()}/{one.get_csum()[:12]}.{one.get_deployserial()}", booted, one.get_bootconfig().get("options"))
'"""


def _bad(branch: str) -> dict[str, str]:
    """Stage a bad update, let the units judge it, and take it back."""
    status = "systemctl --no-pager --full --lines=20 status bootseal-deploy.service bootseal-gate.service || :"
    return {
        f"{branch}-stage": upgrade(branch),
        f"{branch}-judged": _JUDGE,
        f"{branch}-properties": f"{_PROPERTIES} bootseal-gate.service",
        f"{branch}-status": status,
        f"{branch}-names": _NAMES,
        f"{branch}-gone": "ostree admin undeploy 0",
    }


def _boot(days: Chain, name: str, script: str) -> guest.Result:
    last = list(days.results.values())[-1] if days.results else None
    karg = None
    if name == "back":  # what the user chooses in the boot loader's menu after a power cut
        before = entries(Said(days.results["third"])["entries"])
        karg = f"ostree={before[min(before)]}"
    elif last:
        karg = f"ostree={default_entry(Said.of(last)['entries'])}"
    return guest.boot(
        signed.image(),
        signed.initrd(),
        disk=last.overlay if last else roomy(guest.copy_disk(signed.image().disk, temporary() / "disk.raw")),
        snapshot=last is None,
        karg=karg,
        script=script,
        disks=[updates().disk],
        timeout=qemu.LONG,
        title=f"update day: {name}",
    )


def _first() -> str:
    enable = "systemctl enable --now bootseal-gate.path; systemctl is-active bootseal-gate.path bootseal-deploy.path"
    bad = [step for branch in BAD for step in _bad(branch).items()]
    passed = "journalctl -b -o cat -u bootseal-gate.service | grep -q 'deployment would boot: '"
    wait = f"for _ in $(seq 300); do ! {passed} || break; sleep 1; done"
    good = {"stage": upgrade("first"), "gate": f"{wait}; {_GATE}", "deploy": _DEPLOY, "names": _NAMES}
    return shut_down(**_RECORD, enable=enable, serve=SERVE, **dict(bad), **good)


def _second() -> str:
    """Shut down at once: the gate itself puts the signature in place."""
    return shut_down(
        **_RECORD,
        sysroot="findmnt -n -o OPTIONS /sysroot",
        serve=SERVE,
        stage=upgrade("second"),
        asked="grep -c 'GET /deltas/.*/superblock.* 200' /run/http.log",
    )


def _third() -> str:
    """Without staging, and the power fails between the two renames."""
    cut = "echo 'cut 2 rename .ostree.cfs' >/run/plan\npython3 -IB /run/cut.py /run/plan deploy --all"
    script = put_file("/run/cut.py", (SCRIPTS / "cut.py").read_bytes()) + ask(
        **_RECORD,
        serve=SERVE,
        before=_NAMES,
        deploy=f"ostree pull-local --remote=origin {UPDATES} third\nostree admin deploy origin:third",
        placed=f"for _ in $(seq 300); do test $(ls {_HOME}/*/.ostree.cfs.sig | wc -l) -lt 2 || break; sleep 1; done; {_NAMES}",
        off="systemctl disable --now bootseal-gate.path; systemctl stop bootseal-deploy.path bootseal-deploy.service",
        again="ostree admin undeploy 0; ostree admin deploy origin:third",
        entries="cat /sysroot/boot/loader/entries/*.conf",
    )
    return _QUIET + script + cut + "\nexit 1\n"


def _back() -> str:
    write = "dd if=/dev/zero of=/sysroot/fill-$size bs=$size conv=fsync"
    fill = f"mount -o remount,rw /sysroot; for size in 1M 4k; do {write} || :; done"
    in_private = "unshare -m sh -ec"
    return (
        _QUIET
        + TOLD
        + ask(
            **_RECORD,
            cut="bootseal verify --all --json=short || :",
            completed="systemctl enable --now bootseal-gate.path 2>&1; systemctl start bootseal-deploy.service; " + _DEPLOY,
            names=_NAMES,
            table="bootseal verify --all --json=short || :",
            oracle=_ORACLE,
            undeploy="ostree admin pin 0; ostree admin pin --unpin 0; ostree admin undeploy 0; ostree admin cleanup",
            after_undeploy=_NAMES,
            off="systemctl stop bootseal-gate.path bootseal-deploy.path",
            deploy="ostree admin deploy --stage origin:third",
            full=f"{in_private} '{fill}' 2>&1\ntold bootseal deploy --all",
            after_full=_NAMES,
            gate="told bootseal gate",
            room=f"{in_private} 'mount -o remount,rw /sysroot; rm /sysroot/fill-*'\ntold bootseal deploy --all",
            gate_with_room="told bootseal gate",
        )
    )


def _run() -> Chain:
    days = Chain()
    steps: dict[str, tuple[Callable[[], str], int]] = {
        "first": (_first, guest.PASSED), "second": (_second, guest.PASSED), "third": (_third, 0), "back": (_back, guest.PASSED),
    }  # fmt: skip
    for name, (script, status) in steps.items():
        days.results[name] = _boot(days, name, script())
        if days.results[name].status != status:
            break
    return days


DAYS = Job(_run, boots=9)  # four, long ones
days = pytest.mark.parametrize("job", [pytest.param(DAYS, id="days")])


def _new_directory(names: str, among: str) -> str:
    """Name the deployment that is in one section of _NAMES, and not in another."""

    def directories(section: str) -> set[str]:
        return set(re.findall(r"^([0-9a-f]{64}\.\d)$", section, re.MULTILINE))

    (found,) = directories(names) - directories(among)
    return found


def _is_complete(names: str, directory: str, *, staged: bool = False) -> bool:
    """Tell from a section of _NAMES whether digest and signature are there, and the directory is immutable unless staged."""
    flags = re.search(rf"^(\S+) {re.escape(directory)}$", names, re.MULTILINE)
    files = {f"{directory}/.ostree.cfs{suffix}" for suffix in ("", ".digest", ".sig")}
    return flags is not None and ("i" in flags[1]) is not staged and files <= set(names.split())


def _table(section: str) -> list[dict[str, Any]]:
    """Read the JSON of `verify --all`; what it said of a refused one may follow."""
    (line,) = (line for line in section.splitlines() if line.startswith("["))
    rows: list[dict[str, Any]] = json.loads(line)
    return rows


@days
@pytest.mark.parametrize("branch", BAD)
def test_a_bad_update_is_held_and_the_reason_is_told(job: Job[Chain], branch: str) -> None:
    said = job.result().said("first")
    verdict, reason = BAD[branch]
    assert "Result=exit-code" in said[f"{branch}-properties"]
    assert f"would not boot: refused ({verdict})" in said[f"{branch}-status"]
    assert reason in said[f"{branch}-status"]


@days
@pytest.mark.parametrize("branch", BAD)
def test_nothing_is_written_for_a_bad_update(job: Job[Chain], branch: str) -> None:
    said = job.result().said("first")
    names, good = said[f"{branch}-names"], said["names"]
    mine = signed.image().deployment.checksum
    (staged,) = set(re.findall(r"^([0-9a-f]{64}\.\d)$", names, re.MULTILINE)) - {f"{mine}.0"}
    assert f"{staged}/.ostree.cfs" in names.split()
    assert f"{staged}/.ostree.cfs.sig" not in names and f"{staged}/.ostree.cfs.digest" not in names
    assert ".bootseal" not in names
    assert staged not in good


@days
def test_a_signed_update_is_placed_and_passes(job: Job[Chain]) -> None:
    """Nobody starts a unit: the path units do."""
    said = job.result().said("first")
    assert said["gate"].splitlines()[:2] == ["Result=success", "ExecMainStatus=0"]
    assert "digest and signature are in place" in said["deploy"]
    assert _is_complete(said["names"], _new_directory(said["names"], f"{signed.image().deployment.checksum}.0"), staged=True)
    assert said["outcome"].splitlines() == ["ActiveState=inactive", "Result=success"]


@days
def test_a_reboot_right_after_the_upgrade_does_not_lose_it(job: Job[Chain]) -> None:
    said = job.result().said("second")
    assert said["outcome"].splitlines() == ["ActiveState=inactive", "Result=success"]
    assert "the staged deployment would boot: " in said["journal"]


@days
def test_a_deployment_without_staging_is_placed_by_its_unit(job: Job[Chain]) -> None:
    said = Said(job.result().results["third"])
    assert _is_complete(said["placed"], _new_directory(said["placed"], said["before"]))


@days
def test_the_units_come_with_the_gate(job: Job[Chain]) -> None:
    assert job.result().said("first")["enable"].split()[-2:] == ["active", "active"]


@days
def test_the_second_came_by_a_static_delta_and_with_a_read_only_sysroot(job: Job[Chain]) -> None:
    said = job.result().said("second")
    assert int(said["asked"]) > 0
    assert said["sysroot"].startswith("ro,")


@days
@pytest.mark.parametrize(("boot", "branch"), [("second", "first"), ("back", "second")])
def test_what_was_placed_boots(job: Job[Chain], boot: str, branch: str) -> None:
    """`back` is a rollback: the boot loader's other entry."""
    record = job.result().said(boot).record
    assert (record["verdict"], record["image"]["digest"]) == ("verified", updates().digests[branch])


@days
def test_the_power_cut_left_the_digest_missing(job: Job[Chain]) -> None:
    """The third boot runs the second update, and deploys the third, whose placing ends between the two renames."""
    result = job.result().results["third"]
    check_cut(result)
    said = Said(result)
    assert said.record["image"]["digest"] == updates().digests["second"]


@days
def test_the_next_boot_completes_what_was_cut(job: Job[Chain]) -> None:
    chain = job.result()
    said = chain.said("back")
    third = _new_directory(said["names"], Said(chain.results["third"])["before"])
    judged = [(one["name"][6:18], one["verdict"]) for one in _table(said["cut"])]
    assert judged[0] == (third[:12], "no-digest")
    assert {verdict for _, verdict in judged[1:]} == {"verified"}
    assert f"guest/{third[:12]}.{third[65:]}: digest and signature are in place" in said["completed"]
    assert _is_complete(said["names"], third)
    assert ".bootseal" not in said["names"]


@days
def test_deployments_are_those_of_libostree(job: Job[Chain]) -> None:
    """Names, order, which one runs; and all of them would boot."""
    said = job.result().said("back")
    rows = [(one["name"], one["state"] == "booted", one["verdict"]) for one in _table(said["table"])]
    lines = [line.split(maxsplit=2) for line in said["oracle"].splitlines()]
    assert len(rows) == 2
    assert rows == [(name, booted == "booted", "verified") for name, booted, _ in lines]
    assert all("ostree=/ostree/boot." in options for *_, options in lines)


@days
def test_nothing_is_left_of_an_undeployed_update(job: Job[Chain]) -> None:
    said = job.result().said("back")
    third = _new_directory(said["names"], said["after_undeploy"])
    assert third[:64] not in said["after_undeploy"]
    assert ".bootseal" not in said["after_undeploy"]


@days
def test_a_full_disk_is_said_and_leaves_nothing(job: Job[Chain]) -> None:
    said = job.result().said("back")
    full, gate = (Told.all(said[name])[0] for name in ("full", "gate"))
    assert full.status == 73
    assert "No space left on device (ENOSPC)" in full.out
    assert gate.status == 73
    assert "would not boot: Failed to write" in gate.err
    staged = _new_directory(said["after_full"], said["after_undeploy"])
    assert not _is_complete(said["after_full"], staged, staged=True)
    assert ".bootseal" not in said["after_full"]
    room, then = (Told.all(said[name])[0] for name in ("room", "gate_with_room"))
    assert (room.status, then.status) == (0, 0), (room, then)
