# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test stages/physicalroot.py: waiting for a mount, here in mount namespaces of this machine."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bootseal import paths
from bootseal.linux import mountapi, syscall
from bootseal.stages import physicalroot
from unit.support import SERVICE, refusal, run_python

# The process moves to a mount namespace with a directory for the physical root, as in an initrd.
WORLD = """
import os, select, subprocess, sys, threading
from bootseal import paths
from bootseal.linux import mountapi, syscall
from bootseal.stages import physicalroot

physicalroot.private_namespace()
syscall.mount(None, "/", None, mountapi.MS_REC | mountapi.MS_SHARED)
paths.SYSROOT = sys.argv[1]

def mount(): subprocess.run(["mount", "-t", "tmpfs", "tmpfs", paths.SYSROOT], check=True)
def unmount(): subprocess.run(["umount", paths.SYSROOT], check=True)

calls = []
def waiting(): calls.append(physicalroot.is_mounted())
"""


def waited(code: str, tmp_path: Path) -> list[str]:
    return run_python(WORLD + code, str(tmp_path)).splitlines()


def test_a_mount_that_is_there_is_not_waited_for(tmp_path: Path) -> None:
    code = "mount(); print(physicalroot.enter(waiting, sealed_before=False).sealed_before, calls)"
    assert waited(code, tmp_path) == ["False [True]"]


def test_a_mount_ends_the_wait(tmp_path: Path) -> None:
    """Another mount wakes the process, which goes on waiting."""
    code = """
(other := paths.SYSROOT + ".other") and os.mkdir(other)
def waiting():
    calls.append(physicalroot.is_mounted())
    [lambda: subprocess.run(["mount", "-t", "tmpfs", "tmpfs", other], check=True), mount, lambda: None][len(calls) - 1]()
print(physicalroot.enter(waiting, sealed_before=True).sealed_before, calls)
"""
    assert waited(code, tmp_path) == ["True [False, False, True]"]


def test_a_mount_right_before_the_wait_is_not_missed(tmp_path: Path) -> None:
    """It comes after the last look at the mounts, and before poll(2)."""
    code = """
def waiting():
    calls.append(len(calls))
    if len(calls) == 1: mount()
physicalroot._PERIOD = 100000
physicalroot.enter(waiting, sealed_before=True)
print(calls)
"""
    assert waited(code, tmp_path) == ["[0, 1]"]


def test_a_mount_that_goes_again_is_waited_for_again(tmp_path: Path) -> None:
    code = """
unshare, shared = syscall.unshare, os.readlink("/proc/self/ns/mnt")
def gone(flags):
    syscall.unshare = unshare
    unmount()
    unshare(flags)
syscall.unshare = gone
def waiting():
    calls.append((physicalroot.is_mounted(), os.readlink("/proc/self/ns/mnt") == shared))
    if not physicalroot.is_mounted(): mount()
mount()
root = physicalroot.enter(waiting, sealed_before=True)
print(calls, physicalroot.is_mounted())
syscall.setns(root.shared_namespace, mountapi.CLONE_NEWNS)
print(os.readlink("/proc/self/ns/mnt") == shared)
"""
    assert waited(code, tmp_path) == ["[(True, True), (False, True), (True, True)] True", "True"]


def test_nobody_can_unmount_it_afterwards(tmp_path: Path) -> None:
    code = """
mount()
root = physicalroot.enter(waiting, sealed_before=True)
subprocess.run(["nsenter", f"--mount=/proc/{os.getpid()}/fd/{root.shared_namespace}", "umount", paths.SYSROOT], check=True)
print(physicalroot.is_mounted())
syscall.setns(root.shared_namespace, mountapi.CLONE_NEWNS)
print(physicalroot.is_mounted())
"""
    assert waited(code, tmp_path) == ["True", "False"]


def test_it_says_in_time_that_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds between two calls: a third of what systemd then allows."""
    asked: list[int] = []

    class Poll:
        def register(self, *_: object) -> None:
            pass

        def poll(self, milliseconds: int) -> None:
            asked.append(milliseconds)

    answers = iter((False, False, True, True))
    monkeypatch.setattr(physicalroot, "is_mounted", lambda: next(answers))
    monkeypatch.setattr(select, "poll", Poll)
    monkeypatch.setattr(physicalroot, "private_namespace", lambda: 5)
    told: list[None] = []
    assert physicalroot.enter(lambda: told.append(None), sealed_before=True) == (5, True)
    assert (asked, len(told)) == ([10_000, 10_000], 3)


def test_only_the_very_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{n} 1 0:1 / {target} rw - tmpfs tmpfs rw" for n, target in enumerate(("/", "/sysroot2", "/sysroot/var"), 2)]
    monkeypatch.setattr(mountapi, "mounts", lambda: mountapi.parse(lines))
    assert not physicalroot.is_mounted()
    lines.append(f"9 1 0:1 / {paths.SYSROOT} rw - tmpfs tmpfs rw")
    assert physicalroot.is_mounted()


def test_private_namespace_ends_with_its_process(tmp_path: Path) -> None:
    """The kernel removes the mounts of a killed process, and no other process sees them."""
    code = (
        "import signal,sys;from bootseal.stages import physicalroot;from bootseal.linux import syscall\n"
        "physicalroot.private_namespace();syscall.mount('tmpfs',sys.argv[1],'tmpfs',0);open(sys.argv[1]+'/in','w');print('ready',flush=True);"
        "signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": str(SERVICE)}
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        assert os.path.exists(f"/proc/{process.pid}/root{tmp_path}/in")
        assert os.listdir(tmp_path) == []
        assert str(tmp_path) not in [m.target for m in mountapi.mounts()]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_failed_unshare_is_mount_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unshare(_: int) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(syscall, "unshare", unshare)
    assert refusal(physicalroot.private_namespace).verdict.name == "mount-failed"


def test_private_namespace_receives_no_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(syscall, "unshare", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(syscall, "mount", lambda *arguments: calls.append(arguments))
    os.close(physicalroot.private_namespace())
    assert calls == [(mountapi.CLONE_NEWNS,), (None, "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)]
