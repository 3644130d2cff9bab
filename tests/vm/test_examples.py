# SPDX-License-Identifier: LGPL-2.1-or-later
"""The example of a container build for Debian: its steps on a tree of mmdebstrap, and a boot of the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm.harness import guest, signed, tree
from vm.harness.ask import ask
from vm.harness.cache import CHECKOUT, SCRIPTS, cached, digest_of, must_run, output_of, scratch
from vm.harness.containerfile import steps
from vm.harness.disk import Deployment, image_of
from vm.harness.jobs import Job
from vm.harness.parse import Said

pytestmark = pytest.mark.vm

CONTAINERFILE = CHECKOUT / "packaging/examples/debian/Containerfile"
BOOTC = "Package: bootc\nVersion: 0\nArchitecture: all\nMaintainer: bootseal <nobody@example.com>\nDescription: a stand-in\n"


def _build(out: Path) -> None:
    with scratch() as work:
        aids, context = tree.test_aids(work / "aids"), work / "context"
        configuration = aids / "etc/dracut.conf.d/60-guest.conf"
        configuration.parent.mkdir(parents=True)
        configuration.write_text(tree.guest_dracut("bootseal"))
        context.mkdir()
        for deb in tree.packages().glob("*.deb"):
            (context / deb.name).write_bytes(deb.read_bytes())
        (context / "CERT.crt").write_bytes(signed.key().certificate.read_bytes())
        (context / "bootseal.conf").write_bytes((CHECKOUT / "units/bootseal.conf").read_bytes())
        _stand_in(work / "bootc", aids / "usr/bin/bootc", context)
        (work / "steps").write_text(steps(CONTAINERFILE.read_text()))
        (work / "scratch").mkdir()
        base = tree.base_tree("forky")
        must_run("example.sh", base, aids, context, signed.key().key, work / "steps", out, work / "scratch")


def _stand_in(package: Path, program: Path, context: Path) -> None:
    """Package the stand-in for bootc."""
    for name, content, mode in (("DEBIAN/control", BOOTC.encode(), 0o644), ("usr/bin/bootc", program.read_bytes(), 0o755)):
        (package / name).parent.mkdir(parents=True)
        (package / name).write_bytes(content)
        (package / name).chmod(mode)
    output_of("dpkg-deb", "--root-owner-group", "--build", package, context / "bootc_0_all.deb")


def _boot() -> Said:
    scripts = [SCRIPTS / name for name in ("example.sh", "repository.sh", "lib.sh", "erofs.py", "apt-get", "tree")]
    debs = sorted(tree.packages().glob("*.deb"))
    harness = [CHECKOUT / f"tests/vm/harness/{name}.py" for name in ("containerfile", "tree")]
    key = digest_of(tree.base_tree("forky").parent.name, CONTAINERFILE, signed.key().certificate, *scripts, *debs, *harness)
    home = cached("example-debian", key, "example for Debian", _build)
    digest = (home / "example.digest").read_text().strip()
    argument = f"v1-sha512-12:{digest}"
    made = Deployment("forky", home, home / "example.cfs", f"state/deploy/{digest}", argument, "composefs.digest")
    script = ask(
        record="cat /run/bootseal/boot.json",
        failed="systemctl --failed --no-legend --plain",
        gate="systemctl is-enabled bootseal-gate.path",
        boot="ls -A /boot",
    )
    return Said.of(guest.boot(image_of(made), home / "initrd", rw=True, whole=True, script=script, title="example for Debian"))


@pytest.mark.nightly
@pytest.mark.parametrize("job", [pytest.param(Job(_boot), id="debian")])
def test_the_steps_of_the_containerfile_make_a_system_that_boots(job: Job[Said]) -> None:
    said = job.result()
    record = said.record
    assert record["verdict"] == "verified"
    assert (record["deployment"]["layout"], record["image"]["algorithm"]) == ("composefs", "sha512")
    assert record["signature"]["subject"] == "CN=guest p256"
    assert (said["failed"], said["gate"], said["boot"]) == ("", "enabled", "")
