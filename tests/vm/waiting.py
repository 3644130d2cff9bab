# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every way of waiting for the physical root as a row, on both suites; `make test` takes one of the two."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from vm import luks
from vm.harness import guest, signed
from vm.harness.ask import ask
from vm.harness.cache import SCRIPTS, cached, digest_of, output_of
from vm.harness.units import end_in_initrd
from vm.scenario import WITNESS, Interrupted, Passed, Refused, Scenario

WAITING = "Waiting for the physical root file system..."
NO_MOUNT = "the physical root could not be mounted"
UNIT = "systemctl show -p ActiveState,SubState,Result,StatusText bootseal.service"
STATUS = "systemctl status --no-pager --full bootseal.service || true"
# Seconds, more than TimeoutStartSec=: until somebody types a passphrase (once more than any default of systemd, which is 90),
# and until the mount of a disk that is there.
LATE, LONG = {"forky": 95, "trixie": 40}, 40

_WAIT = (SCRIPTS / "waiting.sh").read_text()
_WAITS = f"{_WAIT}until_says '{WAITING}'\n"
_HOLD = "sleep infinity\n"  # the root is never mounted
_END = ask(unit=UNIT, record="cat /run/bootseal/boot.json", mounts="cat /proc/self/mountinfo")
_ENDED_VERIFIED = end_in_initrd(_END)
# As systemd-sulogin-shell, when the emergency shell is left. The isolation ends the script, and systemctl complains of that.
_GO_ON = "exec 2>/dev/null\nsystemctl daemon-reload\nsystemctl --no-block default\nsleep 200\n"


# --- the disk comes late


def _answer(seconds: int) -> str:
    """Make a script that gives the passphrase so long after it was asked for."""
    return f"""{_WAIT}
until test -e /run/systemd/ask-password/ask.*; do
    sleep 0.5
done
until_says '{WAITING}'
{ask(asked=STATUS)}
sleep {seconds}
{ask(later=UNIT)}
socket=$(sed -n 's/^Socket=//p' /run/systemd/ask-password/ask.*)
printf %s '{luks.PASSPHRASE.decode()}' | /usr/lib/systemd/systemd-reply-password 1 "$socket"
"""


def _passphrase(suite: str) -> Scenario:
    return Scenario(
        f"passphrase-{suite}",
        Passed(),
        suite=suite,
        disk=luks.encrypt,
        cmdline=luks.CMDLINE,
        built=functools.partial(luks.initrd, suite),
        waiting=_answer(LATE[suite]),
        initrd=_ENDED_VERIFIED,
        idle=True,
        nightly=suite != "forky",
    )


PASSPHRASE = [_passphrase(suite) for suite in guest.SUITES]

# --- the disk does not come

_BY_HAND = (
    _WAIT
    + WITNESS
    + ask(
        began="uptime",
        failed=f"until_says '*after: refused*'\n{UNIT}",
        told="uptime",
        restarted=f"systemctl --no-block restart bootseal.service\nsleep 2\nuntil_says 'Waiting for a mount*'\n{UNIT}",
        by_hand=f"mount /dev/vda /sysroot\nuntil_says 'verified*'\n{UNIT}",
        record="cat /run/bootseal/boot.json",
    )
    + _GO_ON
)
FAILED_MOUNT = [
    Scenario(
        f"failed-mount-{suite}",
        Passed(),
        suite=suite,
        # As rootfstype=btrfs does.
        initrd={"etc/systemd/system/sysroot.mount.d/50-guest.conf": b"[Mount]\nType=btrfs\n"},
        emergency=_BY_HAND,
        script=ask(booted=UNIT, booted_record="cat /run/bootseal/boot.json", root="findmnt --noheadings -o SOURCE /"),
        nightly=suite != "forky",
    )
    for suite in guest.SUITES
]
_NO_DEVICE = Interrupted(NO_MOUNT, unit="sysroot.mount", mounted=False, unwritten=True)
NO_DEVICE = [
    Scenario(
        f"no-device-{suite}",
        _NO_DEVICE,
        suite=suite,
        cmdline="root=/dev/vdx rd.timeout=8 rd.retry=8",
        nightly=suite != "trixie",
    )
    for suite in guest.SUITES
]

# --- the service is disturbed while it waits

_PID = "$(systemctl show -P MainPID bootseal.service)"
ENDED = [
    *(
        Scenario(
            f"killed-{suite}",
            Interrupted("killed", mounted=False, unwritten=True),
            suite=suite,
            waiting=f"{_WAITS}kill -KILL {_PID}\n{_HOLD}",
            nightly=suite != "forky",
        )
        for suite in guest.SUITES
    ),
    *(
        Scenario(
            f"stopped-{suite}",
            Interrupted("out of time", mounted=False, unwritten=True),
            suite=suite,
            waiting=f"{_WAITS}kill -STOP {_PID}\n{_HOLD}",
            idle=True,
            nightly=suite != "trixie",
        )
        for suite in guest.SUITES
    ),
]

_DISTURB = f"""{_WAITS}
{ask(status=STATUS)}
kill -STOP {_PID}
mount -t tmpfs tmpfs /sysroot
umount /sysroot
kill -CONT {_PID}
sleep 1
{ask(came_and_went=UNIT)}
echo 'guest: pause' >/dev/console
until test -e /dev/disk/by-id/virtio-guest-paused; do
    sleep 0.5
done
{ask(paused=UNIT)}
sleep {LONG}
{ask(late=UNIT)}
# The mount that came and went has ended the job.
systemctl --no-block start sysroot.mount
"""
DISTURBED = [
    Scenario(
        f"disturbed-{suite}",
        Passed(unwritten=True),
        suite=suite,
        waiting=_DISTURB,
        pause=True,
        initrd=_ENDED_VERIFIED,
        idle=True,
        nightly=suite != "forky",
    )
    for suite in guest.SUITES
]

_ISOLATE = f"""{_WAITS}
systemctl --no-block isolate emergency.target
until test -e /run/guest-isolated; do
    sleep 0.5
done
"""
ISOLATED = [
    Scenario(
        f"isolated-{suite}",
        Passed(unwritten=True),
        suite=suite,
        waiting=_ISOLATE,
        emergency=ask(isolated=UNIT) + ": >/run/guest-isolated\n" + _GO_ON,
        initrd=_ENDED_VERIFIED,
        nightly=suite != "trixie",
    )
    for suite in guest.SUITES
]

# --- a refusal before the disk is there

_REFUSED = f"""{_WAIT}
until_says 'refused*'
until test -e /run/guest-repaired; do
    sleep 0.5
done
"""
# As the greeting says. The restart mounts the physical root, too.
_REPAIRED = WITNESS + ask(repaired=f": >/{signed.CONF}\n: >/run/guest-repaired\nsystemctl restart bootseal.service\n{UNIT}")
_JUNK = r"no usable certificate in the boot keyring \(/etc/bootseal/keys\.d/guest\.pem: .*\): /etc/bootseal/keys\.d"
_UNKNOWN = r"unknown key \[Policy\] OnRefuse=: /etc/bootseal/bootseal\.conf"
EARLY = [
    Scenario(
        f"{name}-{suite}",
        expect,
        suite=suite,
        initrd=files,
        cmdline=cmdline,
        waiting=_REFUSED,
        emergency=emergency,
        nightly=suite != taken,
    )
    for suite in guest.SUITES
    for name, taken, expect, files, cmdline, emergency in (
        ("no-keys", "forky", Refused("no-keys", _JUNK, mounted=False), {signed.CERTIFICATE: b"junk"}, "", WITNESS),
        (
            "bad-config",
            "trixie",
            Refused("bad-config", _UNKNOWN, mounted=False),
            signed.settings("[Policy]\nOnRefuse=reboot\n"),
            "",
            _REPAIRED,
        ),
        (
            "bad-command-line",
            "forky",
            Refused("bad-command-line", r"unknown; .*: rd\.bootseal\.verify", mounted=False),
            {},
            "rd.bootseal.verify=no",
            WITNESS,
        ),
    )
]

# --- many certificates


def certificates(number: int) -> bytes:
    """Make a PEM file with so many certificates; the first is that of the tests' disks."""

    def build(path: Path) -> None:
        made = [signed.key().certificate.read_bytes()]
        for serial in range(1, number):
            options = ("-key", signed.key().key, "-days", "36500", "-subj", f"/CN=another {serial}", "-set_serial", str(serial))
            made.append(output_of("openssl", "req", "-x509", "-new", *options).encode())
        (path / "all.pem").write_bytes(b"".join(made))

    key = digest_of(str(number), signed.key().certificate)
    return (cached("certificates", key, f"{number} certificates", build) / "all.pem").read_bytes()


def _certified(number: int, more: Mapping[str, guest.Content]) -> dict[str, guest.Content]:
    return {signed.CERTIFICATE: certificates(number), **end_in_initrd(ask(record="cat /run/bootseal/boot.json")), **more}


_AFTER = {"etc/systemd/system/bootseal.service.d/50-after.conf": b"[Unit]\nAfter=sysroot.mount\n"}


def _certificates(number: int, order: str, taken: str, files: Mapping[str, guest.Content], waiting: str) -> list[Scenario]:
    initrd = functools.partial(_certified, number, files)
    return [
        Scenario(
            f"certificates-{number}-{order}-{suite}",
            Passed(unwritten=True),
            suite=suite,
            initrd=initrd,
            waiting=waiting,
            nightly=suite != taken,
        )
        for suite in guest.SUITES
    ]


SEALED_FIRST = _certificates(64, "sealed-first", "forky", {}, _WAITS)
MOUNTED_FIRST = _certificates(10, "mounted-first", "trixie", _AFTER, "")
