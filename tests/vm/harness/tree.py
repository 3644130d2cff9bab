# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build Debian suites with the project installed, and initrds that dracut makes in them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .cache import CHECKOUT, SCRIPTS, GuestError, cached, digest_of, must_run, run_script, scratch

SUITES = ("trixie", "forky")
BUILDER = "forky"  # its ostree knows composefs
PACKAGES: Sequence[str] = (  # noqa: SIM905
    "systemd systemd-sysv libseccomp2 udev dbus dracut python3 python3-cryptography python3-pyudev python3-pydbus keyutils "
    "gir1.2-ostree-1.0 fsverity e2fsprogs btrfs-progs systemd-cryptsetup cryptsetup-bin kmod ostree "
    "ostree-boot zstd cpio linux-image-cloud-amd64"
).split()
SUITE_PACKAGES: Mapping[str, tuple[str, ...]] = {"trixie": (), "forky": ("composefs", "openssl")}
UNWANTED_DOCS = ("doc", "man", "info", "locale")

# Only what a guest's disk needs: a kernel module that bootseal's dracut module forgets is then missing.
GUEST_DRIVERS = "virtio_blk virtio_pci ext4 btrfs"
OMITTED_MODULES = (
    "systemd-networkd network network-legacy network-manager i18n rescue resume nvdimm qemu qemu-net plymouth lunmask "
    "systemd-veritysetup systemd-integritysetup systemd-repart systemd-pcrphase systemd-pcrextend systemd-cryptsetup "
    "systemd-sysext systemd-hostnamed systemd-resolved systemd-timesyncd systemd-timedated systemd-coredump "
    "systemd-bsod hwdb terminfo memstrack squash crypt lvm mdraid dm dmraid multipath kernel-network-modules "
    "kernel-modules-extra virtiofs btrfs-compat bluetooth nfs pcsc tpm2-tss drm biosdevname"
)

# ELF header, one program header, and: status = number in argv[1]; sync(); ioperm(0xf4, 1, 1); outb(status >> 1, 0xf4).
# QEMU's isa-debug-exit then ends with (byte << 1) | 1. Debian's cloud kernels have no /dev/port.
GUEST_EXIT_CODE = bytes.fromhex(
    "488b742410"  # mov 16(%rsp), %rsi
    "31db"  # xor %ebx, %ebx
    "0fb60e83e930780a"  # next: movzbl (%rsi), %ecx; sub $'0', %ecx; js done
    "6bdb0a01cb48ffc6ebee"  # imul $10, %ebx, %ebx; add %ecx, %ebx; inc %rsi; jmp next
    "d1eb"  # done: shr %ebx
    "b8a20000000f05"  # sync()
    "b8ad000000bff4000000be01000000ba010000000f05"  # ioperm(0xf4, 1, 1)
    "baf400000089d8ee"  # mov $0xf4, %edx; mov %ebx, %eax; out %al, %dx
    "b83c000000bf010000000f05"  # exit(1): no such device
)


def guest_exit() -> bytes:
    """Make a static program of 200 bytes: end QEMU with the given odd status, after a sync."""
    base, headers = 0x400000, 64 + 56
    size = headers + len(GUEST_EXIT_CODE)

    def number(value: int, width: int) -> bytes:
        return value.to_bytes(width, "little")

    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + number(2, 2) + number(62, 2) + number(1, 4)
    elf += number(base + headers, 8) + number(64, 8) + number(0, 8) + number(0, 4)
    elf += number(64, 2) + number(56, 2) + number(1, 2) + bytes(6)
    program = number(1, 4) + number(5, 4) + number(0, 8) + number(base, 8) * 2 + number(size, 8) * 2 + number(4096, 8)
    return elf + program + GUEST_EXIT_CODE


def mirror() -> str:
    """Find the Debian mirror that this machine's apt uses."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Label: Debian"]
    sites = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    if not sites:
        raise GuestError("apt knows no Debian mirror: run apt-get update")
    return sites[0]


def base_tree(suite: str) -> Path:
    """Build a small Debian of this suite, without the project."""
    if suite not in SUITES:
        raise GuestError(f"unknown suite: {suite} (known: {', '.join(SUITES)})")
    return _debian(suite, [*PACKAGES, *SUITE_PACKAGES[suite]], "base")


def signer_tree() -> Path:
    """Build a Debian 12 that has only what signing needs: no systemd, dracut, ostree or GLib."""
    return _debian("bookworm", ["python3", "python3-cryptography"], "signer")


def _debian(suite: str, packages: Sequence[str], kind: str) -> Path:
    def build(path: Path) -> None:
        archive = path / "base.tar"
        command = ["mmdebstrap", "--variant=essential", f"--include={','.join(packages)}"]
        command += ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=APT::Install-Recommends "false"']
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in UNWANTED_DOCS]
        # INITRD=No: otherwise the kernel's package builds an initrd that no guest uses.
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "INITRD": "No", "LC_ALL": "C.UTF-8"}
        command += [suite, str(archive), mirror()]
        result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, errors="replace")
        if result.returncode:
            raise GuestError(f"mmdebstrap {suite} failed:\n{result.stderr[-4000:]}")
        must_run("base.sh", archive, path / "tree")
        archive.unlink()

    key = digest_of(*packages, SCRIPTS / "base.sh")
    return cached(f"{kind}-{suite}", key, f"{kind} tree of {suite}", build) / "tree"


def packages() -> Path:
    """Build the project's Debian packages from this checkout."""
    return _packages("deb", "Debian packages of the project")


def rpm_packages() -> Path:
    """Build the project's RPM packages from this checkout, without the unit tests."""
    return _packages("rpm", "RPM packages of the project")


def _packages(kind: str, title: str) -> Path:
    sources = [CHECKOUT / name for name in ("LICENSE", "Makefile", "dracut", "packaging", "service", "units")]

    def build(path: Path) -> None:
        command = ["sh", str(CHECKOUT / f"packaging/{kind}.sh"), str(path)]
        result = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            raise GuestError(f"{kind}.sh failed:\n{result.stdout[-4000:]}")

    return cached(kind, digest_of(*sources), title, build)


def test_aids(to: Path) -> Path:
    """Copy what a tree needs to run a test's script, and return the copy."""
    shutil.copytree(SCRIPTS / "tree", to, symlinks=True)
    (to / "usr/lib/bootseal-test/guest-exit").write_bytes(guest_exit())
    for program in (to / "usr/lib/bootseal-test").iterdir():
        program.chmod(0o755)
    return to


def guest_dracut(modules: str, *, hostonly: bool = False, compress: str = "cat") -> str:
    """Configure dracut for an initrd that only has what a guest needs."""
    wanted, unwanted = _module_choice(modules)
    return (
        f'hostonly="{"yes" if hostonly else "no"}"\ncompress="{compress}"\ndrivers="{GUEST_DRIVERS}"\n'
        f'filesystems="ext4 btrfs"\nadd_dracutmodules+=" {wanted} "\n'
        f'omit_dracutmodules+=" {unwanted} {OMITTED_MODULES} "\n'
    )


@cache
def os_tree(suite: str) -> Path:
    """Build the base tree with project and test aids, once per process so that a run sees one state."""
    base, debs = base_tree(suite), sorted(packages().glob("*.deb"))
    with scratch() as work:
        aids = test_aids(work / "aids")

        def build(path: Path) -> None:
            must_run("os.sh", base, aids, path / "tree", *debs)

        key = digest_of(base.parent.name, SCRIPTS / "os.sh", SCRIPTS / "lib.sh", aids, *debs)
        return cached(f"os-{suite}", key, f"OS tree of {suite}", build) / "tree"


def kernel(suite: str) -> Path:
    """Find the suite's kernel, as QEMU takes it."""
    return next((base_tree(suite) / "boot").glob("vmlinuz-*")).resolve(strict=True)


@dataclass(frozen=True)
class Initrd:
    """What dracut made: `path` is an initrd only where `status` is 0."""

    path: Path
    status: int
    output: str

    def built(self) -> Path:
        """Return the initrd, which dracut must have made."""
        if self.status:
            raise GuestError(f"dracut failed with status {self.status}:\n{self.output[-4000:]}")
        return self.path


def initrd(
    suite: str,
    modules: str = "bootseal",
    *,
    keys: Sequence[Path] = (),
    conf: str | None = None,
    prepare_root: str | None = "[composefs]\nenabled=verity\n",
    hostonly: bool = False,
    compress: str = "cat",
    dracut_conf: str = "",
    extra_files: Mapping[str, bytes] = {},
) -> Initrd:
    """Build an initrd with `bootseal`, `ostree` or `plain` by dracut in a throw-away view of the OS tree.

    `keys` go to /etc/bootseal/keys.d, `conf` is bootseal.conf, `prepare_root` ostree's prepare-root.conf, `dracut_conf`
    is appended to dracut's configuration, `extra_files` are put into the tree before (paths without a leading slash). With
    "zstd" as its `compress`, dracut takes five times as long, and each guest longer, too.
    """
    files = {f"etc/bootseal/keys.d/{key.name}": key.read_bytes() for key in keys}
    if conf is not None:
        files["etc/bootseal/bootseal.conf"] = conf.encode()
    if prepare_root is not None:
        files["etc/ostree/prepare-root.conf"] = prepare_root.encode()
    files["etc/dracut.conf.d/60-guest.conf"] = (
        guest_dracut(modules, hostonly=hostonly, compress=compress) + dracut_conf
    ).encode()
    files.update(_newer_prepare_root(suite) if modules == "ostree" else {})
    return _dracut(os_tree(suite), f"initrd-{suite}", {**files, **extra_files}, f"initrd of {suite} with {modules}")


def _module_choice(modules: str) -> tuple[str, str]:
    choices = {"bootseal": ("bootseal", "ostree"), "ostree": ("ostree", "bootseal"), "plain": ("", "ostree bootseal")}
    if modules not in choices:
        raise GuestError(f"unknown choice of modules: {modules}")
    return choices[modules]


def _newer_prepare_root(suite: str) -> dict[str, bytes]:
    """Take the builder's ostree-prepare-root and its libraries, if the suite's lacks composefs."""
    if suite == BUILDER:
        return {}
    tree, home = base_tree(BUILDER), "usr/lib/ostree-builder"
    with scratch() as work:
        must_run("needed.sh", tree, "/usr/lib/ostree/ostree-prepare-root", work / "needed")
        files = {f"{home}/{file.name}": file.read_bytes() for file in (work / "needed").iterdir()}
    run = f'#!/bin/sh\nexec /{home}/ld-linux-x86-64.so.2 --library-path /{home} /{home}/ostree-prepare-root "$@"\n'
    install = " ".join(f"/{name}" for name in sorted(files))
    files["usr/lib/ostree/ostree-prepare-root"] = run.encode()
    files["etc/dracut.conf.d/61-prepare-root.conf"] = f'install_items+=" {install} "\n'.encode()
    return files


def _dracut(tree: Path, kind: str, files: Mapping[str, bytes], title: str, *arguments: str) -> Initrd:
    def build(path: Path) -> None:
        with scratch() as work:
            for name, content in files.items():
                file = work / "files" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                file.chmod(0o755 if content[:2] == b"#!" or content[:4] == b"\x7fELF" else 0o644)
            result = run_script("dracut.sh", tree, work / "files", path / "initrd", work, *arguments)
        (path / "output").write_text(result.stdout)
        (path / "status").write_text(str(result.returncode))

    flat = [part for name, content in sorted(files.items()) for part in (name, content)]
    key = digest_of(tree.parent.name, SCRIPTS / "dracut.sh", SCRIPTS / "lib.sh", *flat, *arguments)
    entry = cached(kind, key, title, build)
    return Initrd(entry / "initrd", int((entry / "status").read_text()), (entry / "output").read_text())


def seal_initrd() -> Initrd:
    """Build a small initrd without systemd; it enables fs-verity on fresh disks."""
    programs = "/usr/bin/ostree /usr/bin/fsverity /usr/bin/chattr /usr/bin/sleep /usr/bin/sync /usr/bin/cp /usr/bin/dd"
    arguments = ["--no-hostonly", "--no-compress", "--modules", "base", "--install", programs]
    arguments += ["--add-drivers", "virtio_blk virtio_pci btrfs ext4 loop"]
    made = _dracut(base_tree(BUILDER), "initrd-seal", {"etc/ostree-none": b""}, "initrd for sealing", *arguments)
    made.built()
    return made
