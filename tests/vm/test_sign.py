# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel accepts what `bootseal sign` makes with each type of key; a SHA-512 image works throughout.

One guest of the older suite does it all, with the older kernel and Python. It also judges its own deployment.
"""

from __future__ import annotations

import re

import pytest

from unit.host import program
from vm.disks import INITRD, THIN, changed_disk, initrd_disk, thin_initrd_disk
from vm.harness import guest, qemu, signed
from vm.harness.ask import ask, put_file
from vm.harness.cache import temporary
from vm.harness.changes import commands
from vm.harness.jobs import Job
from vm.harness.parse import Said, first_json

pytestmark = pytest.mark.vm

SUITE = "trixie"


def _enable(name: str) -> str:
    """Make a section: fs-verity with a signature by a key that was just added, and with one byte changed."""
    path = temporary() / name
    path.mkdir()
    image = program.image(path)
    program.signed(image, "--key", program.key(name), "--cert", program.certificate(name))
    digest, signature = program.beside(image)
    files = {
        "good.digest": digest,
        "bad.digest": digest,
        "good.sig": signature,
        "bad.sig": signature[:-1] + bytes([signature[-1] ^ 1]),
        "cert": program.certificate(name, "der").read_bytes(),
    }
    home = f"/var/sign/{name}"
    return (
        "".join(put_file(f"{home}/{file}", content) for file, content in files.items())
        + f"cd {home}\nkeyctl padd asymmetric {name} $anchor <cert\n"
        + "for which in good bad; do fsverity enable $which.digest --signature=$which.sig && echo $which: accepted; done || :\n"
    )


def _sha512_script() -> str:
    """Make a script that deploys and judges, in the guest, the output of `sign` on this machine for a SHA-512 image."""
    key = signed.key()
    cfs = signed.image(algorithm="sha512").deployment.cfs
    made = signed.made_by_sign(cfs, "--key", key.key, "--cert", key.certificate, "--algorithm", "sha512")
    where = f"--sysroot /run/target --initrd {THIN} --json=short"
    deploy = f"bootseal deploy {where} --digest /run/digest --signature /run/sig"
    prepare = put_file("/run/digest", made[signed.DIGEST]) + put_file("/run/sig", made[signed.SIGNATURE])
    prepare += "mkdir /run/target; mount /dev/disk/by-id/virtio-target /run/target"
    verify = f"bootseal verify {where}"
    return ask(
        prepare=prepare,
        unsigned=f'{verify} || echo "status $?"',
        deploy=deploy,
        again=deploy,
        verify=verify,
        without_digest=f'bootseal deploy {where} --signature /run/sig || echo "status $?"',
    )


def _run() -> guest.Result:
    change = commands("rm /{digest}", "rm /{signature}")
    target = changed_disk(change, "target", algorithm="sha512", readonly=False)
    keys = ask(**{name: _enable(name) for name in program.KEYS})
    script = (
        "export NO_COLOR=1\nanchor=0x$(sed -n '/ keyring  *[.]fs-verity/s/ .*//p' /proc/keys)\n"
        f"{keys}{ask(own=f'bootseal verify --initrd {INITRD} --json=short')}{_sha512_script()}"
    )
    return guest.boot(
        signed.image(SUITE),
        signed.initrd(SUITE),
        extra_initrd_files=signed.settings(conf="[Keyring]\nSeal=no\n"),
        disks=[initrd_disk(SUITE, compressed=True), thin_initrd_disk(SUITE), target],
        script=script,
        timeout=qemu.LONG,
        title="signatures by every type of key",
    )


job = pytest.mark.parametrize("job", [pytest.param(Job(_run), id=SUITE)])


def _said(job: Job[guest.Result]) -> Said:
    return Said.of(job.result())


@job
@pytest.mark.parametrize("name", program.KEYS)
def test_the_kernel_accepts_what_sign_makes(job: Job[guest.Result], name: str) -> None:
    said = _said(job)[name]
    assert re.findall(r"^(\w+): accepted$", said, re.MULTILINE) == ["good"]
    assert re.search(r"bad\.digest.*(rejected|Bad message)", said), said


@job
def test_a_sha512_image_is_deployed_and_would_boot(job: Job[guest.Result]) -> None:
    said = _said(job)
    assert first_json(said["unsigned"])["verdict"] == "no-digest"
    first, again, verified = (first_json(said[name]) for name in ("deploy", "again", "verify"))
    assert (first["verdict"], first["changed"]) == ("verified", True)
    assert (again["verdict"], again["changed"]) == ("verified", False)
    assert (verified["verdict"], verified["image"]["algorithm"]) == ("verified", "sha512")
    alone = first_json(said["without_digest"])  # the algorithm is that of the image, which is sealed
    assert (alone["verdict"], alone["changed"]) == ("verified", False)


@job
def test_the_running_system_would_boot_again(job: Job[guest.Result]) -> None:
    record = first_json(_said(job)["own"])
    assert (record["verdict"], record["state"]) == ("verified", "booted")
    # This suite has it in /boot only, which the trees of the tests lack.
    assert record["missing"] == ["no configuration of the deployment's kernel found: its options are not known"]
