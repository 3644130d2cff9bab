# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot a sealed image with an initrd and a test script, and return what the guest said."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .cache import SCRIPTS, cache_dir, remove, step
from .cpio import Content, Symlink, with_files
from .disk import Image
from .efi import secure_boot
from .qemu import CHEAP, FULL, TIMEOUT, Disk, Ended, Ending, Machine, bytes_written, command, overlay, run
from .saved import resumed
from .tree import guest_exit

# The physical root of a saved state: what most boots have.
_COMMON_ROOT = "rootfstype=ext4 ro"
# Arguments that nothing has read before a resumed boot gets its command line, a file over /proc/cmdline. A boot with any other
# is whole, because its state would serve it alone.
LATE = ("ostree=", "composefs=", "composefs.digest=", "bootseal.root=", "rd.bootseal.", "fsck.mode=", "fips=")
# The first boot's jobs (linker cache, hardware database, ...) take half a minute of an emulated guest; no test needs them.
ARGUMENTS = "console=ttyS0 panic=-1 systemd.condition_needs_update=0"
# Where the same library is at the same address in all processes, the emulator translates it once.
# systemd waits a second in all for what a terminal would answer to its questions for size and type.
CHEAP_ARGUMENTS = (
    "mitigations=off norandmaps init_on_alloc=0"
    " systemd.tty.term.console=dumb systemd.tty.rows.console=25 systemd.tty.columns.console=80"
)


@dataclass(frozen=True)
class Result:
    """How a boot ended. 123 is passed, 85 refused as expected; the status is -9 unless `ended` is "exit"."""

    status: int
    ended: Ended
    console: str
    report: str
    overlay: Path
    seconds: float

    def bytes_written(self) -> int:
        """Count the bytes of the disk that were written, in whole blocks."""
        return bytes_written(self.overlay)


def _working_directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="run-", dir=cache_dir()))
    owner = os.getpid()
    atexit.register(lambda: remove(path) if os.getpid() == owner and not os.environ.get("BOOTSEAL_KEEP") else None)
    return path


def _common_files(*, cheap: bool) -> dict[str, Content]:
    """Make what every test initrd gets: a refused boot ends QEMU with a report, and a script may run before the mount."""
    unit, units = (SCRIPTS / "initrd/emergency.service").read_bytes(), "etc/systemd/system"
    rules = {"etc/udev/rules.d/99-guest.rules": (SCRIPTS / "initrd/guest.rules").read_bytes()} if cheap else {}
    return {
        **rules,
        f"{units}/emergency.service": unit,
        f"{units}/dracut-emergency.service": unit,
        f"{units}/guest-waiting.service": (SCRIPTS / "initrd/waiting.service").read_bytes(),
        f"{units}/sysroot.mount.wants/guest-waiting.service": Symlink("../guest-waiting.service"),
        "usr/lib/bootseal-test/waiting": ((SCRIPTS / "initrd/waiting").read_bytes(), 0o755),
        "usr/lib/bootseal-test/emergency": ((SCRIPTS / "initrd/emergency").read_bytes(), 0o755),
        "usr/lib/bootseal-test/guest-exit": (guest_exit(), 0o755),
    }


def _script_disk(script: str, to: Path) -> Path:
    """Make a disk that is a shell script, filled up with empty lines."""
    content = script.encode() + b"\n"
    to.write_bytes(content + b"\n" * (-len(content) % 512))
    return to


def arguments(image: Image, *, rw: bool = False, cheap: bool = True, append: str = "") -> str:
    """Make the kernel command line."""
    root = f"rootfstype={image.fs} {'rw' if rw else 'ro'} {image.deployment.argument}"
    return f"{_arguments(cheap=cheap)} {root} {append}".strip()


def _arguments(*, cheap: bool) -> str:
    return f"{ARGUMENTS} {CHEAP_ARGUMENTS + ' ' if cheap else ''}root=/dev/vda"


def boot(
    image: Image,
    initrd: Path,
    *,
    append: str = "",
    karg: str | None = None,
    extra_initrd_files: Mapping[str, Content] | None = None,
    script: str = "",
    emergency_script: str = "",
    waiting_script: str = "",
    pause: bool = False,
    rw: bool = False,
    readonly: bool = False,
    timeout: float = TIMEOUT,
    disk: Path | None = None,
    disks: Sequence[Disk] = (),
    snapshot: bool = True,
    firmware: bool = False,
    writes: Path | None = None,
    whole: bool = False,
    cheap: bool = True,
    title: str = "boot",
) -> Result:
    """Boot `image` to the end of `script` (or, refused, of `emergency_script`).

    `waiting_script` runs in the initrd before the physical root is mounted.
    `disk` replaces the image's disk: a changed copy (raw), or the overlay of an earlier boot (qcow2, by its suffix).
    Without `snapshot` the guest writes to that overlay itself; it never writes to a raw disk. `karg` replaces the argument
    that selects the image. `readonly` is the medium. `firmware` boots everything as one unified kernel image below Secure
    Boot, from the disk `guest-esp`. The file `writes` logs what the guest writes to its disk. Unless it must be `whole`, a
    boot that shares its command line with others is resumed from a saved state, and only then may it `pause`, see
    saved.PAUSE. A `cheap` guest has a CPU and arguments for the emulator.
    """
    work = _working_directory()
    source = disk or image.disk
    qcow2 = source.suffix == ".qcow2"
    top = source if qcow2 and not snapshot else overlay(source, work / "root.qcow2", format="qcow2" if qcow2 else "raw")
    line = arguments(image, rw=rw, cheap=cheap, append=append)
    if karg is not None:
        line = line.replace(image.deployment.argument, karg)
    files = {"etc/guest-emergency-script": emergency_script.encode(), **(extra_initrd_files or {})}
    if waiting_script:
        files["etc/guest-waiting-script"] = waiting_script.encode()
    script_disk = Disk(_script_disk(script, work / "script.raw"), "raw", "guest-script", readonly=True)
    root_disk = Disk(top, "qcow2", "guest-root", readonly=readonly)
    machine = Machine(
        kernel=image.kernel,
        initrd=initrd,
        append=line,
        disks=(root_disk, script_disk, *disks),
        timeout=timeout,
        cpu=CHEAP if cheap else FULL,
        writes=writes,
    )
    common = _common_files(cheap=cheap)
    alone = whole or firmware or not all(word.startswith(LATE) for word in append.split())
    with step(title):
        state = replace(machine, append=f"{_arguments(cheap=cheap)} {_COMMON_ROOT}", disks=(root_disk, *disks))
        # Without the script on a disk, because a guest takes half a second to find one.
        own = {**files, "proc/cmdline": f"{line}\n".encode(), "run/guest-script": script.encode()}
        ending = None if alone else resumed(state, own, work, common=common, pause=pause)
        if ending is None:
            ending = _run_whole(machine, {**common, **files}, work, firmware=firmware)
    return Result(ending.status, ending.ended, ending.console, ending.report, top, ending.seconds)


def _run_whole(machine: Machine, files: Mapping[str, Content], work: Path, *, firmware: bool) -> Ending:
    whole = with_files(machine.initrd, files, work / "initrd")
    signed = secure_boot(machine.kernel, whole, machine.append, work) if firmware else None
    return run(replace(machine, initrd=whole, firmware=signed), work)


def shell_command(image: Image, initrd: Path, append: str = "") -> list[str]:
    """Make the QEMU command line for a boot with its console on this terminal (Ctrl-A X ends it)."""
    work = _working_directory()
    disks = (
        Disk(overlay(image.disk, work / "root.qcow2"), "qcow2", "guest-root"),
        Disk(_script_disk("", work / "script.raw"), "raw", "guest-script", readonly=True),
    )
    machine = Machine(image.kernel, initrd, arguments(image, rw=True, append=f"guest.shell {append}"), disks)
    return command(replace(machine, extra=["-serial", "mon:stdio", "-serial", "null"]))
