# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one QEMU until its guest ends it, mostly with an agreed status.

The guest's clock counts its instructions and its sleep, so a busy machine cannot disturb it. Nothing here may depend on the
speed of the machine: a test that cuts the power lets the guest do it.
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from .cache import GuestError, cache_dir

PASSED = 123  # the booted system's test script passed
REFUSED = 85  # the initrd's emergency environment was reached, and the script for it passed
FAILED = 87  # a test script failed
SLOTS = 2  # QEMUs at a time on the whole machine
POLL = 0.2
# For guests that hang: many times as long as a boot takes; LONG where a dozen programs run in it.
TIMEOUT, LONG = 900, 3600  # seconds, see _waited()

# CPU models. What CHEAP lacks, programs do without in fewer steps of the emulator: vectors, `rep movsb`, checks of the kernel's
# accesses to memory of programs. It is so old that the kernel does not choose `rep movsq` and `rep stosq`, either.
CHEAP = "qemu64,model=4,stepping=0,-svm,+arat,+fsgsbase,+pdpe1gb,+rdrand,+smep"
FULL = "max,la57=off"
# Without KVM, so that results are the same everywhere. One CPU, because two emulated ones sometimes deadlock.
EMULATOR = ["-accel", "tcg,thread=single", "-smp", "1"]
# The time of an instruction, 1 or 8 ns. Firmware waits in loops that read a clock: with 1 ns, it takes five times as long.
CLOCK, CLOCK_OF_FIRMWARE = (["-icount", f"shift={shift},sleep=on"] for shift in (0, 3))

Ended = Literal["exit", "timeout", "reached"]


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
    """What to run. With `firmware`, it finds kernel, initrd and command line itself.

    The file `writes` logs all that the guest writes to the first disk, see writes.py. `cpu` is a model for QEMU.
    """

    kernel: Path
    initrd: Path
    append: str
    disks: Sequence[Disk]
    timeout: float = TIMEOUT
    memory: int = 1024
    cpu: str = CHEAP
    firmware: Firmware | None = None
    writes: Path | None = None
    plugged: bool = True  # without it, the disks are there for a monitor to plug in
    extra: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Ending:
    """How it ended. `status` is -9 unless `ended` is "exit"."""

    ended: Ended
    status: int
    console: str
    report: str
    seconds: float


def command(machine: Machine) -> list[str]:
    """Make the QEMU command line."""
    line = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    line += [*EMULATOR, *(CLOCK_OF_FIRMWARE if machine.firmware else CLOCK), "-cpu", machine.cpu]
    line += ["-m", str(machine.memory), *_booting(machine), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    for number, disk in enumerate(machine.disks):
        options = _logged(disk, machine.writes) if machine.writes and not number else f"file={disk.path},format={disk.format}"
        line += ["-drive", f"if=none,id={disk.serial},{options}" + (",readonly=on" if disk.readonly else "")]
        if machine.plugged:
            line += ["-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial}"]
    return [*line, *machine.extra]


def _logged(disk: Disk, log: Path) -> str:
    log.write_bytes(b"")
    return f"driver=blklogwrites,file.driver={disk.format},file.file.filename={disk.path},log.driver=file,log.filename={log}"


def _booting(machine: Machine) -> list[str]:
    if machine.firmware is None:
        return ["-kernel", str(machine.kernel), "-initrd", str(machine.initrd), "-append", machine.append]
    # Only code in system management mode may write variables; otherwise the guest could switch Secure Boot off.
    line = ["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
    line += ["-drive", f"if=pflash,format=raw,unit=0,file={machine.firmware.code},readonly=on"]
    line += ["-drive", f"if=pflash,format=raw,unit=1,file={machine.firmware.variables}"]
    line += ["-drive", f"if=none,id=guest-esp,file={machine.firmware.esp},format=raw,readonly=on"]
    # Behind the other disks, whose names the guests know.
    return [*line, "-device", "virtio-blk-pci,drive=guest-esp,serial=guest-esp,bootindex=0,addr=0x1e"]


@contextmanager
def slot() -> Iterator[None]:
    """Wait for one of the few places for a QEMU on this machine."""
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
    for name in ("console", "report"):
        (work / name).write_bytes(b"")
    serials = [option for name in ("console", "report") for option in ("-serial", f"file:{work / name}")]
    ending = watch(replace(machine, extra=[*machine.extra, *serials]), work)
    if machine.firmware and ending.status == 0:
        return replace(ending, status=_said(ending.report))
    return ending


def watch(machine: Machine, work: Path, begin: Callable[[subprocess.Popen[bytes]], None] | None = None) -> Ending:
    """Run a machine whose serial ports are files below `work`; `begin` may talk to its monitor first."""
    errors, pipe = work / "qemu", subprocess.PIPE if begin else None
    with slot(), errors.open("wb") as log:
        start = time.monotonic()
        process = subprocess.Popen(command(machine), stdin=pipe or subprocess.DEVNULL, stdout=pipe or log, stderr=log)
        try:
            if begin:
                begin(process)
            ended = wait(process, machine.timeout)
        finally:
            process.kill()
            process.communicate()  # which closes the pipes
        seconds = time.monotonic() - start
    if ended == "exit" and (process.returncode < 0 or errors.stat().st_size):
        raise GuestError(f"QEMU failed ({process.returncode}): {errors.read_text(errors='replace')[-2000:]}")
    status = process.returncode if ended == "exit" else -9
    return Ending(ended, status, _text(work / "console"), _text(work / "report"), seconds)


def _said(report: str) -> int:
    """Read the status that a guest reports before its reboot: a locked-down kernel cannot end QEMU."""
    match = re.search(r"^guest-exit: (\d+)\n*\Z", report, re.MULTILINE)
    return int(match[1]) if match else 0


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace").replace("\r", "")


def wait(process: subprocess.Popen[bytes], timeout: float, until: Callable[[], bool] = lambda: False) -> Ended:
    """Wait for its end, or `until` something is reached."""
    start = time.monotonic()
    while process.poll() is None:
        if until():
            return "reached"
        if time.monotonic() - start - _waited(process.pid) > timeout:
            return "timeout"
        time.sleep(POLL)
    return "exit"


def _waited(process: int) -> float:
    """Count the seconds for which its threads waited for a processor, see schedstat in proc(5)."""
    nanoseconds = 0
    for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has ended
            nanoseconds += int(file.read_text().split()[1])
    return nanoseconds / 1e9


def overlay(backing: Path, to: Path, *, format: str = "raw") -> Path:
    """Make an empty qcow2 over `backing`, with clusters of one block so that writes can be counted."""
    options = ["-q", "-f", "qcow2", "-o", "cluster_size=4096", "-b", str(backing), "-F", format]
    subprocess.run(["qemu-img", "create", *options, str(to)], check=True)
    return to


def bytes_written(overlay_: Path) -> int:
    """Count the bytes of a disk that were written (whole blocks), by what its overlay holds."""
    output = subprocess.run(
        ["qemu-img", "map", "--output=json", str(overlay_)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return sum(int(extent["length"]) for extent in json.loads(output) if extent["depth"] == 0 and extent["present"])
