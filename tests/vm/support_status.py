# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people are told of a boot: scripts for the guests that ask for it, and what came back, parsed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import guest
import guest_qemu
import support

TRANSCRIPTS = Path(__file__).resolve().parents[2] / "docs/status.md"
UNIT_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "StatusText", "ExecMainStatus")

# told COMMAND...: its exit status, and each line that it printed, with where it went.
_PREAMBLE = """\
told() {
    status=0
    "$@" </dev/null >/run/guest-out 2>/run/guest-err || status=$?
    echo "status: $status"
    sed 's/^/out: /' /run/guest-out
    sed 's/^/err: /' /run/guest-err
}
"""

ASKED = {
    "systemctl": "told systemctl status --no-pager --full bootseal",
    "show": f"systemctl show -p {','.join(UNIT_PROPERTIES)} bootseal",
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
# An ordinary user; one that may not even look below the physical root.
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
# The one file that the firmware was let to start; the kernel's lockdown shows that it took Secure Boot for on.
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
    """Sections, with `told`."""
    return _PREAMBLE + support.script(**{name: command for part in parts for name, command in part.items()})


def boot(suite: str, method: str, text: str, title: str, *, disk: Path | None = None, firmware: bool = False) -> guest.Result:
    """A good boot, from the suite's disk or from what an earlier boot has left of it."""
    return guest.boot(
        support.image(suite),
        support.initrd(suite),
        append="fsck.mode=skip",
        extra_initrd_files=support.settings(f"[Enroll]\nMethod={method}\n"),
        script=text,
        timeout=guest_qemu.LONG,
        disk=disk,
        snapshot=disk is None,
        firmware=firmware,
        title=title,
    )


@dataclass(frozen=True)
class Told:
    """What a program said."""

    status: int
    out: str
    err: str

    @classmethod
    def all(cls, section: str) -> list[Told]:
        """Each `told` of a section."""
        return [cls._one(text) for text in re.split(r"^status: ", section, flags=re.MULTILINE)[1:]]

    @classmethod
    def _one(cls, text: str) -> Told:
        status, *lines = text.splitlines()
        out, err = ("\n".join(line[5:] for line in lines if line.startswith(kind)) for kind in ("out: ", "err: "))
        return cls(int(status), out, err)

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def marks(self) -> dict[str, str]:
        """The chain: link and mark."""
        marks = "kernel|bootseal|firmware|not-verified|unknown|differs"
        chain = self.out.partition("\nNot covered by")[0]
        links = re.findall(rf"^  ({marks}) +(?:\u2514 )?([A-Za-z ]+): ", chain, flags=re.MULTILINE)
        return {name: mark for mark, name in links}


@dataclass(frozen=True)
class Seen:
    """The sections of a guest's report."""

    result: guest.Result

    @cached_property
    def sections(self) -> dict[str, str]:
        support.ended(self.result, guest.PASSED)
        return support.sections(self.result.report)

    def told(self, name: str) -> Told:
        """What the only `told` of a section said."""
        (found,) = Told.all(self.sections[name])
        return found

    @property
    def record(self) -> dict[str, Any]:
        """boot.json."""
        record: dict[str, Any] = json.loads(self.sections["record"])
        return record

    @property
    def properties(self) -> dict[str, str]:
        """What systemd says of the unit."""
        return dict(line.split("=", 1) for line in self.sections["show"].splitlines())


def transcript(command: str) -> list[str]:
    """Return what docs/status.md shows of a command, without the lines that stand for omitted ones."""
    (block,) = re.findall(rf"^```console\n# {re.escape(command)}\n(.*?)^```", TRANSCRIPTS.read_text(), re.MULTILINE | re.DOTALL)
    return [line for line in block.splitlines() if line != "..."]


def shape(line: str) -> str:
    """A line without what differs from one machine and boot to the next."""
    days = "|".join("Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())  # noqa: SIM905
    line = re.sub(r"; .* ago$", "; ago", line.rstrip())
    return re.sub(rf"\b({days})\b|\b[0-9a-f]{{8,}}\b|\d+", "_", line)
