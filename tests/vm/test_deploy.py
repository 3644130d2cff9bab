# SPDX-License-Identifier: LGPL-2.1-or-later
"""`deploy` on a real disk; a real staged update, which the gate holds back until it is signed; and the boots of both.

A guest deploys onto a second disk, which a chain of later guests boots, and in which they stage an update. Each of those ends
in a real shutdown. The test then asks whether ostree finalized the update.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from vm.disks import THIN, changed_disk, thin_initrd_disk
from vm.harness import guest, qemu, signed
from vm.harness.ask import ask, put_file
from vm.harness.changes import commands, put, several
from vm.harness.jobs import Job
from vm.harness.parse import Said, first_json
from vm.refusals import OTHER_DIGEST
from vm.staging import Chain, default_entry, entries, shut_down

pytestmark = pytest.mark.vm

OBJECT = "/usr/share/bootseal-test/tamper"
# As 'ostree admin deploy' leaves it, without digest and signature, and with an image without fs-verity.
UNSEALED = several(commands("rm /{digest}", "rm /{signature}"), put("{image}", lambda image: image.deployment.cfs.read_bytes()))


@functools.cache
def _signature() -> bytes:
    key = signed.key()
    made = signed.made_by_sign(signed.image().deployment.cfs, "--key", key.key, "--cert", key.certificate)
    return made[signed.SIGNATURE]


# --- deploy, onto a second disk


def _deploy_script(signature: bytes) -> str:
    image = signed.image().deployment
    deployment, file = f"/run/target/{image.path}", f"/run/target/{image.object_of(OBJECT)}"
    deploy = f"bootseal deploy --sysroot /run/readonly --initrd {THIN} --json=short"
    state = f"cd {deployment}; lsattr -d .; stat -c '%n %s %Y %i' .ostree.cfs*; ls -a ..; findmnt -n -o OPTIONS /run/readonly"
    prepare = (
        put_file("/run/good.sig", signature)
        + put_file("/run/other.sig", signed.sign(OTHER_DIGEST, signed.key()))
        + "mkdir -p /run/target /run/readonly\nmount /dev/disk/by-id/virtio-target /run/target\n"
        + f"cp {file} {file}.new\nmv -f {file}.new {file}\n"  # without fs-verity
        + "mount --bind /run/target /run/readonly\nmount -o remount,bind,ro /run/readonly\n"
    )
    return prepare + ask(
        before=state,
        refused=f'{deploy} --signature /run/other.sig || echo "status $?"',
        after_refused=state,
        first=f'{deploy} --signature /run/good.sig || echo "status $?"',
        after_first=state,
        objects=f'{deploy} --objects --signature /run/good.sig || echo "status $?"',
        second=f'{deploy} --objects --signature /run/good.sig || echo "status $?"',
        after_second=state,
        end="cd /; umount /run/readonly /run/target",
    )


def _deploy() -> guest.Result:
    target = changed_disk(UNSEALED, "target", readonly=False)
    result = guest.boot(
        signed.image(),
        signed.initrd(),
        script=_deploy_script(_signature()),
        disks=[thin_initrd_disk(), target],
        timeout=qemu.LONG,
        title="deploy",
    )
    return replace(result, overlay=target.path)


DEPLOY = Job(_deploy, boots=4)  # one, a long one
deployed = pytest.mark.parametrize("job", [pytest.param(DEPLOY, id="deploy")])


@deployed
def test_deploy_refuses_before_it_writes(job: Job[guest.Result]) -> None:
    said = Said.of(job.result())
    assert "status 77" in said["refused"]
    assert "refused (wrong-signature)" in said["refused"]
    assert said["after_refused"] == said["before"]
    assert ".ostree.cfs.sig" not in said["before"]


@deployed
def test_deploy_seals_and_writes(job: Job[guest.Result]) -> None:
    said = Said.of(job.result())
    record = first_json(said["first"])
    assert (record["verdict"], record["changed"]) == ("verified", True), record
    assert ["without fs-verity" in line for line in record["missing"]] == [True]
    state = said["after_first"]
    assert ".ostree.cfs.digest 32 " in state
    assert f".ostree.cfs.sig {len(_signature())} " in state
    assert ".bootseal" not in state


@deployed
def test_deploy_leaves_the_immutable_bit_and_the_read_only_mount(job: Job[guest.Result]) -> None:
    said = Said.of(job.result())
    for state in (said["before"], said["after_refused"], said["after_first"], said["after_second"]):
        assert "i" in state.splitlines()[0].split()[0]
        assert state.splitlines()[-1].startswith("ro,")


@deployed
def test_deploy_seals_objects_when_asked(job: Job[guest.Result]) -> None:
    record = first_json(Said.of(job.result())["objects"])
    assert (record["verdict"], record["changed"], record["missing"]) == ("verified", True, [])


@deployed
def test_deploy_again_changes_nothing(job: Job[guest.Result]) -> None:
    said = Said.of(job.result())
    assert first_json(said["second"])["changed"] is False
    assert said["after_second"] == said["after_first"]


# --- the deployment boots; in it an update is staged, which a shutdown finalizes unless the gate fails

_RECORD = {"record": "cat /run/bootseal/boot.json", "object": f"head -c 8 {OBJECT}"}
_GATE = "systemctl show -p Result -p ExecMainStatus bootseal-gate.service; journalctl -b -o cat -u bootseal-gate.service"
# The update: the same tree with an initrd in it, as ostree wants it. QEMU boots another.
_COMMIT = f"""unshare -m sh -ec '
mount -o remount,rw /sysroot
modules=/run/more/usr/lib/modules/$(uname -r)
mkdir -p $modules
cp {THIN} $modules/initramfs.img
ostree --repo=/sysroot/ostree/repo commit --branch=guest --generate-composefs-metadata --owner-uid=0 --owner-gid=0 \\
    --tree=ref=guest --tree=dir=/run/more
'"""
_STAGE = "ostree admin deploy --stage guest"
# The disk has these two deployments only.
_DEPLOYMENTS = "/sysroot/ostree/deploy/guest/deploy"
_UPDATE = f"{_DEPLOYMENTS}/$(ls {_DEPLOYMENTS} | grep -v {{old}} | sed -n s/.origin$//p)"
# As a 'bootseal deploy' leaves it that was killed while the directory was mutable.
_KILLED = (
    "unshare -m sh -ec 'mount -o remount,rw /sysroot; cd {directory}; "
    ": >.bootseal-{old}.0.immutable; chattr -i {old}.0; lsattr -d *.0'"
)
_SIGN = "cp {update}/.ostree.cfs /run/image; bootseal sign /run/image --key /run/key.pem --cert /run/cert.pem"


def _next(
    chain: Chain, title: str, script: str, *, method: str, karg: str | None = None, disks: Sequence[guest.Disk] = ()
) -> guest.Result:
    """Boot the disk as the boot before left it."""
    return guest.boot(
        signed.image(),
        signed.initrd(),
        disk=list(chain.results.values())[-1].overlay,
        karg=karg,
        extra_initrd_files=signed.settings(conf=f"[Enroll]\nMethod={method}\nRequired=yes\n"),
        script=script,
        disks=disks,
        timeout=qemu.LONG,
        title=title,
    )


def _held(chain: Chain) -> guest.Result:
    killed = _KILLED.format(directory=_DEPLOYMENTS, old=signed.image().deployment.checksum)
    script = shut_down(
        **_RECORD,
        commit=_COMMIT,
        killed=killed,
        enable="systemctl enable --now bootseal-gate.path; systemctl is-active bootseal-gate.path",
        stage=_STAGE,
        early=f"gate_ran 1; {_GATE}",
        early_status="systemctl --no-pager --full status bootseal-gate.service || :",
        completed=f"(cd {_DEPLOYMENTS}; lsattr -d *.0; ls -a)",
        killed_again=killed,
    )
    return _next(chain, "staged without a signature", script, method="fsverity", disks=[thin_initrd_disk()])


def _passed(chain: Chain) -> guest.Result:
    key = signed.key()
    files = put_file("/run/key.pem", key.key.read_bytes()) + put_file("/run/cert.pem", key.certificate.read_bytes())
    script = files + shut_down(
        **_RECORD,
        default="bootseal verify --all || :",
        stage=f"{_STAGE}; gate_ran 1",
        sign=_SIGN.format(update=_UPDATE.format(old=signed.image().deployment.checksum)),
        deploy="bootseal deploy --signature /run/image.sig",
        early=f"gate_ran 2; {_GATE}",
        table="bootseal verify --all || :",
    )
    return _next(chain, "staged and signed", script, method="fsverity")


def _open(chain: Chain) -> guest.Result:
    script = shut_down(
        **_RECORD,
        ostree="ostree admin status",
        verify="bootseal verify",
        disable="systemctl disable --now bootseal-gate.path",
        stage=f"ostree admin undeploy 1; {_STAGE}",  # the disk has no room for three
        by_hand='bootseal gate || echo "status $?"',
    )
    karg = f"ostree={default_entry(chain.said('passed')['entries'])}"
    return _next(chain, "what the gate let pass", script, method="keyring", karg=karg)


def _run() -> Chain:
    """Boot what `deploy` has made."""
    chain = Chain({"deploy": DEPLOY.result()})
    steps: dict[str, Callable[[Chain], guest.Result]] = {"held": _held, "passed": _passed, "open": _open}
    for name, step in steps.items():
        if list(chain.results.values())[-1].status != guest.PASSED:
            break
        chain.results[name] = step(chain)
    return chain


# Nightly, because the gate of test_update.py also holds updates, and lets one pass.
chain = pytest.mark.parametrize("job", [pytest.param(Job(_run, boots=3), id="chain", marks=pytest.mark.nightly)])


def _kernel_of(target: str) -> str:
    """Return the checksum of kernel and initrd: the update has an initrd, and so another one."""
    return target.split("/")[4]


@chain
@pytest.mark.parametrize(
    ("boot", "method", "first"), [("held", "fsverity", True), ("passed", "fsverity", False), ("open", "keyring", False)]
)
def test_what_was_deployed_boots(job: Job[Chain], boot: str, method: str, first: bool) -> None:  # noqa: FBT001
    said = job.result().said(boot)
    record = said.record
    enrollment = record["enrollment"]
    assert (record["verdict"], enrollment["method"], enrollment["missing"]) == ("verified", method, [])
    assert enrollment["first_boot"] is first
    assert said["object"] == "TTTTTTTT"


@chain
def test_the_gate_says_the_reason_before_the_reboot(job: Job[Chain]) -> None:
    said = job.result().said("held")
    assert said["enable"].endswith("\nactive")
    assert "ExecMainStatus=66" in said["early"]
    for section in ("early", "early_status"):
        assert "would not boot: refused (no-signature): the commit " in said[section]


@chain
def test_the_gate_holds_what_would_not_boot(job: Job[Chain]) -> None:
    chain = job.result()
    said = chain.said("held")
    assert said["outcome"].splitlines() == ["ActiveState=failed", "Result=exit-code"]
    assert list(entries(said["entries"]).values()) == [signed.image().deployment.karg]
    for section in ("status", "journal"):
        assert "would not boot: refused (no-signature): the commit " in said[section]
    assert [row[1] for row in _rows(chain.said("passed")["default"])] == ["booted", ""]


@chain
@pytest.mark.parametrize(("before", "after"), [("killed", "completed"), ("killed_again", "flags")], ids=["service", "shutdown"])
def test_the_gate_completes_a_killed_deploy(job: Job[Chain], before: str, after: str) -> None:
    """The gate does so in its own sandbox, and in that of ostree's unit."""
    said, name = job.result().said("held"), f" {signed.image().deployment.checksum}.0"
    flags = {section: next(line for line in said[section].splitlines() if line.endswith(name)) for section in (before, after)}
    assert ("i" in flags[before].split()[0], "i" in flags[after].split()[0]) == (False, True)
    assert ".bootseal" not in said[after]


@chain
def test_a_signature_after_staging_is_judged_at_once(job: Job[Chain]) -> None:
    said = job.result().said("passed")
    assert re.fullmatch(r"guest/[0-9a-f]{12}\.\d: verified", said["deploy"].splitlines()[-1])
    assert said["early"].splitlines()[:2] == ["Result=success", "ExecMainStatus=0"]
    what = r"debian( 13)? sha256:[0-9a-f]{12} \(the disk names it guest/[0-9a-f]{12}\.\d\)"
    assert re.search(rf"^bootseal: the staged deployment would boot: {what}$", said["early"], re.MULTILINE)
    assert [row[1:3] for row in _rows(said["table"])][:2] == [["staged", "verified"], ["booted", "unknown"]]


@chain
def test_the_gate_lets_pass_what_was_signed(job: Job[Chain]) -> None:
    said = job.result().said("passed")
    assert said["outcome"].splitlines() == ["ActiveState=inactive", "Result=success"]
    old = signed.image().deployment.karg
    assert [_kernel_of(old)] == [
        _kernel_of(t) for t in entries(said["entries"]).values() if t != default_entry(said["entries"])
    ]
    assert _kernel_of(default_entry(said["entries"])) != _kernel_of(old)


@chain
def test_what_the_gate_let_pass_is_what_boots_next(job: Job[Chain]) -> None:
    chain = job.result()
    said = chain.said("open")
    assert said.record["deployment"]["checksum"] == chain.said("held")["commit"].splitlines()[-1]
    assert said["verify"].splitlines()[0].split(maxsplit=1)[1] == "(booted), as the disk names it:  verified"
    # The keys come from its own initrd, which ostree copied to /boot.
    assert re.search(r"^  keys +1 from /sysroot/boot/ostree/guest-[0-9a-f]{64}/initramfs-", said["verify"], re.MULTILINE)


@chain
def test_a_gate_that_is_off_changes_nothing(job: Job[Chain]) -> None:
    chain = job.result()
    said = chain.said("open")
    assert (said["by_hand"], said["outcome"].splitlines()) == ("", ["ActiveState=inactive", "Result=success"])
    before, after = (entries(chain.said(name)["entries"]) for name in ("passed", "open"))
    assert len(after) == len(before) == 2
    assert _kernel_of(after[2]) == _kernel_of(before[2]) == _kernel_of(after[1])


def _rows(table: str) -> list[list[str]]:
    """Split the first columns of `verify --all`, by the width of the heading's."""
    lines = [line for line in table.splitlines() if line.startswith(("NAME ON DISK", "guest/"))]
    starts = [lines[0].index(name) for name in ("NAME ON DISK", "STATE", "VERDICT", "IMAGE")]
    return [[line[a:b].strip() for a, b in pairwise(starts)] for line in lines[1:]]
