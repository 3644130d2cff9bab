# SPDX-License-Identifier: LGPL-2.1-or-later
"""Resume a boot where its initrd waits for the disks, from a machine that was saved there.

One state serves every boot with the same kernel, initrd and command line: nothing of a disk was read yet. What differs from
one boot to the next, its files for the initrd included, comes with disks that are plugged in after the restore. All boots
from one state have the same boot_id and the same random numbers at first; their clock is set.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, Any

from . import qemu
from .cache import SCRIPTS, GuestError, cached, digest_of
from .cpio import Content, Symlink, archive, with_files
from .qemu import Disk, Ending, Machine

WAITING, ARRIVED = "guest: waiting for its disks\n", "guest: files in place\n"
_DISK = "guest-files"
_SECTOR = 512
_UNIT = "guest-files.service"

WHOLE: list[str] = []  # why boots that should have been resumed were whole ones
_broken: dict[str, str] = {}


class UnsavedError(Exception):
    """No boot from a saved state; the message says why."""


def resumed(machine: Machine, files: Mapping[str, Content], work: Path, *, common: Mapping[str, Content]) -> Ending | None:
    """Run a machine from a saved state; None if only a whole boot is left.

    The state's initrd has the files `common`. `files` come with the machine's disks, after the restore.
    """
    name = key(machine, common)
    try:
        if name in _broken:
            raise UnsavedError(_broken[name])
        return _resume(machine, _state(name, machine, common), files, work)
    except UnsavedError as error:
        _broken[name] = str(error)
        WHOLE.append(str(error))
        return None


# --- states


def _waiting_files(common: Mapping[str, Content]) -> dict[str, Content]:
    units = "etc/systemd/system"
    return {
        **common,
        f"{units}/{_UNIT}": (SCRIPTS / "initrd/files.service").read_bytes(),
        f"{units}/sysroot.mount.requires/{_UNIT}": Symlink(f"../{_UNIT}"),
        f"{units}/bootseal.service.d/40-{_UNIT}.conf": f"[Unit]\nRequires={_UNIT}\nAfter={_UNIT}\n".encode(),
        "usr/lib/bootseal-test/files.py": (SCRIPTS / "initrd/files.py").read_bytes(),
        "etc/guest-waits": b"",
    }


def key(machine: Machine, common: Mapping[str, Content]) -> str:
    """Name a state by everything that makes it."""
    bare = replace(machine, kernel=Path("kernel"), initrd=Path("initrd"), disks=())
    sources = (Path(__file__), Path(qemu.__file__))
    files = archive(_waiting_files(common))
    return digest_of(_version(), *qemu.command(bare), _content(machine.kernel), _content(machine.initrd), files, *sources)


def _version() -> str:
    return subprocess.run(["qemu-system-x86_64", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout


@cache
def _content(file: Path) -> str:
    return digest_of(file.read_bytes())


def _state(name: str, machine: Machine, common: Mapping[str, Content]) -> Path:
    """Boot without disks, once for each name, and save the machine that waits for them."""

    def build(path: Path) -> None:
        whole = with_files(machine.initrd, _waiting_files(common), path / "initrd")
        waiting = _with_monitor(replace(machine, initrd=whole, disks=()), path, "off")
        try:
            qemu.watch(waiting, path, lambda process: _save(process, path, machine.timeout))
        except (UnsavedError, GuestError) as error:
            raise UnsavedError(f"no state could be saved: {error}{_errors(path)}") from None

    return cached("saved", name, "boot up to its disks, to be saved", build)


def _save(process: subprocess.Popen[bytes], home: Path, timeout: float) -> None:
    monitor = Monitor(process)
    if qemu.wait(process, timeout, lambda: said(home / "console", WAITING)) != "reached":
        raise UnsavedError("the initrd did not begin to wait for its disks")
    monitor.execute("stop")
    monitor.execute("migrate", uri=f"exec:cat >'{home}/state'")
    monitor.until("query-migrate", {"completed"}, {"active", "setup", "device", "wait-unplug"})
    monitor.execute("quit")


# --- boots


def _resume(machine: Machine, state: Path, files: Mapping[str, Content], work: Path) -> Ending:
    before = (state / "console").read_bytes()
    (work / "console").write_bytes(before)
    (work / "report").write_bytes(b"")
    disks = (*machine.disks, Disk(files_disk(files, work / "files.raw"), "raw", _DISK, readonly=True))
    restored = _with_monitor(replace(machine, initrd=state / "initrd", disks=disks, plugged=False), work, "on")
    restored = replace(restored, extra=[*restored.extra, "-incoming", f"exec:cat '{state}/state'"])
    try:
        ending = qemu.watch(restored, work, lambda process: _plug(process, disks))
    except (UnsavedError, GuestError) as error:
        if said(work / "console", ARRIVED):
            raise
        raise UnsavedError(f"a saved state could not be restored: {error}{_errors(work)}") from None
    # Before that moment nothing was mounted.
    if not said(work / "console", ARRIVED):
        (work / "console").rename(work / "console.resumed")
        raise UnsavedError(f"a resumed boot did not get its files: {ending.ended} {ending.status}")
    return ending


def _errors(work: Path) -> str:
    text = (work / "qemu").read_text(errors="replace").strip()
    return f": {text}" if text else ""


def _plug(process: subprocess.Popen[bytes], disks: tuple[Disk, ...]) -> None:
    monitor = Monitor(process)
    monitor.until("query-status", {"paused"}, {"inmigrate"})
    for disk in disks:
        monitor.execute("device_add", driver="virtio-blk-pci", drive=disk.serial, serial=disk.serial)
    monitor.execute("cont")


def _with_monitor(machine: Machine, work: Path, append: str) -> Machine:
    """Add serial ports into files below `work` and a monitor on standard input and output."""
    extra = [*machine.extra, "-qmp", "stdio"]
    for name in ("console", "report"):
        extra += ["-chardev", f"file,id={name},path={work / name},append={append}", "-serial", f"chardev:{name}"]
    return replace(machine, extra=extra)


def said(console: Path, line: str) -> bool:
    """Tell whether a console has this line."""
    return line.encode() in console.read_bytes().replace(b"\r", b"")


def files_disk(files: Mapping[str, Content], to: Path) -> Path:
    """Make the disk that guest/initrd/files.py reads: the time, and the files as a Python literal."""
    content = repr((time.time(), {name: _file(content) for name, content in files.items()})).encode() + b"\n"
    to.write_bytes(content + b"\n" * (-len(content) % _SECTOR))
    return to


def _file(content: Content) -> tuple[str, str | bytes, int]:
    if isinstance(content, Symlink):
        return "link", content.target, 0
    data, mode = content if isinstance(content, tuple) else (content, 0o644)
    return "file", data, mode


class Monitor:
    """QEMU's monitor protocol, on its standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        self._to: IO[bytes] = process.stdin
        self._from: IO[bytes] = process.stdout
        self._answer("QMP")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: str) -> Any:
        """Run a command; an error is an UnsavedError."""
        try:
            self._to.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            self._to.flush()
        except OSError as error:
            raise UnsavedError(f"QEMU ended before {command}: {error}") from None
        return self._answer("return")

    def _answer(self, member: str) -> Any:
        while line := self._from.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise UnsavedError(f"QEMU: {answer['error']['desc']}")
            if member in answer:
                return answer[member]
        raise UnsavedError("QEMU ended")

    def until(self, query: str, reached: set[str], before: set[str]) -> None:
        """Ask until the status is one of `reached`; any other than those `before` is an error."""
        while (status := self.execute(query).get("status", "setup")) not in reached:
            if status not in before:
                raise UnsavedError(f"QEMU: {query}: {status}")
            time.sleep(qemu.POLL / 4)
