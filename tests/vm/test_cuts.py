# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ends at the worst moments: killed around the switch of roots; leftovers, a read-only medium, repairs afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vm import scenario
from vm.harness import guest, parse, signed
from vm.harness.ask import ask
from vm.harness.changes import Change, commands, put, several
from vm.harness.jobs import Job
from vm.harness.units import end_in_initrd, ended_at
from vm.scenario import Outcome

pytestmark = pytest.mark.vm

FSVERITY = "[Enroll]\nMethod=fsverity\n"
DEPLOYMENTS = "ostree/deploy/guest/deploy"
LIBRARY = "usr/lib/bootseal/bootseal"

# In the initrd of a verified boot: the digest file and its directory, seen without any code of the project.
_STATE = r"""/usr/bin/python3 -I - <<'EOF'
import fcntl, json, os, struct
def flags(path):
    fd = os.open(path, os.O_RDONLY)
    return struct.unpack("i", fcntl.ioctl(fd, 0x80086601, bytes(4)))[0]
top = "/sysroot/sysroot/DEPLOYMENT"
digest = top + "/.ostree.cfs.digest"
print(json.dumps({
    "immutable": bool(flags(top) & 0x10), "verity": bool(flags(digest) & 0x100000), "size": len(open(digest, "rb").read()),
    "leftovers": [name for name in os.listdir(top + "/..") if name.startswith(".bootseal")],
}))
EOF"""


def _seen() -> Mapping[str, guest.Content]:
    """Ends a verified boot in the initrd with its record, the mounts, and the state of the digest file."""
    state = _STATE.replace("DEPLOYMENT", signed.image().deployment.path)
    return end_in_initrd(ask(record="cat /run/bootseal/boot.json", mounts="cat /proc/self/mountinfo", state=state))


def _record(result: guest.Result) -> dict[str, Any]:
    parse.ended(result, guest.PASSED)
    record: dict[str, Any] = json.loads(parse.sections(result.report)["record"])
    assert record["verdict"] == "verified"
    return record


def _check_enrolled(result: guest.Result) -> dict[str, Any]:
    """The digest file is whole, enrolled and can be opened; nothing else is left of the work."""
    record = _record(result)
    assert record["enrollment"]["missing"] == []
    state = json.loads(parse.sections(result.report)["state"])
    assert state == {"immutable": True, "verity": True, "size": 32, "leftovers": []}
    physical = [line for line in parse.sections(result.report)["mounts"].splitlines() if " /sysroot/sysroot " in line]
    assert [line.split(" - ")[1].split()[2].split(",")[0] for line in physical] == ["ro"]
    return record


# --- the service killed around the switch of roots, and before it could begin


def _killed(step: str, suite: str) -> Job[Outcome]:
    return Job(
        lambda: scenario.boot(
            suite=suite,
            append=scenario.UNREAD_DISK,
            extra_initrd_files=ended_at(f"kill 1 {step}"),
            emergency_script=scenario.WITNESS,
            title=f"killed on {suite}: {step}",
        )
    )


KILLS = {
    "before-attaching": _killed("attach '/sysroot'", "forky"),
    "beneath-the-physical-root": _killed("umount '/sysroot'", "forky"),
    "attached-forky": _killed("mounts '1'", "forky"),
    "attached-trixie": _killed("mounts '1'", "trixie"),
}


@pytest.mark.parametrize("job", KILLS.values(), ids=list(KILLS))
def test_killed_around_the_switch_of_roots(job: Job[Outcome]) -> None:
    outcome = job.result()
    scenario.check_interrupted(outcome, "killed")
    assert outcome.written == 0


BROKEN_IMPORT = Job(
    lambda: scenario.boot(
        append=scenario.UNREAD_DISK,
        extra_initrd_files={f"{LIBRARY}/boot.py": b"import no_such_module\n"},
        emergency_script=scenario.WITNESS,
        title="module missing from the initrd",
    )
)


@pytest.mark.parametrize("job", [pytest.param(BROKEN_IMPORT, id="import")])
def test_a_module_missing_from_the_initrd(job: Job[Outcome]) -> None:
    scenario.check_interrupted(job.result(), "it ended with status 1 and left no verdict", "internal")


# --- refused, started again, repaired by hand, started again


def _repair() -> Outcome:
    image = signed.image()
    digest = signed.image_digest(image.deployment.cfs)
    path = f"/sysroot/{image.deployment.path}/{signed.SIGNATURE}"
    script = ask(
        again="systemctl restart bootseal.service 2>/dev/null || echo refused\ncat /run/bootseal/boot.json",
        repair=f"mount -o remount,rw /sysroot\ncat /right.sig >{path}\nmount -o remount,ro /sysroot",
        started="systemctl restart bootseal.service && systemctl is-active bootseal.service",
        record="cat /run/bootseal/boot.json",
        mounts="cat /proc/self/mountinfo",
        twice="systemctl restart bootseal.service && systemctl start bootseal.service && cat /proc/self/mountinfo",
    )
    return scenario.boot(
        put("{signature}", signed.sign(digest, signed.key(name="stranger"))),
        extra_initrd_files={"right.sig": signed.sign(digest, signed.key())},
        emergency_script=script,
        title="repaired in the emergency shell",
    )


@pytest.mark.parametrize("job", [pytest.param(Job(_repair), id="repair")])
def test_started_again_from_the_emergency_shell(job: Job[Outcome]) -> None:
    outcome = job.result()
    parse.ended(outcome.result, guest.REFUSED)
    found = outcome.sections
    first, _, record = found["again"].partition("\n")
    assert (first, json.loads(record)["verdict"]) == ("refused", "untrusted-signer")
    assert found["started"].splitlines()[-1] == "active"
    assert json.loads(found["record"])["verdict"] == "verified"
    assert found["twice"] == found["mounts"]
    assert [line.split()[4] for line in found["mounts"].splitlines() if "composefs:" in line] == ["/sysroot"]


def _go_on() -> Outcome:
    """As the greeting of the emergency shell says: check again, and leave it; then its units run 'systemctl default'."""
    image = signed.image()
    digest = signed.image_digest(image.deployment.cfs)
    path = f"/sysroot/{image.deployment.path}/{signed.SIGNATURE}"
    return scenario.boot(
        put("{signature}", signed.sign(digest, signed.key(name="stranger"))),
        extra_initrd_files={"right.sig": signed.sign(digest, signed.key())},
        emergency_script=f"""\
mount -o remount,rw /sysroot
cat /right.sig >{path}
mount -o remount,ro /sysroot
systemctl restart bootseal.service
systemctl --no-block default
sleep 200
""",
        script=ask(record="cat /run/bootseal/boot.json", unit="systemctl is-active bootseal.service"),
        title="repaired, and on with the boot",
    )


@pytest.mark.parametrize("job", [pytest.param(Job(_go_on), id="go-on")])
def test_a_repaired_boot_goes_on(job: Job[Outcome]) -> None:
    result = job.result().result
    parse.ended(result, guest.PASSED)
    assert "bootseal: this boot was refused" in result.console
    found = parse.sections(result.report.rpartition("guest: emergency script\n")[2])
    assert (json.loads(found["record"])["verdict"], found["unit"]) == ("verified", "active")


# --- what an earlier boot left, and a medium that cannot be written


def _names(image: guest.Image) -> tuple[str, str]:
    base = f"{DEPLOYMENTS}/.bootseal-{image.deployment.path.rsplit('/', 1)[1]}"
    return f"{base}.new", f"{base}.immutable"


def _leftovers(image: guest.Image, disk: Path) -> None:
    """As after a cut between the two steps that clear and set the immutable flag."""
    new, pending = _names(image)
    both = several(put(new, b"junk"), put(pending, b""), commands("set_inode_field /{deployment} flags 0x80000"))
    both(image, disk)


def _fsverity(title: str, change: Change | None = None, **options: Any) -> guest.Result:
    files = {**_seen(), **signed.settings(FSVERITY)}
    return scenario.boot(change, extra_initrd_files=files, title=title, **options).result


LEFTOVERS = Job(lambda: _fsverity("leftovers of an earlier boot", _leftovers))


@pytest.mark.parametrize("job", [pytest.param(LEFTOVERS, id="leftovers")])
def test_leftovers_are_cleared_away(job: Job[guest.Result]) -> None:
    assert _check_enrolled(job.result())["enrollment"]["first_boot"] is True


READ_ONLY = Job(lambda: _fsverity("read-only medium", readonly=True, append=scenario.UNREAD_DISK))


@pytest.mark.parametrize("job", [pytest.param(READ_ONLY, id="read-only")])
def test_a_read_only_medium_boots_and_says_what_is_missing(job: Job[guest.Result]) -> None:
    result = job.result()
    enrollment = _record(result)["enrollment"]
    assert (enrollment["method"], enrollment["first_boot"], len(enrollment["missing"])) == ("fsverity", False, 1)
    assert f"bootseal: note: enrolling incomplete: {enrollment['missing'][0]}" in result.console
    assert json.loads(parse.sections(result.report)["state"])["verity"] is False
