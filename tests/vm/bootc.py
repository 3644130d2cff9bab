# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage updates as bootc does, in a guest that has no bootc, and shut it down for real."""

from __future__ import annotations

from vm.harness.ask import ask, put_file
from vm.harness.cache import SCRIPTS
from vm.staging import PRELUDE, WITNESS

_UNIT = "bootc-finalize-staged.service"
GATE = "systemctl show -p Result -p ExecMainStatus bootseal-gate.service; journalctl -b -o cat -u bootseal-gate.service"
_FINALIZE = """[Unit]
DefaultDependencies=no
RequiresMountsFor=/sysroot
After=local-fs.target
Before=basic.target final.target
After=systemd-journal-flush.service
Conflicts=final.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=/usr/bin/bootc composefs-finalize-staged
TimeoutStopSec=5m
ProtectHome=yes
ReadOnlyPaths=/etc
"""  # systemd/bootc-finalize-staged.service of bootc, without what it says of itself
_AFTER_SHUTDOWN = {
    "outcome": f"systemctl show -p Result -p ActiveState {_UNIT}",
    "journal": f"journalctl -b -o cat -u {_UNIT}",
    "entries": "grep -h options /sysroot/boot/loader/entries/*.conf",
}
# What 'bootc upgrade' does at last: write boot entries beside the present ones, and say what is staged.
_STAGE = """stage() {
    mount -o remount,rw /sysroot
    cd /sysroot/boot/loader
    rm -rf entries.staged
    cp -a entries entries.staged
    sed -i 's/^sort-key.*/sort-key bootc-debian-2/' "$(grep -L "$1" entries.staged/*)"
    mkdir -p /run/composefs
    echo "{\\"depl_id\\":\\"$1\\",\\"finalization_locked\\":false}" >/run/composefs/new
    mv /run/composefs/new /run/composefs/staged-deployment
    cd /
    mount -o remount,bind,ro /sysroot
}
"""


def write(directory: str, commands: str) -> str:
    """Make a command that runs others in a directory of the physical root, for which only they can write to it."""
    return f"unshare -m sh -ec 'mount -o remount,rw /sysroot; cd /sysroot/{directory}; {commands}'"


def shut_down(sections: str) -> str:
    """Make a script of sections that ends in a real shutdown, with a witness that reports its result.

    They may call `stage DIGEST`, and `gate_ran TIMES` to wait for the gate.
    """
    return (
        put_file(f"/run/systemd/system/{_UNIT}", _FINALIZE.encode())
        + put_file("/run/guest-witness", ask(**_AFTER_SHUTDOWN).encode())
        + put_file(WITNESS, (SCRIPTS / "witness.service").read_bytes())
        + PRELUDE
        + f"systemctl start {_UNIT}\n"
        + _STAGE
        + sections
        + "systemctl --no-block reboot\nsleep 600\nexit 1\n"
    )
