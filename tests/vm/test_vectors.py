# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every vector through the kernel and through our verifier, in one guest boot for each kernel."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from vm.harness import guest, parse, qemu, signed
from vm.harness.ask import ask
from vm.harness.cache import SCRIPTS, temporary
from vm.harness.jobs import Job

pytestmark = pytest.mark.vm

VECTORS = Path(__file__).parents[1] / "vectors"
MANIFEST: dict[str, Any] = json.loads((VECTORS / "manifest.json").read_text())
KERNELS = {"trixie": "6.12", "forky": "7.2"}
# Accepted in userspace, with a certificate that the kernel does not load.
NOT_LOADED = {"C-1960": "EBADMSG"}
SCRIPT = ask(
    record="cat /run/bootseal/boot.json",
    vectors="mkdir /var/vectors\ntar -xf /dev/disk/by-id/virtio-vectors -C /var/vectors\npython3 -B /var/vectors/vectors.py",
)

Found = list[dict[str, Any]]


def _disk() -> guest.Disk:
    """Pack the vectors and the guest's script as a tar archive on a disk."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("manifest.json", "certs", "content", "sigs"):
            tar.add(VECTORS / name, name)
        tar.add(SCRIPTS / "vectors.py", "vectors.py")
    path = temporary() / "vectors.raw"
    path.write_bytes(archive.getvalue())
    return guest.Disk(path, "raw", "vectors", readonly=True)


def _boot(suite: str) -> Found:
    files = signed.settings("[Keyring]\nSeal=no\n")
    result = guest.boot(
        signed.image(suite),
        signed.initrd(suite),
        extra_initrd_files=files,
        script=SCRIPT,
        disks=[_disk()],
        rw=True,
        timeout=qemu.LONG,
        title=f"vectors on {suite}",
    )
    said = parse.Said.of(result)
    assert said.record["keyring"]["sealed"] is False
    return parse.json_lines(said["vectors"])


JOBS = [pytest.param(Job(partial(_boot, suite)), kernel, id=suite) for suite, kernel in KERNELS.items()]
on_each_kernel = pytest.mark.parametrize(("job", "kernel"), JOBS)


def _vectors(job: Job[Found]) -> dict[str, dict[str, Any]]:
    return {found["id"]: found for found in job.result()[1:]}


@on_each_kernel
def test_every_vector_was_tried(job: Job[Found], kernel: str) -> None:
    assert list(_vectors(job)) == [vector["id"] for vector in MANIFEST["vectors"]]
    assert len(_vectors(job)) == MANIFEST["counts"]["vectors"] == 126


@on_each_kernel
def test_the_kernel_loads_the_certificates_of_the_manifest(job: Job[Found], kernel: str) -> None:
    expected = {f"certs/{name}": load["kernel_load"][kernel] for name, load in MANIFEST["certificates"].items()}
    everywhere, *each = (found["loads"] for found in job.result())
    assert everywhere == expected
    assert [loads for loads in each if not loads.items() <= expected.items()] == []


@on_each_kernel
def test_the_kernel_judges_as_in_the_manifest(job: Job[Found], kernel: str) -> None:
    judged = {name: found["kernel"] for name, found in _vectors(job).items()}
    assert judged == {vector["id"]: vector["kernel_errno"][kernel] for vector in MANIFEST["vectors"]}


@on_each_kernel
def test_our_verifier_judges_as_in_the_manifest(job: Job[Found], kernel: str) -> None:
    judged = {name: "accept" if found["userspace"] == "accept" else "reject" for name, found in _vectors(job).items()}
    assert judged == {vector["id"]: vector["userspace"] for vector in MANIFEST["vectors"]}


@on_each_kernel
def test_the_kernels_key_check_takes_what_our_verifier_takes(job: Job[Found], kernel: str) -> None:
    checked = {name: found["checked"] for name, found in _vectors(job).items() if found["userspace"] == "accept"}
    assert len(checked) == MANIFEST["counts"]["userspace_accept"]
    assert {name: errno for name, errno in checked.items() if errno != "OK"} == NOT_LOADED
