# SPDX-License-Identifier: LGPL-2.1-or-later
"""The last look before the switch: hooks that mount or unmount after the check, and boots that must pass."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

import bootseal
from vm import luks
from vm.harness import guest, signed
from vm.harness.ask import ask
from vm.harness.jobs import Job
from vm.scenario import Changed, Ended, Outcome, Passed, Scenario, rows, runs

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
    Scenario("directory", Changed(r"/sysroot/usr is ext4 from /dev/vda"), initrd=BIND_OVER_USR),
    Scenario(
        "file",
        Changed(r"/sysroot/usr/lib/os-release is ext4 from /dev/vda"),
        initrd=hook("mount --bind /sysroot/etc/hostname /sysroot/usr/lib/os-release"),
        suite="trixie",
    ),
    Scenario(
        "unmount",
        # Where /sysroot is free, systemd mounts the physical root there again.
        Changed(r"(/sysroot is ext4 from /dev/vda, )?/sysroot is gone, /sysroot/etc is gone, .*"),
        initrd=hook("umount --recursive --lazy /sysroot"),
    ),
    Scenario(
        "replaced",
        Changed(r"/sysroot/var is ext4 from /dev/vda, /sysroot/var is gone"),
        initrd=hook("umount /sysroot/var", "mount --bind /sysroot/sysroot/ostree/deploy/guest/var /sysroot/var"),
        suite="trixie",
        nightly=True,
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


REBOOT = Scenario(
    "reboot",
    Ended("changed", "reboot: Restarting system"),
    initrd=BIND_OVER_USR,
    fsck=True,
    emergency="",
    built=functools.partial(signed.initrd, "forky", "[Policy]\nOnRefusal=reboot\n"),
)


@rows([REBOOT])
def test_changed_root_ends_as_configured(scenario: Scenario, job: Job[Outcome]) -> None:
    scenario.expect.check(job.result())


# --- boots that pass

PASSED = ask(
    record="cat /run/bootseal/boot.json",
    mounts="cat /proc/self/mountinfo",
)
LUKS = Scenario(
    "luks",
    Passed(),
    disk=luks.encrypt,
    initrd={"etc/guest.key": (luks.PASSPHRASE, 0o600), **signed.settings(prepare_root=TRANSIENT_ROOT)},
    cmdline=f"{luks.CMDLINE} {luks.KEY_FILE}",
    built=functools.partial(luks.initrd, "forky"),
    fsck=True,
    script=PASSED,
    nightly=True,  # waiting.py has LUKS with a passphrase
)


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


@runs(LUKS, NOTHING_BENEATH)
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
