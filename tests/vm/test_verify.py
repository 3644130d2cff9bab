# SPDX-License-Identifier: LGPL-2.1-or-later
"""`bootseal verify` and the boot agree: every row of refusals.py, judged in a good guest, with the same verdict.

The initrd of a case may have files outside of its configuration, as targets of links that leave the disk. In the guest they
are below /run, where the same links lead, because the guest mounts the disks one level deeper than the boot.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from vm.disks import INITRD, THIN, changed_disk, initrd_disk, thin_initrd_disk
from vm.harness import guest, qemu, signed
from vm.harness.ask import ask, put_file
from vm.harness.boot import arguments
from vm.harness.cache import SCRIPTS
from vm.harness.jobs import Job
from vm.harness.parse import Said, first_json
from vm.refusals import REFUSALS
from vm.scenario import EXIT_STATUS, Passed, Refused, Scenario

pytestmark = pytest.mark.vm

GOOD = Scenario("good", Passed())
# verify cannot know that an initrd has another unit, or a broken module of the boot: verify runs the installed code.
NOT_KNOWN = ("bug", "own-mounts")
KNOWN = (GOOD, *(case for case in REFUSALS if case.id not in NOT_KNOWN))
# verify cannot even list the deployments of this disk, so it fails with the verdict's exit status.
FAILING = ("directory-damaged",)
GUESTS = 2
MOUNTED = "/run/case"


def _verdict(case: Scenario) -> str:
    return case.expect.verdict if isinstance(case.expect, Refused) else "verified"


def _cmdline(case: Scenario) -> str:
    """Make the kernel command line that the boot of a case has."""
    line = arguments(signed.image(), append=case.cmdline)
    return line if case.ostree is None else line.replace(f"ostree={signed.image().deployment.karg}", case.ostree)


def _initrd(files: Mapping[str, guest.Content], initrd: str) -> str:
    """Make the case's initrd in the guest, with the same second archive as at its boot."""
    own = {name: content for name, content in files.items() if name.startswith("etc/")}
    return f"{put_file('/run/more', guest.archive(own))}cat {initrd} /run/more >/run/initrd\n" if own else ""


def _outside(files: Mapping[str, guest.Content]) -> str:
    texts = {name: content for name, content in files.items() if name.startswith("outside/") and isinstance(content, bytes)}
    return "".join(put_file(f"/run/{name}", content) for name, content in texts.items())


def _case(number: int, case: Scenario, source: str = THIN) -> tuple[int, str, list[str], str]:
    """Make a case of guest/cases.py."""
    files = case.files()
    made = _initrd(files, source)
    disk = f"mount -o ro,noload /dev/disk/by-id/virtio-case-{number} {MOUNTED}\n"
    initrd = "/run/initrd" if made else source
    options = ["--sysroot", MOUNTED, "--initrd", initrd, "--json=short", "--cmdline", _cmdline(case)]
    return number, _outside(files) + made + disk, ["verify", *options], f"umount {MOUNTED}\nrm -rf /run/outside\n"


def _program(before: str, arguments: list[str], after: str) -> str:
    """Make the script of a case that the installed program judges, with the whole initrd."""
    return f'{before}bootseal {shlex.join(arguments)} && echo "status 0" || echo "status $?"\n{after}'


def _run(part: int) -> guest.Result:
    cases = list(enumerate(KNOWN))[part::GUESTS]
    disks = [
        initrd_disk(),
        thin_initrd_disk(),
        *(changed_disk(case.disk, f"case-{number}") for number, case in cases),
    ]
    made = [_case(*pair) for pair in cases]
    script = f"mkdir -p {MOUNTED}\n" + put_file("/run/cases", repr(made).encode())
    script += put_file("/run/cases.py", (SCRIPTS / "cases.py").read_bytes()) + "python3 -I /run/cases.py /run/cases 2>&1\n"
    script += ask(program=_program(*_case(*cases[0], INITRD)[1:]))
    title = f"verify of {len(cases)} disks"
    return guest.boot(signed.image(), signed.initrd(), script=script, disks=disks, timeout=qemu.LONG, title=title)


JOBS = [Job(lambda part=part: _run(part), boots=3) for part in range(GUESTS)]  # type: ignore[misc]


def _said(job: Job[guest.Result], name: str) -> tuple[str, int]:
    """Return a section of the report, and the exit status in it."""
    section = Said.of(job.result())[name]
    status = re.search(r"^status (\d+)$", section, re.MULTILINE)
    assert status
    return section, int(status[1])


def _judged(job: Job[guest.Result], number: int) -> tuple[dict[str, Any], int]:
    """Return the record of one case, and the program's exit status."""
    section, status = _said(job, f"case_{number}")
    return first_json(section), status


def _cases(*, failing: bool) -> pytest.MarkDecorator:
    chosen = [(n, case.id) for n, case in enumerate(KNOWN) if (case.id in FAILING) is failing]
    return pytest.mark.parametrize(("job", "number"), [pytest.param(JOBS[n % GUESTS], n, id=id_) for n, id_ in chosen])


@_cases(failing=True)
def test_verify_fails_with_the_verdicts_exit_status(job: Job[guest.Result], number: int) -> None:
    section, status = _said(job, f"case_{number}")
    assert status == EXIT_STATUS[_verdict(KNOWN[number])]
    assert re.search(rf"^bootseal: Failed to read {MOUNTED}/ostree/deploy/guest/deploy: .*\(EBADMSG\)$", section, re.MULTILINE)


@_cases(failing=False)
def test_verify_says_what_the_boot_says(job: Job[guest.Result], number: int) -> None:
    case = KNOWN[number]
    record, status = _judged(job, number)
    assert (record["verdict"], status) == (_verdict(case), EXIT_STATUS[_verdict(case)]), record
    if not isinstance(case.expect, Refused):
        assert record["missing"] == []
    else:
        said = record["message"].replace(MOUNTED, "/sysroot")
        assert re.fullmatch(rf"refused \({case.expect.verdict}\): {case.expect.what}", said), said


@pytest.mark.parametrize("job", JOBS, ids=("first", "second"))
def test_the_program_says_what_its_functions_say(job: Job[guest.Result]) -> None:
    number = JOBS.index(job)
    section, status = _said(job, "program")
    record, _ = _judged(job, number)
    assert first_json(section) | {"keys": ""} == record | {"keys": ""}
    assert status == EXIT_STATUS[_verdict(KNOWN[number])]


def test_only_these_cases_are_not_judged() -> None:
    assert [_verdict(case) for case in REFUSALS if case.id in NOT_KNOWN] == ["mount-failed", "internal"]
