# SPDX-License-Identifier: LGPL-2.1-or-later
"""The last look before the switch: hooks that mount or unmount after the check, and boots that must pass."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

import bootseal
from vm.harness import guest, signed, tree
from vm.harness.ask import ask
from vm.harness.cache import output_of, temporary
from vm.harness.jobs import Job
from vm.scenario import Changed, Ended, Outcome, Passed, Scenario, rows

pytestmark = pytest.mark.vm

HOOKS = "var/lib/dracut/hooks/pre-pivot"
FIPS = "usr/lib/dracut/modules.d/*fips-crypto-policies/fips-crypto-policies.sh"
TRANSIENT_ROOT = "[composefs]\nenabled=verity\n[root]\ntransient=true\n"
# The files that make the hook act; in a transient root an earlier hook can put them there.
FIPS_FILES = """\
mkdir -p /sysroot/usr/share/crypto-policies/back-ends/FIPS /sysroot/etc/crypto-policies/back-ends
: >/sysroot/usr/share/crypto-policies/default-fips-config
echo DEFAULT >/sysroot/etc/crypto-policies/config
"""


def hook(*lines: str) -> Mapping[str, guest.Content]:
    """Run commands after all mounts of systemd, right before the units are stopped for the switch."""
    return {f"{HOOKS}/90-guest.sh": ("\n".join(lines) + "\n").encode()}


def fips_hook(suite: str) -> Mapping[str, guest.Content]:
    """Run dracut's own hook, as the suite has it, with the files that it acts on."""
    (found,) = guest.base_tree(suite).glob(FIPS)
    return {
        f"{HOOKS}/00-guest.sh": FIPS_FILES.encode(),
        f"{HOOKS}/01-fips-crypto-policies.sh": found.read_bytes(),
        **signed.settings(prepare_root=TRANSIENT_ROOT),
    }


BIND_OVER_USR = hook("mount --bind /sysroot/sysroot/ostree /sysroot/usr")
CHANGES = [
    Scenario("directory", Changed(r"/sysroot/usr is ext4 from /dev/vda"), initrd=BIND_OVER_USR, cmdline="fips=1"),
    Scenario(
        "file",
        Changed(r"/sysroot/usr/lib/os-release is ext4 from /dev/vda"),
        initrd=hook("mount --bind /sysroot/etc/hostname /sysroot/usr/lib/os-release"),
        cmdline="fips=1",
        suite="trixie",
    ),
    Scenario(
        "unmount",
        # Where /sysroot is free, systemd mounts the physical root there again.
        Changed(r"(/sysroot is ext4 from /dev/vda, )?/sysroot is gone, /sysroot/etc is gone, .*"),
        initrd=hook("umount --recursive --lazy /sysroot"),
        cmdline="fips=1",
    ),
    Scenario(
        "replaced",
        Changed(r"/sysroot/var is ext4 from /dev/vda, /sysroot/var is gone"),
        initrd=hook("umount /sysroot/var", "mount --bind /sysroot/sysroot/ostree/deploy/guest/var /sysroot/var"),
        cmdline="fips=1",
        suite="trixie",
    ),
    Scenario(
        "fips",
        Changed(r"/sysroot/etc/crypto-policies/back-ends is overlay from \S+, /sysroot/etc/crypto-policies/config is .*"),
        initrd=lambda: fips_hook("forky"),
        cmdline="fips=1",
        rw=True,  # the hook writes to /etc
    ),
]


@rows(CHANGES)
def test_a_changed_root_is_not_switched_to(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# --- an end that OnRefusal= names


def _rebooting() -> Path:
    keys = [signed.named(signed.key().certificate)]
    return guest.initrd("forky", keys=keys, conf="[Policy]\nOnRefusal=reboot\n").built()


REBOOT = Scenario(
    "reboot",
    Ended("changed", "reboot: Restarting system"),
    initrd=BIND_OVER_USR,
    fsck=True,
    emergency="",
    built=_rebooting,
)


@rows([REBOOT])
def test_changed_root_ends_as_configured(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# --- boots that pass

PASSED = ask(
    record="cat /run/bootseal/boot.json",
    mounts="cat /proc/self/mountinfo",
)
LUKS_KEY = b"not a secret"
LUKS_UUID = "rd.luks.name={uuid}=root rd.luks.key={uuid}=/etc/guest.key root=/dev/mapper/root"
LUKS_MODULES = ("systemd-cryptsetup", "crypt", "dm")


def _converted(*command: str | Path) -> bool:
    """Convert; False if qemu-img measured no time for its key derivation, as it may on any machine."""
    try:
        output_of(*command)
    except guest.GuestError as error:
        if "accurate CPU usage" in str(error):
            return False
        raise
    return True


def _encrypted(disk: Path) -> tuple[Path, str]:
    """Make a LUKS container with the content of a disk; return it and its UUID."""
    made = temporary() / "luks.raw"
    secret = ("--object", f"secret,id=key,data={LUKS_KEY.decode()}", "-O", "luks", "-o", "key-secret=key,iter-time=10")
    while not _converted("qemu-img", "convert", *secret, "-f", "raw", disk, made):
        pass
    with made.open("rb") as file:
        return made, file.read(208)[168:].rstrip(b"\0").decode()  # UUID in the header of version 1


def _luks() -> Outcome:
    image = signed.image("forky")
    disk, uuid = _encrypted(image.disk)
    kept = " ".join(name for name in tree.OMITTED_MODULES.split() if name not in LUKS_MODULES)
    conf = f'omit_dracutmodules=" ostree {kept} "\nadd_dracutmodules+=" {" ".join(LUKS_MODULES)} "\n'
    made = guest.initrd("forky", keys=[signed.named(signed.key().certificate)], dracut_conf=conf).built()
    files = {"etc/guest.key": (LUKS_KEY, 0o600), **signed.settings(prepare_root=TRANSIENT_ROOT)}
    try:
        result = guest.boot(
            image, made, disk=disk, append=LUKS_UUID.format(uuid=uuid), extra_initrd_files=files, script=PASSED,
            timeout=600, title="last look: LUKS, transient root",
        )  # fmt: skip
        return Outcome(result, image, result.bytes_written())
    finally:
        disk.unlink()


def _without_beneath() -> Mapping[str, guest.Content]:
    """Make the boot path behave as on kernels that mount nothing beneath."""
    source = (Path(bootseal.__file__).parent / "linux/mountapi.py").read_text()
    line = "    flags = _MOVE_MOUNT_F_EMPTY_PATH"
    assert line in source
    changed = source.replace(line, f"    if beneath:\n        raise OSError(22, 'no')\n{line}", 1)
    return {"usr/lib/bootseal/bootseal/linux/mountapi.py": changed.encode()}


NOTHING_BENEATH = Scenario(
    "nothing-beneath", Passed(), initrd=_without_beneath, fsck=True, emergency="", suite="trixie", script=PASSED
)
PASSING = {
    "luks": Job(_luks),
    "nothing-beneath": NOTHING_BENEATH.job,
}


@pytest.mark.parametrize("job", PASSING.values(), ids=list(PASSING))
def test_an_unchanged_root_passes(job: Job[Outcome]) -> None:
    outcome = job.result().must_end()
    assert outcome.record["verdict"] == "verified"
    assert "bootseal: refused" not in outcome.result.console
    assert [m.target for m in outcome.mounts()].count("/") == 1, outcome["mounts"]


# --- requirements of the last look


@pytest.mark.parametrize("suite", guest.SUITES)
def test_findmnt_knows_unique_identities(suite: str) -> None:
    """Otherwise the boots above compared numbers, which an unmount frees."""
    command = ["chroot", str(guest.base_tree(suite)), "findmnt", "--help"]
    assert "--uniq-id" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
