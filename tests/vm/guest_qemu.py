# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one QEMU until its guest ends it with an agreed status, its time is over, or the test pulls the plug."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import guest_cache
from guest_cache import GuestError, cache_dir

PASSED = 123  # the booted system's test script passed
REFUSED = 85  # the initrd's emergency environment was reached, and the script for it passed
FAILED = 87  # a test script failed
SLOTS = 2  # QEMUs at a time on the whole machine
POLL = 0.2
# QEMU's multi-threaded emulator sometimes delivers a breakpoint that the kernel, patching its own code, has removed.
EMULATOR_OOPS = "Oops: int3"
# And now and then a machine stands still, seen once where the kernel starts, before anything of a test has run.
FIRST_PROCESS = re.compile(r"Run \S+ as init process")
FIRST_PROCESS_TIMEOUT = 120  # seconds; 5 on a quiet machine
# Where a service or a script hangs, systemd goes on counting the seconds on the console; this is a machine that stands.
SILENCE = 100  # seconds
ANEW: list[str] = []  # why guests were started once more

Ended = Literal["exit", "timeout", "killed"]


@dataclass(frozen=True)
class Disk:
    """A disk of the guest: /dev/disk/by-id/virtio-SERIAL."""

    path: Path
    format: Literal["raw", "qcow2"]
    serial: str
    readonly: bool = False


@dataclass(frozen=True)
class Firmware:
    """UEFI with Secure Boot: its code, its variables (written), and the system partition that it boots from."""

    code: Path
    variables: Path
    esp: Path


@dataclass(frozen=True)
class Machine:
    """What to run. `kill_after` (seconds) and `kill_on` (a regular expression for the console) cut the power.

    With `firmware`, kernel, initrd and command line are what it finds.
    """

    kernel: Path
    initrd: Path
    append: str
    disks: Sequence[Disk]
    timeout: float = 240
    icount: bool = False
    cpus: int = 2
    memory: int = 1024
    kill_after: float | None = None
    kill_on: str | None = None
    firmware: Firmware | None = None
    extra: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Ending:
    """How it ended. `status` means something only where `ended` is "exit"; -9 otherwise."""

    ended: Ended
    status: int
    console: str
    report: str
    seconds: float
    silent: float  # seconds since the console's last line


def accelerator(machine: Machine) -> list[str]:
    """The emulator, so that results are the same everywhere; with `icount` guest time counts instructions."""
    if machine.icount:
        return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on", "-smp", "1", "-cpu", "max,la57=off"]
    return ["-accel", "tcg,thread=multi", "-smp", str(machine.cpus), "-cpu", "max,la57=off"]


def command(machine: Machine, serials: Sequence[str]) -> list[str]:
    """The QEMU command line, with ttyS0 and ttyS1 going to `serials`."""
    line = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    line += accelerator(machine)
    line += ["-m", str(machine.memory), *_booting(machine), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    for serial in serials:
        line += ["-serial", serial]
    for disk in machine.disks:
        options = f"if=none,id={disk.serial},file={disk.path},format={disk.format}"
        line += ["-drive", options + (",readonly=on" if disk.readonly else "")]
        line += ["-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial}"]
    return [*line, *machine.extra]


def _booting(machine: Machine) -> list[str]:
    if machine.firmware is None:
        return ["-kernel", str(machine.kernel), "-initrd", str(machine.initrd), "-append", machine.append]
    # Only code in system management mode may write variables: what makes Secure Boot more than a wish.
    line = ["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
    line += ["-drive", f"if=pflash,format=raw,unit=0,file={machine.firmware.code},readonly=on"]
    line += ["-drive", f"if=pflash,format=raw,unit=1,file={machine.firmware.variables}"]
    line += ["-drive", f"if=none,id=guest-esp,file={machine.firmware.esp},format=raw,readonly=on"]
    # Behind the other disks, whose names the guests know.
    return [*line, "-device", "virtio-blk-pci,drive=guest-esp,serial=guest-esp,bootindex=0,addr=0x1e"]


@contextmanager
def slot() -> Iterator[None]:
    """One of the few places for a QEMU on this machine."""
    locks = cache_dir() / "locks"
    locks.mkdir(exist_ok=True)
    while True:
        for number in range(SLOTS):
            with (locks / f"qemu-{number}").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        time.sleep(POLL)


def run(machine: Machine, work: Path) -> Ending:
    """Run the machine, its serial ports into files below `work`."""
    fresh = {disk.path: disk.path.read_bytes() for disk in machine.disks if disk.format == "qcow2"}
    ending = _run_once(machine, work)
    if why := _lost(machine, ending):
        ANEW.append(why)
        guest_cache.say(f"guest: {why}: once more with one CPU")
        for path, content in fresh.items():
            path.write_bytes(content)
        ending = _run_once(replace(machine, cpus=1), work)
    return ending


def _lost(machine: Machine, ending: Ending) -> str:
    """Why it was the emulator that failed, with its two CPUs; empty if it was not, or may have been the guest."""
    if machine.icount or machine.cpus == 1:
        return ""
    if EMULATOR_OOPS in ending.console:
        return "the emulator delivered a breakpoint that was gone"
    if ending.ended == "timeout" and not _started(machine, ending.console):
        return "the machine stood before its first process"
    stood = ending.ended == "timeout" and ending.silent > SILENCE
    return f"the machine stood, silent for {ending.silent:.0f} s" if stood else ""


def _started(machine: Machine, console: str) -> bool:
    """Whether the first process runs; a quiet kernel does not say it."""
    return machine.icount or "quiet" in machine.append.split() or bool(FIRST_PROCESS.search(console))


def _run_once(machine: Machine, work: Path) -> Ending:
    console, report, errors = work / "console", work / "report", work / "qemu"
    for file in (console, report):
        file.write_bytes(b"")
    line = command(machine, [f"file:{console}", f"file:{report}"])
    with slot(), errors.open("wb") as log:
        start = time.monotonic()
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            ended = _wait(process, machine, console, start)
        finally:
            process.kill()
            process.wait()
        seconds = time.monotonic() - start
        silent = time.time() - console.stat().st_mtime
    if ended == "exit" and (process.returncode < 0 or errors.stat().st_size):
        raise GuestError(f"QEMU failed ({process.returncode}): {errors.read_text(errors='replace')[-2000:]}")
    status = process.returncode if ended == "exit" else -9
    if machine.firmware and status == 0:
        status = _said(_text(report))
    return Ending(ended, status, _text(console), _text(report), seconds, silent)


def _said(report: str) -> int:
    """A locked down kernel lets nobody end QEMU with a status: the guest says it, last of all, and reboots."""
    match = re.search(r"^guest-exit: (\d+)\n*\Z", report, re.MULTILINE)
    return int(match[1]) if match else 0


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace").replace("\r", "")


def _wait(process: subprocess.Popen[bytes], machine: Machine, console: Path, start: float) -> Ended:
    while process.poll() is None:
        elapsed = time.monotonic() - start
        if machine.kill_after is not None and elapsed > machine.kill_after:
            return "killed"
        if machine.kill_on is not None and re.search(machine.kill_on, _text(console)):
            return "killed"
        if elapsed > machine.timeout or (elapsed > FIRST_PROCESS_TIMEOUT and not _started(machine, _text(console))):
            return "timeout"
        time.sleep(POLL if machine.kill_on is None else POLL / 10)
    return "exit"


def overlay(backing: Path, to: Path, *, format: str = "raw") -> Path:
    """An empty qcow2 over `backing`; with clusters of one block, so that what was written can be counted."""
    options = ["-q", "-f", "qcow2", "-o", "cluster_size=4096", "-b", str(backing), "-F", format]
    subprocess.run(["qemu-img", "create", *options, str(to)], check=True)
    return to


def bytes_written(overlay_: Path) -> int:
    """How many bytes of a disk were written (whole blocks), by what its overlay holds."""
    output = subprocess.run(
        ["qemu-img", "map", "--output=json", str(overlay_)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return sum(int(extent["length"]) for extent in json.loads(output) if extent["depth"] == 0 and extent["present"])
