# SPDX-License-Identifier: LGPL-2.1-or-later
"""confined.py: the process has no privileges and limits, and gives a reason however it ends."""

from __future__ import annotations

import os
import re

import pytest

from bootseal.host.initrd import confined

from .initrds import (
    do_instead,
)

STATUS = {
    "itself": "open('/proc/self/status', 'rb').read()",
    "program": "subprocess.check_output(['cat', '/proc/self/status'])",
}


@pytest.mark.parametrize("work", STATUS.values(), ids=STATUS)
def test_it_has_no_privileges(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    do_instead(monkeypatch, work)
    status = dict(line.split(":\t") for line in confined.run("", ()).decode().splitlines())
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert (status["Uid"].split(), status["Gid"].split()) == (["65534"] * 4, ["65534"] * 4)
        assert status["Groups"].split() == []


@pytest.mark.root
@pytest.mark.parametrize("may_leave", [True, False], ids=["uid-left", "uid-kept"])
def test_root_gives_up_groups_and_capabilities(monkeypatch: pytest.MonkeyPatch, *, may_leave: bool) -> None:
    """A unit without CAP_SETUID keeps the uid, and loses every capability."""
    before = "os.setgroups([1])" if may_leave else "def refuse(_): raise PermissionError\nos.setgroups = refuse"
    do_instead(monkeypatch, STATUS["program"], before)
    status = dict(line.split(":\t") for line in confined.run("", ()).decode().splitlines())
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert status["Uid"].split()[0] == ("65534" if may_leave else "0")
    assert "1" not in status["Groups"].split()


def test_it_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    do_instead(monkeypatch, "open('/proc/self/limits', 'rb').read()")
    limits = dict(re.findall(r"(?m)^Max (.*?) {2,}(\w+)", confined.run("", ()).decode()))
    names = ("address space", "cpu time", "file size", "open files", "core file size")
    assert [int(limits[name]) for name in names] == [confined.MEMORY + (1 << 20), confined.CPU, 1 << 20, 256, 0]


def test_it_sees_neither_environment_nor_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    do_instead(monkeypatch, "repr((sorted(os.environ), os.getcwd(), os.readlink('/proc/self/fd/0'))).encode()")
    environment, directory, stdin = eval(confined.run("", ()))
    assert (set(environment) - {"PATH", "LC_CTYPE"}, directory, stdin) == (set(), "/", "/dev/null")


ENDINGS = {
    "refused": ("exec('raise ValueError(\"why\")')", "why"),
    "os-error": ("open('/nowhere', 'rb').read()", "No such file or directory"),
    "memory": ("bytes(confined.MEMORY)", "needs more than 512 MiB of memory"),
    "answer": ("bytes(confined.MAX_ANSWER + 1)", "gives more than 16777216 bytes"),
    "endless-answer": ("[os.write(1, bytes(1 << 20)) for _ in iter(int, 1)]", "gives more than 16777216 bytes"),
    "processor": ("[0 for _ in iter(int, 1)]", "takes more than 1 seconds of processor time"),
    "time": ("signal.pause()", "takes longer than 1 seconds"),
    "disk": ("os.kill(os.getpid(), signal.SIGBUS)", "the disk failed"),
    "crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
    "bug": ("1 / 0", "ended with status 1"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, as the kernel does when memory runs out"),
    "file": ("open('/dev/shm/bootseal-test', 'wb').write(bytes(2 << 20))", "File too large|Permission denied|No such file"),
}


@pytest.mark.parametrize(("work", "reason"), ENDINGS.values(), ids=ENDINGS)
def test_however_it_ends_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, work: str, reason: str) -> None:
    monkeypatch.setattr(confined, "CPU", 1)
    if reason.startswith("takes longer"):
        monkeypatch.setattr(confined, "WALL", 1)
    do_instead(monkeypatch, work, "confined.CPU = 1")
    with pytest.raises(confined.Refused, match=reason):
        confined.run("", ())
