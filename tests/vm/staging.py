# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fetch and stage updates in a guest, shut it down for real, and read what ostree then did."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vm.harness.ask import ask, put_file
from vm.harness.boot import Result
from vm.harness.cache import SCRIPTS, output_of
from vm.harness.parse import Said
from vm.harness.updates import SERIAL

WITNESS = "/run/systemd/system/guest-witness.service"
_AFTER_SHUTDOWN = {
    "outcome": "systemctl show -p Result -p ActiveState ostree-finalize-staged.service",
    "status": "systemctl --no-pager --full status ostree-finalize-staged.service || :",
    "journal": "journalctl -b -o cat -u ostree-finalize-staged.service",
    "entries": "cat /sysroot/boot/loader/entries/*.conf",
    "flags": "(cd /sysroot/ostree/deploy/guest/deploy; lsattr -d *.0; ls -a)",
}
PRELUDE = f"""export NO_COLOR=1
systemctl daemon-reload
systemctl start {Path(WITNESS).name}
gate_ran() {{  # how often
    for _ in $(seq 180); do
        ran=$(journalctl -b -o cat -u bootseal-gate.service | grep -c -e '^Finished' -e '^Failed to start') || :
        test "$ran" -lt "$1" || return 0
        sleep 1
    done
    echo "not run"
}}
"""
_URL = "http://127.0.0.1:8080"
UPDATES = "/run/updates"  # the repository in the guest
# The server, and the remote `origin`.
SERVE = f"""mkdir -p {UPDATES}
mount -o ro /dev/disk/by-id/virtio-{SERIAL} {UPDATES}
python3 -m http.server --directory {UPDATES} --bind 127.0.0.1 8080 >/run/http.log 2>&1 &
until python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8080))' 2>/dev/null; do sleep 0.2; done
ostree remote add --if-not-exists --no-gpg-verify --no-sign-verify origin {_URL} first
"""


def upgrade(branch: str) -> str:
    """Make the command of an update day, with the switch to a branch before."""
    # 'ostree admin switch' would also fetch and deploy.
    return f"ostree admin set-origin --index=0 origin {_URL} {branch} >/dev/null\nostree admin upgrade --stage"


@dataclass
class Chain:
    """Boots that need each other's disk; the first that fails is the last."""

    results: dict[str, Result] = field(default_factory=dict)

    def said(self, name: str) -> Said:
        """Read what one of them reported."""
        ends = [f"{boot}: {result.ended} {result.status}" for boot, result in self.results.items()]
        assert name in self.results, f"the chain ended early: {ends}"
        return Said.of(self.results[name])


def roomy(disk: Path) -> Path:
    """Make an ext4 disk larger, for several deployments, and return it."""
    with disk.open("r+b") as file:
        file.truncate(disk.stat().st_size + (512 << 20))
    output_of("sh", "-c", f"e2fsck -fy '{disk}' >/dev/null; resize2fs '{disk}' 2>&1")
    return disk


def shut_down(**sections: str) -> str:
    """Make a script that ends in a real shutdown, with a witness that reports its result."""
    return (
        put_file("/run/guest-witness", ask(**_AFTER_SHUTDOWN).encode())
        + put_file(WITNESS, (SCRIPTS / "witness.service").read_bytes())
        + PRELUDE
        + ask(**sections, time="cat /proc/uptime")
        + "systemctl --no-block reboot\nsleep 600\nexit 1\n"
    )


def entries(section: str) -> dict[int, str]:
    """Map each boot entry's version to its ostree=: the highest is the default."""
    found = re.findall(r"^version (\d+)\n(?:.*\n)*?options .*\bostree=(\S+)$", section, re.MULTILINE)
    return {int(version): target for version, target in found}


def default_entry(section: str) -> str:
    found = entries(section)
    return found[max(found)]
