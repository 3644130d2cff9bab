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
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this package is
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "service"))
from bootseal.host.signingkeys import make_ephemeral
from vm.harness import guest, qemu, tree
from vm.harness.cache import CHECKOUT, SCRIPTS, cached, digest_of, must_run, say, scratch
from vm.harness.parse import sections
from vm.harness.signed import IMAGE, Key
from vm.show import SIGNER, end_on_sigterm, make_key, sign

SUITE = "forky"
ROUNDS = 3
CERTIFICATES = 10, 64  # in the boot keyring, beside the one of the signer
# An outlier waited for its disk: on a busy host that takes the longer. It counts in every figure that is shown.
OUTLIER = 1.25  # of the least window
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
    certificates: int = 1


@dataclass(frozen=True)
class Figures:
    """The costs of one boot; times in milliseconds."""

    wall: float  # of ours, most of it is the wait for the disk
    cpu: float
    window: float  # from sysroot.mount to initrd-root-fs.target
    target: float  # from the kernel's start to initrd-root-fs.target
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
    key = make_key(work, SIGNER)
    large = large_image()
    image = guest.image(SUITE, files={LARGE: large.read_bytes()}, commands=f"fsverity enable {LARGE}\n")
    home, cfs = image.deployment.path, image.deployment.cfs
    names = {"normal": cfs, "large": large}
    disks = {}
    for name, file in names.items():
        beside = {f"{home}/{path}": content for path, content in sign(file, work, key).items()}
        disks[name] = guest.replace_files(image.disk, beside, work / f"{name}.raw")
    swap = f"unlink /{home}/{IMAGE}\nln /{home}/{LARGE} /{home}/{IMAGE}\nunlink /{home}/{LARGE}\n"
    guest.debugfs(disks["large"], swap, write=True)
    initrds = {name: initrd(name, work) for name in ("plain", "ostree", "bootseal")}
    sizes = (cfs.stat().st_size, large.stat().st_size)
    return Bench(image, disks["normal"], disks["large"], initrds, sizes)


def initrd(modules: str, work: Path) -> Path:
    """Build an initrd by dracut; all differ in one module only."""
    keys = [work / f"{SIGNER}.pem"] if modules == "bootseal" else []
    return guest.initrd(SUITE, modules, keys=keys, compress="zstd").built()


def measure(bench: Bench, case: Case) -> Figures:
    """Boot a case to the end of the initrd's work."""
    files = {**INITRD_FILES, "etc/bootseal/bootseal.conf": f"[Enroll]\nMethod={case.method}\n".encode()}
    for number in range(1, case.certificates):
        files[f"etc/bootseal/keys.d/other-{number}.crt"] = another_certificate()
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
        target=at("initrd-root-fs.target", "ActiveEnter"),
        last_look=took("bench-look.service") - took("bench-true.service"),
        memory=int(units[service]["MemoryPeak"]),
        written=result.bytes_written(),
        stages=json.loads(record)["milliseconds"] if record.strip() else {},
        overlay=result.overlay,
    )


def measure_all(bench: Bench) -> dict[str, list[Figures]]:
    """Boot each case three times, two boots at once; the later boot of `fsverity` needs the disk that a first one left."""
    normal, large = bench.normal, bench.large
    cases = [
        Case("ostree-prepare-root", normal, "ostree"),
        Case("bootseal, keyring", normal),
        Case("bootseal, fsverity, first boot", normal, method="fsverity"),
        Case("bootseal, none", normal, method="none"),
        *(Case(f"bootseal, keyring, {count} certificates", normal, certificates=count) for count in CERTIFICATES),
        Case("ostree-prepare-root, large image", large, "ostree"),
        Case("bootseal, keyring, large image", large),
        Case("bootseal, fsverity, first boot, large image", large, method="fsverity"),
    ]
    found = measure_cases(bench, cases)
    first = found["bootseal, fsverity, first boot"][0].overlay
    return found | measure_cases(bench, [Case("bootseal, fsverity, later boot", first, method="fsverity")])


def measure_cases(bench: Bench, cases: Sequence[Case]) -> dict[str, list[Figures]]:
    with ThreadPoolExecutor(qemu.SLOTS) as pool:
        rounds = [case for _ in range(ROUNDS) for case in cases]
        measured = list(pool.map(lambda case: measure(bench, case), rounds))  # cancels the others when one of them fails
    return {case.title: measured[number :: len(cases)] for number, case in enumerate(cases)}


def another_certificate() -> bytes:
    """Make a certificate of a P-256 key that signed nothing."""
    return make_ephemeral()[1]


# --- the program


SIZES_MIB = (64, 1024)
EROFS, EROFS_AT = bytes.fromhex("e2e1f5e0"), 1024  # in every image, and `sign` warns if it is not there
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
            out.seek(EROFS_AT)
            out.write(EROFS)
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
    beside = {IMAGE: cfs.read_bytes(), **sign(cfs, work, Key(work / f"{SIGNER}.key", work / f"{SIGNER}.pem"))}
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
        if not verdicts <= {"verified", "incomplete"}:
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


def median(boots: Sequence[Figures], read: Callable[[Figures], float]) -> float:
    return statistics.median(map(read, boots))


def times_table(found: Mapping[str, Sequence[Figures]]) -> str:
    """Show the medians of each case beside the peer's on the same image, and the spread of the window."""
    head = ("", "mount to target ms", "ratio", "least", "most", "outliers")
    rows: list[tuple[str, ...]] = [(*head, "CPU ms", "target at ms", "last look ms", "peak MiB", "bytes written")]
    for title, boots in found.items():
        peer = found["ostree-prepare-root, large image" if "large" in title else "ostree-prepare-root"]
        windows = [this.window for this in boots]
        window, least = statistics.median(windows), min(windows)
        ratio = window / median(peer, lambda this: this.window)
        late = sum(one > least * OUTLIER for one in windows)
        spread = (f"{window:.0f}", f"{ratio:.2f}", f"{least:.0f}", f"{max(windows):.0f}", f"{late} of {len(boots)}")
        times = (f"{median(boots, read):.0f}" for read in (lambda b: b.cpu, lambda b: b.target, lambda b: b.last_look))
        memory = f"{median(boots, lambda b: b.memory) / 2**20:.1f}"
        rows.append((title, *spread, *times, memory, f"{max(this.written for this in boots):,}"))
    return table(rows)


def stages_table(found: Mapping[str, Sequence[Figures]]) -> str:
    """Show the medians of our own stages; the rest is the interpreter's start, its imports and its end."""
    ours = {title: boots for title, boots in found.items() if boots[0].stages}
    names = list(next(iter(ours.values()))[0].stages)
    rows = [("stage, ms", *names, "rest")]
    for title, boots in ours.items():
        values = [statistics.median(this.stages[name] for this in boots) for name in names]
        rest = statistics.median(this.wall - sum(this.stages.values()) for this in boots)
        rows.append((title, *(f"{value:.0f}" for value in values), f"{rest:.0f}"))
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


def report(bench: Bench, found: Mapping[str, Sequence[Figures]], program: Sequence[str]) -> str:
    """Put everything together."""
    kernel = bench.image.kernel.name.removeprefix("vmlinuz-")
    return "\n\n".join(
        (
            f"{SUITE}, Linux {kernel}, emulated; medians of {ROUNDS} boots; ratios are to ostree-prepare-root's.\n"
            f"An outlier has more than {OUTLIER:.2f} times the least window of its case.\n"
            "1 ms is a million instructions, or real time when waiting: for the disk, the busier the host, the longer.",
            times_table(found),
            stages_table(found),
            sizes_table(bench.initrds),
            f"large image: {bench.sizes[1]:,} bytes instead of {bench.sizes[0]:,} ({bench.sizes[1] / bench.sizes[0]:.1f})",
            *program,
        )
    )


def main() -> None:
    end_on_sigterm()
    with scratch() as work:
        bench = prepare(work)
        program = [digest_table(work), verify_here_line(bench, work), verify_line(bench, work)]
        print(report(bench, measure_all(bench), program))


if __name__ == "__main__":
    try:
        main()
    except guest.GuestError as error:
        sys.exit(f"bench: {error}")
