# SPDX-License-Identifier: LGPL-2.1-or-later
"""The dracut module: the contents of a good initrd, and the builds that must fail, each with one clear line."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from bootseal.host.initrd import bypasses as host_bypasses
from bootseal.host.initrd import reader
from bootseal.host.inside import File
from vm.harness import guest, signed, tree
from vm.harness.cpio import contents
from vm.harness.jobs import Job

pytestmark = pytest.mark.vm

VECTORS = Path(__file__).parents[1] / "vectors"
# dracut.conf(5) is shell, sourced in the throw-away tree before dracut looks at anything.
KERNEL = "$(ls /usr/lib/modules)"
BYPASSING = ("usrmount", "resume", "fstab-sys", "nfs", "overlay-root", "fips-crypto-policies")
MODULES = "usr/lib/dracut/modules.d"


def _module(name: str, install: str) -> dict[str, bytes]:
    """Make a dracut module of that name and number, where the suite's packages lack it."""
    return {f"{MODULES}/{name}/module-setup.sh": f"#!/bin/bash\ncheck() {{ return 255; }}\n{install}\n".encode()}


def _hook(name: str, hook: str, file: str) -> dict[str, bytes]:
    """Make one that installs a hook, under the name that the real module gives it."""
    install = f'install() {{ inst_hook {hook.replace("/", " ")} "$moddir/{file}"; }}'
    return {**_module(name, install), f"{MODULES}/{name}/{file}": b"#!/bin/sh\n:\n"}


# The guests' trees lack nfs, and forky lacks overlay-root; both have fips-crypto-policies.
FAKES = {**_hook("95nfs", "cleanup/99", "nfsroot-cleanup.sh"), **_hook("90overlay-root", "pre-pivot/10", "overlay-mount.sh")}
COMPOSEFS = _module("37composefs", 'install() { inst "$moddir/unit" "$systemdsystemunitdir/composefs-setup-root.service"; }')
COMPOSEFS |= {f"{MODULES}/37composefs/unit": b"[Unit]\n"}
# One whose name tells nothing.
SETUP = _module("30early", 'install() { inst "$moddir/unit" "$systemdsystemunitdir/bootc-root-setup.service"; }')
SETUP |= {f"{MODULES}/30early/unit": b"[Unit]\n"}
TOML = "usr/lib/composefs/setup-root-conf.toml"
# dracut adds fstab-sys as soon as its configuration has lines of fstab(5).
FSTAB = 'fstab_lines+=("tmpfs /mnt tmpfs")\n'
WITHOUT = tree.OMITTED_MODULES.split()


def _omitting(*but: str) -> str:
    """Configure dracut to omit the modules that the guests' own configuration omits, except some, and add those."""
    kept = " ".join(name for name in WITHOUT if name not in but)
    ostree = "" if "ostree" in but else "ostree"
    added = " ".join(name for name in but if name != "fstab-sys")
    lines = FSTAB if "fstab-sys" in but else ""
    return f'omit_dracutmodules=" {ostree} {kept} "\nadd_dracutmodules+=" {added} "\n{lines}'


def _without_option(option: str) -> str:
    """Remove an option from the kernel's configuration, which lies in one of two places, or in both."""
    places = f"/boot/config-{KERNEL} /usr/lib/modules/{KERNEL}/config"
    return f"for file in {places}; do test ! -e $file || sed -i '/^CONFIG_{option}=/d' $file; done\n"


def _build(
    suite: str,
    *,
    keys: tuple[Path, ...] | None = None,
    files: tuple[tuple[str, bytes], ...] | dict[str, bytes] = (),
    conf: str | None = None,
    dracut_conf: str = "",
    hostonly: bool = False,
    compress: str = "cat",
) -> guest.Initrd:
    chosen = [signed.named(signed.key().certificate)] if keys is None else keys
    return guest.initrd(
        suite, keys=chosen, extra_files=dict(files), conf=conf, dracut_conf=dracut_conf, hostonly=hostonly, compress=compress
    )


# --- builds that must fail


JUNK = ("etc/bootseal/keys.d/junk.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
SECRET = ("etc/bootseal/keys.d/secret.pem", (VECTORS / "keys/p256.pem").read_bytes())
WEAK = ("etc/bootseal/keys.d/weak.der", (VECTORS / "certs/rsa1024.der").read_bytes())

# Each broken build, and the one line that it must print.
FAILING: dict[str, tuple[Callable[[str], guest.Initrd], str]] = {
    "no-key": (partial(_build, keys=()), r"no usable certificate in the boot keyring .*/etc/bootseal/keys\.d"),
    "bad-certificate": (partial(_build, files=(JUNK,)), r"no usable certificate: /etc/bootseal/keys\.d/junk\.pem: .+"),
    "weak-certificate": (partial(_build, files=(WEAK,)), r"no usable certificate: .*weak\.der: an RSA key of 1024 bits"),
    "private-key": (partial(_build, files=(SECRET,)), r"no usable certificate: .*secret\.pem: a private key"),
    "private-key-of-another-name": (
        partial(_build, files=(("usr/lib/bootseal/keys.d/release.key", SECRET[1]),)),
        r"/usr/lib/bootseal/keys\.d/release\.key: a private key",
    ),
    "certificate-of-another-name": (
        partial(_build, files=(("etc/bootseal/keys.d/vendor.cert", (VECTORS / "certs/p256.pem").read_bytes()),)),
        r"/etc/bootseal/keys\.d/vendor\.cert: a certificate, but its name does not end in \.crt, ",
    ),
    "unknown-config-key": (
        partial(_build, conf="[Enroll]\nMethods=none\n"),
        r"unknown key \[Enroll\] Methods=: /etc/bootseal/bootseal\.conf",
    ),
    "bad-prepare-root": (
        partial(_build, files=(("etc/ostree/prepare-root.conf", b"[etc]\ntransient=perhaps\n"),)),
        r"\[etc\] transient=perhaps: .*/etc/ostree/prepare-root\.conf",
    ),
    "ostree-beside-it": (
        partial(_build, dracut_conf=_omitting("ostree")),
        r"dracut module 'ostree' mounts the root without this check: omit_dracutmodules\+=\" ostree \"",
    ),
    "selinux-beside-it": (
        partial(_build, dracut_conf=_omitting("selinux")),
        r"dracut module 'selinux' runs a file of the disk's /etc as root: omit_dracutmodules\+=\" selinux \"",
    ),
    "composefs-beside-it": (
        partial(_build, files=COMPOSEFS, dracut_conf='add_dracutmodules+=" composefs "\n'),
        r"dracut module 'composefs' mounts the root without this check: omit_dracutmodules\+=\" composefs \"",
    ),
    "unit-of-bootc": (
        partial(_build, files=SETUP, dracut_conf='add_dracutmodules+=" early "\n'),
        r"/usr/lib/systemd/system/bootc-root-setup\.service mounts the root without this check: leave it out of the initrd",
    ),
    "bad-setup-root": (
        partial(_build, files=((TOML, b'[etc]\nmount = "loop"\n'),)),
        rf"\[etc\] mount.*: .*/{TOML}",
    ),
    "overlayfs-beside-it": (
        partial(_build, dracut_conf='add_dracutmodules+=" overlayfs "\n'),
        r"dracut module 'overlayfs' changes the verified root before the switch: omit_dracutmodules\+=\" overlayfs \"",
    ),
    "voa-without-certificate": (
        partial(_build, conf="[Keyring]\nVOA=os\n"),
        r"\[Keyring\] VOA=os: no certificate in voa/os/kernel-keyring/fs-verity/x509",
    ),
    "no-kernel-module": (
        partial(_build, dracut_conf=f"rm -f /usr/lib/modules/{KERNEL}/kernel/fs/erofs/erofs.ko*; depmod {KERNEL}\n"),
        r"kernel module erofs of \S+ is not in the initrd",
    ),
    "omitted-kernel-module": (partial(_build, dracut_conf='omit_drivers+=" overlay "\n'), r".*overlay"),
    "no-kernel-option": (
        partial(_build, dracut_conf=_without_option("FS_VERITY")),
        r"kernel \S+ lacks CONFIG_FS_VERITY",
    ),
    "no-option-that-is-required": (
        partial(
            _build,
            conf="[Enroll]\nRequired=yes\n",
            dracut_conf=_without_option("FS_VERITY_BUILTIN_SIGNATURES"),
        ),
        r"kernel \S+ lacks CONFIG_FS_VERITY_BUILTIN_SIGNATURES",
    ),
    "no-cryptography": (
        partial(_build, dracut_conf="rm -rf /usr/lib/python3/dist-packages/cryptography\n"),
        r"Python module 'cryptography' not found: install python3-cryptography",
    ),
}
FAILURES = [
    pytest.param(Job(partial(build, suite)), line, id=f"{name}-{suite}")
    for name, (build, line) in FAILING.items()
    for suite in guest.SUITES
]


@pytest.mark.parametrize(("job", "line"), FAILURES)
def test_the_build_fails_with_one_clear_line(job: Job[guest.Initrd], line: str) -> None:
    made = job.result()
    fatal = [text for text in made.output.splitlines() if re.match(r"dracut(\[F\])?: .*bootseal: ", text)]
    assert made.status != 0, made.output[-2000:]
    assert len(fatal) == 1, made.output[-2000:]
    assert re.search(r"bootseal: " + line, fatal[0])
    assert "Traceback" not in made.output
    assert not made.path.exists()


# --- good initrds


VOA = "voa/os/kernel-keyring/fs-verity/x509"
VOA_FILES = {
    f"usr/share/{VOA}/a-certificate.pem": (VECTORS / "certs/p256.pem").read_bytes(),
    f"etc/{VOA}/b-certificate.pem": (VECTORS / "certs/p384.pem").read_bytes(),
    f"etc/{VOA}/c.pem": (VECTORS / "certs/rsa2048.pem").read_bytes(),
    f"etc/{VOA.replace('os', 'other')}/d-certificate.pem": (VECTORS / "certs/rsa2048.pem").read_bytes(),
}
GOOD: dict[str, Callable[[str], guest.Initrd]] = {
    "plain": _build,
    "hostonly": partial(_build, hostonly=True, compress="zstd"),
    # A distribution's configuration may switch these on; the build leaves them out or refuses them.
    "bypasses-added": partial(_build, files=FAKES, dracut_conf=_omitting(*BYPASSING)),
    "setup-root": partial(_build, files=((TOML, b"[root]\ntransient = true\n"),)),
    "voa": partial(_build, keys=(), files=VOA_FILES, conf="[Keyring]\nVOA=os\n"),
}
JOBS = {f"{name}-{suite}": Job(partial(build, suite)) for name, build in GOOD.items() for suite in guest.SUITES}


def good(*names: str) -> pytest.MarkDecorator:
    """Parametrize a test with some of the good initrds."""
    chosen = [pytest.param(job, id=name) for name, job in JOBS.items() if name.rsplit("-", 1)[0] in names]
    return pytest.mark.parametrize("job", chosen)


every_good = good("plain", "hostonly")


@cache
def _contents(path: Path) -> dict[str, bytes]:
    return contents(path)


def files_of(job: Job[guest.Initrd]) -> dict[str, bytes]:
    made = job.result()
    assert made.status == 0, made.output[-3000:]
    return _contents(made.path)


@every_good
@pytest.mark.parametrize("module", ["fs/erofs/erofs", "fs/overlayfs/overlay", "drivers/block/loop", "fs/efivarfs/efivarfs"])
def test_the_kernel_modules_are_there(job: Job[guest.Initrd], module: str) -> None:
    pattern = re.compile(rf"(usr/)?lib/modules/[^/]+/kernel/{module}\.ko(\.xz|\.zst)?")
    assert [name for name in files_of(job) if pattern.fullmatch(name)]


@every_good
def test_our_code_is_there_as_bytecode_only(job: Job[guest.Initrd]) -> None:
    files = files_of(job)
    assert {"usr/lib/bootseal/__main__.pyc", "usr/lib/bootseal/bootseal/boot.pyc"} <= set(files)
    assert [name for name in files if name.endswith(".py")] == []
    assert [name for name in files if "/host/" in name or "__pycache__" in name] == []


@every_good
def test_the_certificates_and_the_configuration_are_there(job: Job[guest.Initrd]) -> None:
    files = files_of(job)
    assert files[signed.CERTIFICATE] == signed.key().certificate.read_bytes()
    assert files[signed.PREPARE_ROOT] == b"[composefs]\nenabled=verity\n"
    assert [name for name in files if "PRIVATE KEY" in files[name][:64].decode(errors="replace")] == []


@every_good
def test_the_units_are_required_and_wanted(job: Job[guest.Initrd]) -> None:
    files, units = files_of(job), "usr/lib/systemd/system"
    for link in ("initrd-root-fs.target.requires/bootseal.service", "initrd.target.wants/bootseal-guard.service"):
        assert f"{units}/{link}" in files
        assert f"{units}/{link.split('/')[1]}" in files
    assert b"SYSTEMD_SYSROOT_FSTAB=/dev/null" in files["usr/lib/systemd/system.conf.d/50-bootseal.conf"]
    assert b"keyring-setup .dm-verity .bpf\n" in files[f"{units}/systemd-keyring-setup.service.d/60-bootseal-initrd.conf"]


@good("voa")
def test_the_certificates_of_voa_are_there(job: Job[guest.Initrd]) -> None:
    assert {name for name in files_of(job) if name.endswith(".pem")} == set(list(VOA_FILES)[:2])


@good("setup-root")
def test_the_configuration_of_bootc_is_there_with_its_reader(job: Job[guest.Initrd]) -> None:
    files = files_of(job)
    assert files[TOML] == b"[root]\ntransient = true\n"
    assert [name for name in files if name.endswith("/tomllib/_parser.pyc")]


@good("plain")
def test_no_reader_of_toml_without_its_configuration(job: Job[guest.Initrd]) -> None:
    assert [name for name in files_of(job) if "tomllib" in name or name == TOML] == []


@good("plain")
def test_no_certificates_of_voa_by_default(job: Job[guest.Initrd]) -> None:
    assert [name for name in files_of(job) if "/voa/" in name] == []


BYPASSES = re.compile(
    r".*/systemd-(debug|hibernate-resume)-generator|.*/systemd-(sysext|confext)[^/]*\.service|.*/(ostree-prepare-root)[^/]*"
)


def bypasses(files: dict[str, bytes]) -> set[str]:
    """Find the files of an initrd that mount or run something other than the verified root."""
    modules = set(files["usr/lib/dracut/modules.txt"].decode().split()) & ({*BYPASSING, "ostree"} - {"fips-crypto-policies"})
    modules |= {"fips-crypto-policies" for name in files if name.endswith("/pre-pivot/01-fips-crypto-policies.sh")}
    return modules | {match[0].rpartition("/")[2] for name in files if (match := BYPASSES.fullmatch(name))}


def known_bypasses(initrd: Path) -> list[str]:
    """Find those that `verify` knows."""
    with reader.opened([File("", "", str(initrd))]) as opened:
        names = tuple(host_bypasses.NAMES)
        return [module for module, _ in host_bypasses.found(reader.parse(reader.ask(opened, (), names), (), names))]


@good("plain", "hostonly", "bypasses-added")
def test_what_undoes_the_check_is_not_there(job: Job[guest.Initrd]) -> None:
    assert bypasses(files_of(job)) == set()
    assert known_bypasses(job.result().path) == []


@good("bypasses-added")
def test_the_build_says_that_a_hook_is_left_out(job: Job[guest.Initrd]) -> None:
    assert "the hook of dracut module 'fips-crypto-policies' is left out" in job.result().output


@good("plain")
def test_the_build_says_how_a_refused_boot_ends(job: Job[guest.Initrd]) -> None:
    assert "a refused boot ends in the emergency target: a root shell" in job.result().output


def test_a_control_initrd_has_what_is_looked_for() -> None:
    """Check that the patterns above match in an initrd without bootseal."""
    files = {**FAKES, **COMPOSEFS}
    added = _omitting(*BYPASSING, "ostree", "overlayfs", "convertfs", "composefs")
    made = guest.initrd("forky", "plain", dracut_conf=added, extra_files=files)
    assert made.status == 0, made.output[-3000:]
    generators = {"systemd-debug-generator", "systemd-hibernate-resume-generator"}
    assert {*BYPASSING, *generators, "ostree", "ostree-prepare-root.service"} <= bypasses(_contents(made.path))
    assert set(known_bypasses(made.path)) >= {
        "ostree",
        "composefs",
        "overlayfs",
        "convertfs",
        "fstab-sys",
        "nfs",
        "overlay-root",
        "fips-crypto-policies",
    }
