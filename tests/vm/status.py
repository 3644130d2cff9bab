# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask a guest what people are told of a boot, and compare it with the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from vm.harness import guest, qemu, signed
from vm.harness.ask import TOLD, ask

TRANSCRIPTS = Path(__file__).resolve().parents[2] / "docs/status.md"
UNIT_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "StatusText", "ExecMainStatus")

ASKED = {
    "systemctl": "told systemctl status --no-pager --full bootseal",
    "unit": f"systemctl show -p {','.join(UNIT_PROPERTIES)} bootseal",
    "record": "cat /run/bootseal/boot.json",
    "text": "told bootseal status",
    "short": "told bootseal status --json=short",
}
MANUALS = {
    "manuals": "systemctl show -P Documentation bootseal | tr ' ' '\\n'; find /usr/share/man -name 'bootseal*'",
    "catalog": "journalctl --update-catalog && journalctl -u bootseal -b -x --no-pager",
    "usr": "stat -c %Y /usr",
    "pretty": "told bootseal status --json=pretty",
}
# An unprivileged user, who cannot even look below the physical root.
USER = {"user": "told runuser -u nobody -- bootseal status"}

_MOUNTED_OVER = """\
mkdir /run/guest-bind /run/guest-upper /run/guest-work
mount --bind /run/guest-bind /usr/share/bootseal-test
mount -t overlay -o lowerdir=/etc,upperdir=/run/guest-upper,workdir=/run/guest-work overlay /etc
told bootseal status
umount /etc /usr/share/bootseal-test
"""
_SYSEXT = """\
release=/run/extensions/guest/usr/lib/extension-release.d
mkdir -p $release
echo ID=_any >$release/extension-release.guest
systemd-sysext merge >&2
told bootseal status
"""
_ON_TOP = """\
mount --bind /run/guest-bind /usr/share/bootseal-test
told bootseal status
umount /usr/share/bootseal-test
systemd-sysext unmerge >&2
"""
_NO_ANSWER = """\
systemctl stop dbus.socket dbus.service
mv /run/udev/data /run/udev/away
told bootseal status
mv /run/udev/away /run/udev/data
systemctl start dbus.socket dbus.service
kill -STOP $(systemctl show -P MainPID dbus.service)
told bootseal status
kill -CONT $(systemctl show -P MainPID dbus.service)
"""
_NO_RECORD = "mv /run/bootseal /run/away; told bootseal status; mv /run/away /run/bootseal"
DISTURBED = {
    "mounted_over": _MOUNTED_OVER,
    "sysext": _SYSEXT,
    "on_top": _ON_TOP,
    "unlocked": "ostree admin unlock >&2; told bootseal status; umount -l /usr",
    "no_answer": _NO_ANSWER,
    "no_record": _NO_RECORD,
    "restored": "told bootseal status",
}
# The only file that the firmware starts. The kernel's lockdown shows that it saw Secure Boot on.
UNIFIED = "/run/guest-esp/EFI/BOOT/BOOTX64.EFI"
_UNIFIED = f"""\
mkdir /run/guest-esp
mount -o ro /dev/disk/by-id/virtio-guest-esp /run/guest-esp
told bootseal verify --initrd={UNIFIED} booted
"""
SECURE_BOOT = {
    "lockdown": "cat /sys/kernel/security/lockdown",
    "credentials": "ls /run/credentials/@encrypted",
    "unified": _UNIFIED,
}


def script(*parts: dict[str, str]) -> str:
    """Make a script in sections, with `told`."""
    return TOLD + ask(**{name: command for part in parts for name, command in part.items()})


def boot(suite: str, method: str, text: str, title: str, *, disk: Path | None = None, firmware: bool = False) -> guest.Result:
    """Boot the suite's disk, or what an earlier boot has left of it."""
    return guest.boot(
        signed.image(suite),
        signed.initrd(suite),
        append="fsck.mode=skip",
        extra_initrd_files=signed.settings(f"[Enroll]\nMethod={method}\n"),
        script=text,
        timeout=qemu.LONG,
        disk=disk,
        snapshot=disk is None,
        firmware=firmware,
        title=title,
    )


def transcript(command: str) -> list[str]:
    """Return what docs/status.md shows of a command, without the lines that stand for omitted ones."""
    (block,) = re.findall(rf"^```console\n# {re.escape(command)}\n(.*?)^```", TRANSCRIPTS.read_text(), re.MULTILINE | re.DOTALL)
    return [line for line in block.splitlines() if line != "..."]


def shape(line: str) -> str:
    """Replace what differs from one machine and boot to the next."""
    days = "|".join("Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())  # noqa: SIM905
    line = re.sub(r"; .* ago$", "; ago", line.rstrip())
    return re.sub(rf"\b({days})\b|\b[0-9a-f]{{8,}}\b|\d+", "_", line)
