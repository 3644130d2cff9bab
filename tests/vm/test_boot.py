# SPDX-License-Identifier: LGPL-2.1-or-later
"""Good boots with each method, kernel, filesystem and key, up to twice from one disk."""

from __future__ import annotations

import re
from typing import Any

import pytest

import bootseal
from bootseal import verdicts
from vm.chains import Boots, Chain, Inside
from vm.harness import parse, signed
from vm.harness.cache import output_of
from vm.harness.jobs import Job

# Bytes that the first boot with `fsverity` may write. btrfs copies its metadata trees up to their roots, each block twice.
LIMITS = {"ext4": 128 * 1024, "btrfs": 1024 * 1024}
STAGES = {"configuration", "keyring", "preparation", "wait", "locate", "verify", "enroll", "mount"}
TRANSIENT_ETC = "[composefs]\nenabled=verity\n[etc]\ntransient=true\n[sysroot]\nreadonly=false\n"
TRANSIENT_ROOT = "[composefs]\nenabled=verity\n[root]\ntransient=true\n"

# Pairs rather than all combinations; each value at least once, each method that keeps something twice in a row. One boot is
# whole, on the suite that test_readme.py does not boot.
CHAINS = [
    Chain("fsverity-forky", "forky", "fsverity", 2),
    Chain("keyring-trixie", "trixie", "keyring", 2, kind="p384"),
    Chain("none-sha512", "forky", "none", 1, kind="rsa2048", algorithm="sha512", rw=True),
    Chain("fsverity-trixie", "trixie", "fsverity", 2, kind="rsa4096", rw=True, whole=True),
    Chain("fsverity-btrfs", "forky", "fsverity", 2, fs="btrfs", late_journal=True),
    Chain("keyring-transient-etc", "forky", "keyring", 2, kind="rsa4096", rw=True, root=TRANSIENT_ETC),
    Chain("none-transient-root", "trixie", "none", 1, root=TRANSIENT_ROOT),
]
JOBS = {chain.name: Job(chain.run, boots=chain.boots) for chain in CHAINS}


def chains(*, method: str = "", root: str = "", suite: str = "") -> pytest.MarkDecorator:
    """Parametrize a test with the chains of a method, a prepare-root.conf, a suite."""
    chosen = [
        pytest.param(JOBS[chain.name], id=chain.name)
        for chain in CHAINS
        if method in ("", chain.method) and root in ("", chain.root) and suite in ("", chain.suite)
    ]
    return pytest.mark.parametrize("job", chosen)


pytestmark = pytest.mark.vm


def signer_algorithm(kind: str) -> str:
    return {"p256": "ecdsa-sha256", "p384": "ecdsa-sha256"}.get(kind, "rsa-sha256")


@chains()
def test_the_unit_is_active_with_its_status(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        assert inside["active"] == "active"
        assert inside.unit()["ActiveState"] == "active"
        assert inside.unit()["SubState"] == "exited"
        assert inside.unit()["Result"] == "success"
        assert inside.unit()["StatusText"] == inside.record["message"]
        assert inside["failed"] == ""


@chains()
def test_the_console_has_the_verdict_in_one_line(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        ours = [line for line in inside.result.console.splitlines() if line.startswith("bootseal: ")]
        assert ours == [f"bootseal: {inside.record['message']}"]


@chains()
def test_the_record_says_what_was_booted(job: Job[Boots]) -> None:
    boots = job.result()
    deployment = boots.image.deployment
    for inside in boots.inside:
        record = inside.record
        assert (record["version"], record["verdict"], record["bootseal"]) == (1, "verified", bootseal.__version__)
        assert record["message"].startswith("verified ")
        assert "hint" not in record
        assert [record["kernel"], record["boot_id"]] == inside["kernel"].split()
        assert record["deployment"] == {
            "layout": "ostree",
            "stateroot": "guest",
            "checksum": deployment.checksum,
            "serial": 0,
            "path": deployment.path,
        }
        assert record["image"] == {
            "path": f"/sysroot/{deployment.path}/{signed.IMAGE}",
            "algorithm": boots.chain.algorithm,
            "digest": boots.beside[signed.DIGEST].hex(),
            "size": deployment.cfs.stat().st_size,
            **release_of(inside),
        }
        assert set(record["milliseconds"]) == STAGES
        assert all(figure > 0 for figure in record["milliseconds"].values())


def release_of(inside: Inside) -> dict[str, str]:
    """Return name and version of the image as a shell reads them: Debian testing has no version."""
    return dict(zip(("id", "version"), inside["release"].split(), strict=False))


@chains()
def test_the_image_is_named_by_what_the_digest_covers(job: Job[Boots]) -> None:
    """Stateroot, checksum and the disk's /etc/os-release say something else."""
    boots = job.result()
    for inside in boots.inside:
        name = " ".join(release_of(inside).values())
        assert name == {"forky": "debian", "trixie": "debian 13"}[boots.chain.suite]
        first = f"verified {name} {boots.chain.algorithm}:{inside.record['image']['digest'][:12]} ("
        on_disk = f"deployment guest/{boots.image.deployment.checksum[:12]}.0, as the disk names it), signed by "
        assert inside.unit()["StatusText"].startswith(first + on_disk)


@chains()
def test_the_record_names_the_signer(job: Job[Boots]) -> None:
    boots = job.result()
    certificate = boots.key.certificate
    fields = ("-noout", "-serial", "-fingerprint", "-sha256")
    serial, fingerprint = output_of("openssl", "x509", "-in", certificate, *fields).split("\n")[:2]
    for inside in boots.inside:
        signature = dict(inside.record["signature"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", signature.pop("not_before"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", signature.pop("not_after"))
        assert int(signature.pop("serial"), 16) == int(serial.split("=")[1], 16)
        assert signature == {
            "subject": f"CN=guest {boots.chain.kind}",
            "issuer": f"CN=guest {boots.chain.kind}",
            "certificate_sha256": fingerprint.split("=")[1].replace(":", "").lower(),
            "algorithm": signer_algorithm(boots.chain.kind),
            "form": "digest-file",
        }


@chains()
def test_the_record_says_what_is_covered(job: Job[Boots]) -> None:
    boots = job.result()
    etc = [] if boots.chain.root == TRANSIENT_ETC else ["/etc"]
    for inside in boots.inside:
        record = inside.record
        link = f"/opt -> /{inside['opt']}"
        assert record["not_covered"] == [*etc, "/var", "/boot", link, "initrd", "kernel command line"]
        assert (record["keyring"]["certificates"], record["keyring"]["sealed"]) == (1, True)
        assert "verity=require" in record["mount"]["options"].split(",")
        assert all(text in record["message"] for text in record["not_covered"])


@chains()
def test_the_journal_has_one_entry_with_all_fields(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        (entry,) = parse.json_lines(inside["journal"])
        ours = {name: value for name, value in entry.items() if name.startswith("BOOTSEAL_")}
        assert ours == {
            "BOOTSEAL_VERDICT": "verified",
            "BOOTSEAL_IMAGE": " ".join(release_of(inside).values()),
            "BOOTSEAL_DEPLOYMENT": boots.directory,
            "BOOTSEAL_DIGEST": f"{boots.chain.algorithm}:{boots.beside[signed.DIGEST].hex()}",
            "BOOTSEAL_SIGNER": f"CN=guest {boots.chain.kind}",
            "BOOTSEAL_ENROLL": boots.chain.method,
        }
        assert entry["MESSAGE"] == inside.record["message"]
        assert entry["MESSAGE_ID"] == verdicts.VERIFIED.message_id
        assert entry["_UID"] == "0"
        assert "See bootseal.service(8)." in inside["catalog"]


@chains()
def test_the_root_is_the_signed_image_and_nothing_else(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        for section, prefix in (("initrd_mounts", "/sysroot"), ("mounts", "")):
            root = inside.topmost(section)[prefix or "/"]
            assert (root.fstype, root.source) == ("overlay", f"composefs:{boots.beside[signed.DIGEST].hex()}")
            assert {"verity=require", "metacopy=on"} <= set(root.super_options)
            sysroot = inside.topmost(section)[f"{prefix}/sysroot"]
            assert (sysroot.root, sysroot.source) == ("/", "/dev/vda")
            assert sysroot.options[0] == ("rw" if boots.chain.root == TRANSIENT_ETC else "ro")
            var = inside.topmost(section)[f"{prefix}/var"]
            assert (var.root, var.options[0]) == ("/ostree/deploy/guest/var", "rw")
        assert inside["object"] == "TTTTTTTT"


@chains()
def test_nobody_mounted_anything_over_usr(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        assert [m for m in inside.mounts() if m.target.startswith("/usr")] == []


@chains()
def test_etc_is_the_deployments_or_transient(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        etc = inside.topmost()["/etc"]
        if boots.chain.root == TRANSIENT_ETC:
            assert etc.fstype == "overlay"
        else:
            assert etc.root == f"/{boots.directory}/etc"
        assert etc.options[0] == "rw"


@chains()
def test_usr_is_read_only_unless_transient(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        assert inside.topmost()["/"].options[0] == ("rw" if boots.chain.root == TRANSIENT_ROOT else "ro")
        refused = "" if boots.chain.root == TRANSIENT_ROOT else "Read-only file system"
        assert refused in inside["write_usr"]
        assert bool(refused) == bool(inside["write_usr"])


@chains()
def test_state_survives_where_it_should(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        places = 1 if boots.chain.root == TRANSIENT_ETC else 2
        assert inside["marks"].splitlines().count("mark") == places * (inside.number - 1)


@chains()
def test_the_superblock_is_as_it_was(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        sysroot = inside.topmost("initrd_mounts")["/sysroot/sysroot"]
        assert sysroot.super_options[0] == ("rw" if boots.chain.rw else "ro")


@chains()
def test_nothing_of_ours_is_left_over(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        left = {line for line in inside["run"].splitlines() if line.startswith("/run/bootseal")}
        assert left == {"/run/bootseal", "/run/bootseal/attached", "/run/bootseal/boot.json"}
        for section in ("initrd_mounts", "mounts"):
            assert [m for m in inside.mounts(section) if m.fstype == "erofs" or m.target.startswith("/run/bootseal")] == []


@chains(suite="forky")
def test_ostree_shows_the_booted_deployment(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        assert f"* guest {boots.image.deployment.checksum}.0" in inside["ostree"].splitlines()


@chains()
def test_systemd_is_told_the_disk_behind_the_root(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        link, number = inside["device"].splitlines()
        assert link == f"/dev/block/{number}"


# --- enrolling


def enrollment(inside: Inside) -> dict[str, Any]:
    """Select the members of `enrollment` that the record must have."""
    said = inside.record["enrollment"]
    return {name: said[name] for name in ("method", "first_boot", "bytes_written", "missing") if name in said}


@chains()
def test_the_keyring_of_the_kernel_is_sealed_and_holds_the_certificate(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        (anchor,) = [key for key in inside.kernel_keys() if key.description.startswith(".fs-verity:")]
        assert (anchor.permissions, anchor.uid) == ("08030000", 0)
        sha256 = inside.record["signature"]["certificate_sha256"]
        (certificate,) = [key for key in inside.kernel_keys() if key.description.startswith(f"bootseal:{sha256}")]
        assert str(certificate.serial) in inside["anchored"].split()


@chains(method="keyring")
def test_keyring_writes_nothing(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        assert enrollment(inside) == {"method": "keyring", "first_boot": False, "bytes_written": 0, "missing": []}
        assert boots.chain.rw or inside.bytes_written() == 0
        assert "No data available" in inside["built_in"]


@chains(method="none")
def test_none_leaves_nothing(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        assert enrollment(inside) == {"method": "none", "first_boot": False, "bytes_written": 0, "missing": []}
        assert boots.chain.rw or inside.bytes_written() == 0
        assert [key for key in inside.kernel_keys() if key.description.startswith(("bootseal: ", "composefs-digest"))] == []
        assert "No data available" in inside["built_in"]


def _ring_of(inside: Inside) -> None:
    (ring,) = [key for key in inside.kernel_keys() if key.kind == "keyring" and key.description.startswith("bootseal:")]
    (record,) = [key for key in inside.kernel_keys() if key.description.startswith("composefs-digest")]
    assert (ring.permissions, record.permissions, record.kind) == ("03030303", "03030303", "user")
    assert str(ring.serial) in inside["anchored"].split()
    image = inside.record["image"]
    assert inside["recorded"] == f"{image['algorithm']}:{image['digest']}"


@chains(method="keyring")
def test_keyring_records_the_digest(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        _ring_of(inside)


@chains(method="fsverity")
def test_fsverity_records_the_digest_as_well(job: Job[Boots]) -> None:
    for inside in job.result().inside:
        _ring_of(inside)


@chains(method="fsverity")
def test_fsverity_builds_the_signature_into_the_digest_file(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        assert inside["digest"].startswith("sha256:")
        assert inside["built_in"] == boots.beside[signed.SIGNATURE].hex()
        assert "i" in inside["flags"].split()[0]  # the deployment's directory is immutable, as ostree made it


@chains(method="fsverity")
def test_fsverity_writes_little_once_and_then_nothing(job: Job[Boots]) -> None:
    boots = job.result()
    for inside in boots.inside:
        said, first = enrollment(inside), inside.number == 1
        written = said.pop("bytes_written", None)
        assert said == {"method": "fsverity", "first_boot": first, "missing": []}
        assert boots.chain.rw or written == inside.bytes_written()
        assert 0 < written < LIMITS[boots.chain.fs] if first else written == 0
        assert ("first boot" in inside.record["message"]) == first
