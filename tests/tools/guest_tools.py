# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the program's guest tests share: the boot's own refusal cases as disks of a good guest that judges them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import guest
import support
import support_refusals as refusals
from guest_boot import arguments
from guest_qemu import Disk
from test_refusals import Case

PROGRAM = "bootseal"
# What verify cannot know: a stage of the boot that is replaced by a broken one.
NOT_KNOWN = ("bug",)


def initrd_disk(files: dict[str, guest.Content], name: str) -> Disk:
    """An initrd as a disk of the guest, with files added."""
    path = guest.with_files(support.initrd(), files, support.temporary() / "initrd")
    with path.open("ab") as file:
        file.write(bytes(-path.stat().st_size % 512))
    return Disk(path, "raw", name, readonly=True)


def case_disk(case: Case, name: str) -> Disk:
    """The changed disk of a case, kept as the difference to the good one."""
    image = support.image()
    changed = refusals.changed(image, case.change)
    delta = support.temporary() / "delta.qcow2"
    if changed == image.disk:
        support.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image.disk, "-F", "raw", delta)
    else:
        support.run("qemu-img", "convert", "-O", "qcow2", "-B", image.disk, "-F", "raw", changed, delta)
        changed.unlink()
    return Disk(delta, "qcow2", name, readonly=True)


def case_cmdline(case: Case) -> str:
    """The kernel command line that the boot of a case has."""
    line = arguments(support.image(), append=case.append)
    return line if case.karg is None else line.replace(f"ostree={support.image().deployment.karg}", case.karg)


def judge_script(cases: Sequence[Case], initrds: dict[str, str]) -> str:
    """`bootseal verify` of each case's disk, with the initrd that its boot would have."""
    lines = ["mkdir -p /run/case"]
    for number, case in enumerate(cases):
        initrd = f"/dev/disk/by-id/virtio-{initrds[case.id]}"
        lines += [
            f"echo '=== {case.id}'",
            f"mount -o ro,noload /dev/disk/by-id/virtio-case-{number} /run/case",
            f"set -- --sysroot /run/case --initrd {initrd} --json=short --cmdline '{case_cmdline(case)}'",
            f'{PROGRAM} verify "$@" || echo "status $?"',
            "umount /run/case",
        ]
    return "\n".join(lines) + "\n"


def json_of(section: str) -> dict[str, Any]:
    """The JSON line of a section."""
    line = next(line for line in section.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def signed_with_program(cfs: Path, *options: str | Path) -> dict[str, bytes]:
    """What `bootseal sign` puts beside an image."""
    copy = support.temporary() / support.IMAGE
    copy.write_bytes(cfs.read_bytes())
    source = Path(__file__).resolve().parents[2] / "service"
    subprocess.run([sys.executable, "-I", source, "sign", copy, *options], check=True, stdout=subprocess.PIPE)
    return {name: copy.with_name(name).read_bytes() for name in (support.DIGEST, support.SIGNATURE)}
