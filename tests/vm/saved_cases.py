# SPDX-License-Identifier: LGPL-2.1-or-later
"""Saved states with a program in QEMU's place. test_saved.py runs these tests in a process of their own."""

from __future__ import annotations

import os
import runpy
import shlex
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vm.harness import guest, saved
from vm.harness.cache import SCRIPTS
from vm.harness.qemu import Disk, Machine

COMMON = {"etc/common": b"common"}
FILES = {"etc/files": b"files"}

# --- states, with a program in QEMU's place

QEMU = r"""
import json, os, subprocess, sys
def answer(**members):
    print(json.dumps(members), flush=True)
arguments, broken = sys.argv[1:], os.environ.get("BROKEN", "")
if "--version" in arguments:
    print("1.0")
    raise SystemExit
with open(os.environ["LOG"], "a") as log:
    print(*arguments, file=log)
restoring = "-incoming" in arguments
if broken == "start" or (broken == "restore" and restoring):
    sys.exit("unknown state")
path = next(a for a in arguments if a.startswith("file,id=console")).split("path=")[1].split(",")[0]
open(path.removesuffix("console") + "report", "ab").close()
console = open(path, "ab" if restoring else "wb", buffering=0)
if not restoring:
    console.write(b"kernel\r\nguest: waiting for its disks\r\n" if broken != "wait" else b"kernel\r\n")
    if broken == "wait":
        raise SystemExit
answer(QMP={})
for line in sys.stdin:
    asked = json.loads(line)
    command = asked["execute"]
    with open(os.environ["LOG"], "a") as log:
        print(command, asked["arguments"].get("serial", ""), file=log)
    if command == "migrate":
        subprocess.run(["sh", "-c", asked["arguments"]["uri"].removeprefix("exec:")], input=b"memory", check=True)
    if command == "device_add" and broken == "plug":
        answer(error={"desc": "no free slot"})
        continue
    answer(**{"return": {"status": "paused" if restoring else "completed"}})
    if command == "quit":
        raise SystemExit
    if command == "cont":
        console.write(b"guest: files in place\r\nverdict\r\n" if broken != "files" else b"no files\r\n")
        raise SystemExit(85)
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine for the program in QEMU's place, and an empty cache."""
    program = tmp_path / "bin/qemu-system-x86_64"
    program.parent.mkdir()
    (tmp_path / "qemu.py").write_text(QEMU)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {tmp_path}/qemu.py "$@"\n')
    program.chmod(0o755)
    for name, value in {"PATH": f"{program.parent}:{os.environ['PATH']}", "BOOTSEAL_CACHE": f"{tmp_path}/cache"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOG", f"{tmp_path}/log")
    monkeypatch.setattr(saved, "WHOLE", [])
    monkeypatch.setattr(saved, "_broken", {})
    for name in ("kernel", "initrd", "root"):
        (tmp_path / name).write_bytes(name.encode())
    return Machine(
        tmp_path / "kernel", tmp_path / "initrd", "quiet", [Disk(tmp_path / "root", "raw", "guest-root")], timeout=60
    )


def _resumed(machine: Machine, number: int = 1) -> Any:
    work = machine.kernel.parent / f"work-{number}"
    work.mkdir()
    return saved.resumed(machine, FILES, work, common=COMMON)


def _log(machine: Machine) -> str:
    return (machine.kernel.parent / "log").read_text()


def test_console_begins_with_what_the_saved_boot_said(machine: Machine) -> None:
    ending = _resumed(machine)
    assert saved.WHOLE == []
    assert (ending.ended, ending.status, ending.report) == ("exit", 85, "")
    assert ending.console == f"kernel\n{saved.WAITING}{saved.ARRIVED}verdict\n"


def test_state_is_made_once(machine: Machine) -> None:
    assert [_resumed(machine, number).status for number in range(3)] == [85, 85, 85]
    assert _log(machine).count("\nmigrate ") == 1
    assert _log(machine).count("-incoming") == 3


def test_disks_are_plugged_in_order_before_the_guest_goes_on(machine: Machine) -> None:
    _resumed(machine)
    restored = _log(machine).partition("-incoming")[2]
    said = [line.strip() for line in restored.splitlines()[1:] if not line.startswith("q")]
    assert said == ["device_add guest-root", "device_add guest-files", "cont"]
    saving, resuming = (line for line in _log(machine).splitlines() if line.startswith("-nodefaults"))
    assert "virtio-blk" not in saving + resuming
    assert "id=guest-root" not in saving


BROKEN = {
    "start": "no state could be saved: QEMU ended: unknown state",
    "wait": "no state could be saved: QEMU ended",
    "restore": "a saved state could not be restored: QEMU ended: unknown state",
    "plug": "a saved state could not be restored: QEMU: no free slot",
    "files": "a resumed boot did not get its files: exit 85",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_state_leaves_a_whole_boot(machine: Machine, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", broken)
    assert _resumed(machine) is None
    assert [BROKEN[broken]] == saved.WHOLE
    tried = _log(machine).count("-nodefaults")
    assert _resumed(machine, 2) is None
    assert _log(machine).count("-nodefaults") == tried, "a broken state was tried twice"
    assert len(saved.WHOLE) == 2


def test_interrupted_state_is_not_kept(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", "wait")
    _resumed(machine)
    assert not list((machine.kernel.parent / "cache").glob("*saved-*"))


CHANGES: dict[str, Callable[[Machine], Machine]] = {
    "command-line": lambda machine: replace(machine, append="quiet ro"),
    "memory": lambda machine: replace(machine, memory=512),
    "option": lambda machine: replace(machine, extra=["-device", "virtio-rng-pci"]),
    "kernel": lambda machine: replace(machine, kernel=machine.initrd),
    "initrd": lambda machine: replace(machine, initrd=machine.kernel),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_state_has_another_name_if_its_machine_changes(machine: Machine, change: Callable[[Machine], Machine]) -> None:
    assert saved.key(change(machine), COMMON) != saved.key(machine, COMMON)


def test_state_has_another_name_if_qemu_or_a_file_changes(machine: Machine) -> None:
    before = saved.key(machine, COMMON)
    assert saved.key(machine, {"etc/common": b"other"}) != before
    program = machine.kernel.parent / "qemu.py"
    program.write_text(program.read_text().replace("1.0", "1.1"))
    assert saved.key(machine, COMMON) != before


def test_state_keeps_its_name_with_other_disks(machine: Machine) -> None:
    assert saved.key(replace(machine, disks=[], timeout=1), COMMON) == saved.key(machine, COMMON)


def test_files_of_a_boot_replace_those_of_the_state(tmp_path: Path) -> None:
    files: dict[str, guest.Content] = {
        "etc/text": b"new\0\n'",
        "etc/new/program": (b"#!/bin/sh\n", 0o755),
        "etc/link": guest.Symlink("/nowhere"),
    }
    (tmp_path / "etc").mkdir()
    for name in ("text", "link"):
        (tmp_path / "etc" / name).write_bytes(b"old")
    disk = saved.files_disk(files, tmp_path / "disk")
    assert disk.stat().st_size % 512 == 0
    runpy.run_path(str(SCRIPTS / "initrd/files.py"))["place"](eval(disk.read_text())[1], str(tmp_path))
    assert (tmp_path / "etc/text").read_bytes() == b"new\0\n'"
    assert stat.S_IMODE((tmp_path / "etc/new/program").stat().st_mode) == 0o755
    assert (tmp_path / "etc/link").readlink() == Path("/nowhere")
