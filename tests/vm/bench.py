#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""make bench: measure a boot beside Debian's ostree-prepare-root in verity mode on the same disk, and the program.

The program is measured on a build host and for many deployments. The benchmark asserts nothing.

Guest time counts instructions (QEMU's icount, one CPU): it is the same on a busy host, and of use for comparison only.
Each boot ends where the verified root has been mounted. The peer checks no signature: Debian builds it without ed25519.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this package is
from vm.demo import end_on_sigterm, make_key, sign
from vm.harness import guest, qemu, tree
from vm.harness.cache import CHECKOUT, SCRIPTS, cached, digest_of, must_run, say, scratch
from vm.harness.parse import sections
from vm.harness.signed import IMAGE

SUITE = "forky"
LARGE = "large.cfs"
DIRECTORIES, FILES, NAME = 43, 1000, 240  # empty files with long names: an image about ten times larger
OURS, PEER = "bootseal.service", "ostree-prepare-root.service"
SERVICES = {"bootseal": OURS, "ostree": PEER}
PROPERTIES = "Id,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic,CPUUsageNSec,MemoryPeak"
PROPERTIES += ",ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic"

# PID 1 forgets the times of the initrd's units when it switches the root, so this unit asks before.
UNIT = """[Unit]
DefaultDependencies=no
After=initrd-root-fs.target
Before=initrd-parse-etc.service
[Service]
Type=oneshot
ExecStart=/bin/sh /usr/lib/bootseal-test/bench
"""
SCRIPT = f"""exec >/dev/ttyS1 2>&1
! test -e /usr/lib/bootseal/last-look || systemctl start bench-true.service bench-look.service
for unit in bench-true.service bench-look.service sysroot.mount {OURS} {PEER} initrd-root-fs.target; do
    systemctl show --property={PROPERTIES} "$unit"
    echo
done
echo 'boot.json:'
test ! -e /run/bootseal/boot.json || cat /run/bootseal/boot.json
exec /usr/lib/bootseal-test/guest-exit {guest.PASSED}
"""
PROCESS = """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={}
"""
INITRD_FILES: Mapping[str, guest.Content] = {
    "etc/systemd/system/bench-true.service": PROCESS.format("/usr/bin/true").encode(),
    "etc/systemd/system/bench-look.service": PROCESS.format("/bin/sh /usr/lib/bootseal/last-look /usr/bin/true").encode(),
    "usr/lib/bootseal-test/bench": SCRIPT.encode(),
    "etc/systemd/system/bench.service": UNIT.encode(),
    "etc/systemd/system/initrd.target.wants/bench.service": guest.Symlink("../bench.service"),
}


@dataclass(frozen=True)
class Case:
    """One boot to measure."""

    title: str
    disk: Path
    modules: str = "bootseal"
    method: str = "keyring"


@dataclass(frozen=True)
class Figures:
    """The costs of one boot; times in milliseconds."""

    wall: float
    cpu: float
    window: float  # from sysroot.mount to initrd-root-fs.target
    last_look: float  # the time that it adds to a process of systemd; 0 with the peer
    memory: int
    written: int
    stages: Mapping[str, float]
    overlay: Path


@dataclass(frozen=True)
class Bench:
    """Everything to measure: disks with the image as it is and with the large one, and initrds by their modules."""

    image: guest.Image
    normal: Path
    large: Path
    initrds: Mapping[str, Path]
    sizes: tuple[int, int]


def large_image() -> Path:
    """Make the composefs image of such a system with many more files, whose objects no boot reads."""
    base = tree.base_tree(SUITE)

    def build(path: Path) -> None:
        with scratch() as work:
            aids = work / "aids"
            shutil.copytree(SCRIPTS / "tree", aids, symlinks=True)
            (aids / "usr/lib/bootseal-test/guest-exit").write_bytes(tree.guest_exit())
            for directory in (aids / f"usr/share/bench/{number}" for number in range(DIRECTORIES)):
                directory.mkdir(parents=True)
                for number in range(FILES):
                    (directory / f"{number:x<{NAME}}").touch()
            must_run("os.sh", base, aids, work / "tree", *tree.packages().glob("*.deb"))
            must_run("deploy.sh", base, work / "tree", work / "deployment", work / "view")
            shutil.copy(work / "deployment/image.cfs", path / LARGE)

    size = str((DIRECTORIES, FILES, NAME))
    key = digest_of(base.parent.name, SCRIPTS / "os.sh", SCRIPTS / "deploy.sh", size)
    return cached("bench-image", key, "large image", build) / LARGE


def prepare(work: Path) -> Bench:
    """Build everything that is booted."""
    make_key(work)
    large = large_image()
    image = guest.image(SUITE, files={LARGE: large.read_bytes()}, commands=f"fsverity enable {LARGE}\n")
    home, cfs = image.deployment.path, image.deployment.cfs
    names = {"normal": cfs, "large": large}
    disks = {}
    for name, file in names.items():
        beside = {f"{home}/{path}": content for path, content in sign(file, work).items()}
        disks[name] = guest.replace_files(image.disk, beside, work / f"{name}.raw")
    swap = f"unlink /{home}/{IMAGE}\nln /{home}/{LARGE} /{home}/{IMAGE}\nunlink /{home}/{LARGE}\n"
    guest.debugfs(disks["large"], swap, write=True)
    initrds = {name: initrd(name, work) for name in ("plain", "ostree", "bootseal")}
    sizes = (cfs.stat().st_size, large.stat().st_size)
    return Bench(image, disks["normal"], disks["large"], initrds, sizes)


def initrd(modules: str, work: Path) -> Path:
    """Build an initrd by dracut; all differ in one module only."""
    keys = [work / "demo.pem"] if modules == "bootseal" else []
    return guest.initrd(SUITE, modules, keys=keys, compress="zstd").built()


def measure(bench: Bench, case: Case) -> Figures:
    """Boot a case to the end of the initrd's work."""
    files = {**INITRD_FILES, "etc/bootseal/bootseal.conf": f"[Enroll]\nMethod={case.method}\n".encode()}
    result = guest.boot(
        bench.image,
        bench.initrds[case.modules],
        disk=case.disk,
        append="quiet fsck.mode=skip",
        cheap=False,
        extra_initrd_files=files,
        title=case.title,
    )
    if result.status != guest.PASSED:
        said = f"{result.console[-3000:]}\n{result.report[-1000:]}"
        raise guest.GuestError(f"{case.title}: {result.ended} {result.status}\n{said}")
    found = figures(result, SERVICES[case.modules])
    say(f"bench: {case.title}: unit {found.wall:.0f} ms, CPU {found.cpu:.0f} ms, mount to target {found.window:.0f} ms")
    return found


def figures(result: guest.Result, service: str) -> Figures:
    """Read what systemd said of the units, and boot.json."""
    shown, _, record = result.report.partition("boot.json:\n")
    blocks = (dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n"))
    units = {block["Id"]: block for block in blocks}

    def at(unit: str, event: str) -> float:
        return int(units[unit][f"{event}TimestampMonotonic"]) / 1000

    def took(unit: str) -> float:
        return at(unit, "ExecMainExit") - at(unit, "ExecMainStart")

    return Figures(
        wall=took(service),
        cpu=int(units[service]["CPUUsageNSec"]) / 1e6,
        window=at("initrd-root-fs.target", "ActiveEnter") - at("sysroot.mount", "ActiveEnter"),
        last_look=took("bench-look.service") - took("bench-true.service"),
        memory=int(units[service]["MemoryPeak"]),
        written=result.bytes_written(),
        stages=json.loads(record)["milliseconds"] if record.strip() else {},
        overlay=result.overlay,
    )


def measure_all(bench: Bench) -> dict[str, Figures]:
    """Run two boots at a time; the later boot of `fsverity` needs the disk that the first one left."""
    normal, large = bench.normal, bench.large
    cases = [
        Case("ostree-prepare-root", normal, "ostree"),
        Case("bootseal, keyring", normal),
        Case("bootseal, fsverity, first boot", normal, method="fsverity"),
        Case("bootseal, none", normal, method="none"),
        Case("ostree-prepare-root, large image", large, "ostree"),
        Case("bootseal, keyring, large image", large),
        Case("bootseal, fsverity, first boot, large image", large, method="fsverity"),
    ]
    with ThreadPoolExecutor(qemu.SLOTS) as pool:
        measured = pool.map(lambda case: measure(bench, case), cases)  # this cancels the others when one of them fails
        found = {case.title: this for case, this in zip(cases, measured, strict=True)}
    first = found["bootseal, fsverity, first boot"].overlay
    later = Case("bootseal, fsverity, later boot", first, method="fsverity")
    return {**found, later.title: measure(bench, later)}


# --- the program


SIZES_MIB = (64, 1024)
DEPLOYMENTS = 10
_DIGEST_ROUNDS = 3


@dataclass(frozen=True)
class Digesting:
    """The best time of computing a file's digest, and the most memory that was used, of one program."""

    seconds: float
    memory: int


# In a process of its own: a child's peak begins with the size of its parent, see getrusage(2).
_MEASURE = """import os, resource, subprocess, sys, time
start = time.monotonic()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def digesting(command: Sequence[str | Path]) -> Digesting:
    """Run a command several times; after the first, the file is in the cache."""
    line = [sys.executable, "-ISc", _MEASURE, *map(str, command)]
    runs = [subprocess.check_output(line, text=True).split() for _ in range(_DIGEST_ROUNDS)]
    return Digesting(min(float(seconds) for seconds, _ in runs), max(int(memory) for _, memory in runs))


def digest_table(work: Path) -> str:
    """Compare `bootseal sign` up to the bytes to be signed with `fsverity digest`, without emulation."""
    rows = [("digest, this machine", "fsverity s", "bootseal s", "ratio", "peak MiB")]
    for size in SIZES_MIB:
        file = work / f"{size}.cfs"
        with file.open("wb") as out:
            for _ in range(size):
                out.write(os.urandom(1 << 20))
        peer = digesting(["fsverity", "digest", file])
        ours = digesting([sys.executable, "-I", CHECKOUT / "service", "sign", file, "--to-be-signed", "-"])
        file.unlink()
        times = (f"{peer.seconds:.2f}", f"{ours.seconds:.2f}", f"{ours.seconds / peer.seconds:.2f}")
        rows.append((f"{size} MiB", *times, f"{ours.memory / 2**20:.1f}"))
    return table(rows)


VERIFY_SCRIPT = (SCRIPTS / "verify-all.sh").read_text()


def verify_line(bench: Bench, work: Path) -> str:
    """Measure `verify --all` of ten deployments in the guest's time, the second of two runs."""
    initrd = guest.with_files(bench.initrds["bootseal"], {}, work / "initrd-disk")
    disks = [
        guest.Disk(guest.overlay(bench.normal, work / "target.qcow2"), "qcow2", "target"),
        guest.Disk(initrd, "raw", "initrd", readonly=True),
    ]
    result = guest.boot(
        bench.image,
        bench.initrds["bootseal"],
        disk=bench.normal,
        append="quiet fsck.mode=skip",
        cheap=False,
        disks=disks,
        script=VERIFY_SCRIPT,
        timeout=qemu.LONG,
        title="verify --all",
    )
    if result.status != guest.PASSED:
        raise guest.GuestError(f"verify --all: {result.ended} {result.status}\n{result.report[-3000:]}")
    return verify_text(result.report)


def verify_text(report: str) -> str:
    """Read both figures, after checking that all deployments were verified."""
    figures = []
    for section in sections(report).values():
        *_, records, last = section.splitlines()
        verdicts = [record["verdict"] for record in json.loads(records)]
        if verdicts != ["verified"] * DEPLOYMENTS:
            raise guest.GuestError(f"verify --all said {verdicts}")
        figures.append(int(last.split()[1]))
    return (
        f"verify --all, {DEPLOYMENTS} deployments, warm, a million instructions each ms: "
        f"{figures[1]} ms with one initrd for all, {figures[0]} ms with one for each"
    )


def verify_here_line(bench: Bench, work: Path) -> str:
    """Measure the same on this machine without emulation, the best of three. Its kernel may lack fs-verity."""
    sysroot, cfs = work / "sysroot", bench.image.deployment.cfs
    beside = {IMAGE: cfs.read_bytes(), **sign(cfs, work)}
    entries = sysroot / "boot/loader/entries"
    for directory in (entries, sysroot / "ostree/repo/objects", sysroot / "ostree/deploy/guest/var"):
        directory.mkdir(parents=True)
    for number in range(DEPLOYMENTS):
        home = f"ostree/deploy/guest/deploy/{number:064x}.0"
        (sysroot / home / "etc").mkdir(parents=True)
        for name, content in beside.items():
            (sysroot / home / name).write_bytes(content)
        shutil.copy(bench.initrds["bootseal"], sysroot / f"boot/initrd-{number}")
        entry = f"version {number}\noptions ostree=/{home}\ninitrd /initrd-{number}\n"
        (entries / f"own-{number}.conf").write_text(entry)
    command = [sys.executable, "-I", str(CHECKOUT / "service"), "verify", "--all", f"--sysroot={sysroot}", "--json=short"]
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        seconds.append(time.monotonic() - start)
        verdicts = {record["verdict"] for record in json.loads(said)}
        if not verdicts <= {"verified", "image-unsealed", "unsupported"}:
            raise guest.GuestError(f"verify --all said {verdicts}")
    return f"verify --all, this machine, one initrd for each: {min(seconds):.2f} s ({', '.join(verdicts)})"


# --- what people read


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns, the first one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def times_table(found: Mapping[str, Figures]) -> str:
    """Show each boot beside the peer's on the same image."""
    rows = [("", "unit ms", "ratio", "CPU ms", "mount to target ms", "ratio", "last look ms", "peak MiB", "bytes written")]
    for title, this in found.items():
        peer = found["ostree-prepare-root, large image" if "large" in title else "ostree-prepare-root"]
        ratios = (f"{this.wall / peer.wall:.2f}", f"{this.window / peer.window:.2f}")
        times = (f"{this.wall:.0f}", ratios[0], f"{this.cpu:.0f}", f"{this.window:.0f}", ratios[1])
        rows.append((title, *times, f"{this.last_look:.0f}", f"{this.memory / 2**20:.1f}", f"{this.written:,}"))
    return table(rows)


def stages_table(found: Mapping[str, Figures]) -> str:
    """Show our own stages; the rest is the interpreter's start, its imports and its end."""
    ours = {title: this for title, this in found.items() if this.stages}
    names = list(next(iter(ours.values())).stages)
    rows = [("stage, ms", *names, "rest")]
    for title, this in ours.items():
        values = [this.stages[name] for name in names]
        rows.append((title, *(f"{value:.0f}" for value in values), f"{this.wall - sum(values):.0f}"))
    return table(rows)


def sizes_table(initrds: Mapping[str, Path]) -> str:
    """Show whole initrds: dracut's first, uncompressed archive (compressed kernel modules) and the rest."""
    size = {name: path.stat().st_size for name, path in initrds.items()}
    peer = size["ostree"] - size["plain"]
    rows = [("initrd, zstd", "bytes", "added", "ratio")]
    for name, total in size.items():
        added = total - size["plain"]
        rows.append((name, f"{total:,}", f"{added:,}", f"{added / peer:.2f}" if added else ""))
    return table(rows)


def report(bench: Bench, found: Mapping[str, Figures], program: Sequence[str]) -> str:
    """Put everything together."""
    large = found["bootseal, keyring, large image"].wall / found["bootseal, keyring"].wall
    kernel = bench.image.kernel.name.removeprefix("vmlinuz-")
    return "\n\n".join(
        (
            f"{SUITE}, Linux {kernel}, emulated; ratios are to ostree-prepare-root's.\n"
            "1 ms is a million instructions, or real time when waiting: for the disk, the busier the host, the longer.",
            times_table(found),
            stages_table(found),
            sizes_table(bench.initrds),
            f"large image: {bench.sizes[1]:,} bytes instead of {bench.sizes[0]:,} ({bench.sizes[1] / bench.sizes[0]:.1f}): "
            f"the unit takes {large:.2f} times as long",
            *program,
        )
    )


def main() -> None:
    end_on_sigterm()
    with scratch() as work:
        bench = prepare(work)
        found = measure_all(bench)
        print(report(bench, found, [digest_table(work), verify_here_line(bench, work), verify_line(bench, work)]))


if __name__ == "__main__":
    try:
        main()
    except guest.GuestError as error:
        sys.exit(f"bench: {error}")
