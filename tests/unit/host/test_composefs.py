# SPDX-License-Identifier: LGPL-2.1-or-later
"""layouts/composefs.py: deployments of bootc, their boot entries, and where signatures are looked for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootseal.errors import Refusal
from bootseal.host import carriers, deployments, imagedigest
from bootseal.host.carriers import Found
from bootseal.host.commands import verify
from bootseal.host.deployed import Deployed
from bootseal.host.layouts import composefs
from bootseal.host.output import Failure
from bootseal.layouts import ostreebooted
from bootseal.linux import mountapi
from unit.support import policy
from unit.test_layouts_composefs import Repository

from .imports import openssl
from .initrds import pe_file
from .program import bootseal, certificate, key, signed
from .roots import make_initrd
from .test_erofs import make

A, B, C = ("a" * 128, "b" * 128, "c" * 64)


class Machine:
    """A physical root with images, made by hand."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "boot/loader/entries").mkdir(parents=True)

    def add(self, image: str, priority: int | None = None, *, more: str = "", entries: str = "entries") -> str:
        """Add an image, with an entry as bootc writes it."""
        if not (self.top / "state/deploy" / image).exists():
            Repository(self.top, image)
        if priority is not None:
            entry = self.top / f"boot/loader/{entries}/bootc_debian-13-{priority}.conf"
            entry.parent.mkdir(exist_ok=True)
            entry.write_text(
                f"title x\nversion 13\nsort-key bootc-debian-{1 - priority}\nlinux /boot/bootc_composefs-{image}/vmlinuz\n"
                f"initrd /boot/bootc_composefs-{image}/initrd\noptions rw composefs={image}{more}\n"
            )
            initrd = self.top / f"boot/bootc_composefs-{image}/initrd"
            initrd.parent.mkdir(exist_ok=True)
            initrd.write_bytes(make_initrd())
        return f"state/deploy/{image}"

    def found(self) -> list[Deployed]:
        return deployments.list_all(str(self.top))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(deployments, "default_sysroot", lambda: str(tmp_path / "root"))
    monkeypatch.setattr(composefs, "STAGED", str(tmp_path / "staged-deployment"))
    monkeypatch.setattr(ostreebooted, "PATH", str(tmp_path / "ostree-booted"))
    return Machine(tmp_path / "root")


def run(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    root = SimpleNamespace(target="/", fstype="overlay", source=source)
    monkeypatch.setattr(mountapi, "mounts", lambda: [root])


def stage(image: object) -> None:
    Path(composefs.STAGED).write_text(json.dumps({"depl_id": image, "finalization_locked": False}))


def test_in_boot_order(machine: Machine) -> None:
    rollback, first, without = machine.add(B, 0), machine.add(A, 1), machine.add(C)
    assert [(one.path, one.state, one.name) for one in machine.found()] == [
        (first, "pending", A[:12]), (rollback, "", B[:12]), (without, "", C[:12])
    ]  # fmt: skip
    assert [str(file) for file in machine.found()[0].initrds] == [f"{machine.top}/boot/bootc_composefs-{A}/initrd"]


@pytest.mark.parametrize("source", ["composefs:{}", "transient:composefs={}"])
def test_booted(source: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.add(A, 1)
    machine.add(B, 0)
    run(monkeypatch, source.format(B))
    assert composefs.is_running()
    assert [one.state for one in machine.found()] == ["pending", "booted"]
    Path(ostreebooted.PATH).touch()
    assert not composefs.is_running()


def test_staged_has_an_entry_of_its_own(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, f"composefs:{A}")
    machine.add(A, 1)
    machine.add(B, 1, more=" quiet", entries="entries.staged")
    stage(B)
    first, second = machine.found()
    assert (first.path, first.state, first.options) == (f"state/deploy/{B}", "staged", f"rw composefs={B} quiet")
    assert (second.path, second.state) == (f"state/deploy/{A}", "booted")
    assert len(first.initrds) == 1


def test_staged_without_an_entry(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, f"composefs:{A}")
    machine.add(A, 1)
    machine.add(B)
    stage(B)
    assert [(one.state, one.options is None) for one in machine.found()] == [("staged", True), ("booted", False)]


UNREADABLE = ["", "[]", "{}", "null", '{"depl_id": 1}', '{"depl_id": "../etc"}', '{"depl_id": "A"}', "[" * 9999]


@pytest.mark.parametrize("content", UNREADABLE)
def test_staged_that_cannot_be_read_is_no_empty_answer(content: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, f"composefs:{A}")
    machine.add(A, 1)
    Path(composefs.STAGED).write_text(content)
    with pytest.raises(Failure, match="staged-deployment: "):
        machine.found()


@pytest.mark.parametrize("place", ["boot", "efi", "boot/efi"])
@pytest.mark.parametrize("listed", [True, False])
def test_unified_kernel_image(listed: bool, place: str, machine: Machine) -> None:  # noqa: FBT001
    """bootc writes an entry for systemd-boot, which names the image, and none for GRUB."""
    machine.add(A)
    file = machine.top / place / f"EFI/Linux/bootc/bootc_composefs-{A}.efi"
    file.parent.mkdir(parents=True)
    line = f"rw composefs.digest=v1-sha512-12:{A}"
    file.write_bytes(pe_file({".cmdline": line.encode(), ".initrd": make_initrd()}))
    if listed:
        entries = machine.top / place / "loader/entries"
        entries.mkdir(parents=True, exist_ok=True)
        (entries / "bootc_debian-13-1.conf").write_text(f"title x\nversion 13\nuki /EFI/Linux/bootc/{file.name}\n")
    (found,) = machine.found()
    assert (found.options, found.state, [str(one) for one in found.initrds]) == (line, "pending", [str(file)])


def test_an_entry_with_several_digests_is_one_for_each_image(machine: Machine) -> None:
    machine.add(A, 1, more=f" composefs.digest=v2-sha512-12:{B} composefs.digest=v1-sha256-12:{C}")
    machine.add(C)
    assert [one.path for one in machine.found()] == [f"state/deploy/{A}", f"state/deploy/{C}"]
    for one in machine.found():
        assert deployments.parse_request(one).wishes == (composefs.wish(one.path),)


def test_an_entry_that_leads_nowhere_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.add(A, 1)
    os.rename(machine.top / f"state/deploy/{A}", machine.top / f"state/deploy/{B}")
    assert [one.path for one in machine.found()] == [f"state/deploy/{B}"]
    assert "a boot entry leads to no deployment: composefs=" in capsys.readouterr().err


def test_an_entry_with_a_list(machine: Machine) -> None:
    machine.add(A, 1)
    machine.add(B)
    entry = machine.top / "boot/loader/entries/bootc_debian-13-1.conf"
    entry.write_text("options rw bootseal.root=/state/roots\n")
    (machine.top / "state/roots").write_text(f"# roots\ncomposefs={C}\ncomposefs={B}\njunk\ncomposefs={A}\n")
    assert [one.path for one in machine.found()] == [f"state/deploy/{B}", f"state/deploy/{A}"]


def test_a_question_mark_is_judged_by_the_boot(machine: Machine) -> None:
    machine.add(A, 1)
    entry = machine.top / "boot/loader/entries/bootc_debian-13-1.conf"
    entry.write_text(f"options rw composefs=?{A}\n")
    (found,) = machine.found()
    with pytest.raises(Refusal, match=r"refused \(bad-command-line\)"):
        deployments.parse_request(found)


@pytest.mark.parametrize(("name", "image"), [(A[:12], A), (A, A), ("bbbb", B), ("pending", A)])
def test_choose(name: str, image: str, machine: Machine) -> None:
    machine.add(A, 1)
    machine.add(B, 0)
    assert deployments.choose(str(machine.top), name).path == f"state/deploy/{image}"


def test_it_is_opened_as_the_boot_does(machine: Machine) -> None:
    machine.add(A, 1)
    (one,) = machine.found()
    opened = deployments.locate(one, deployments.parse_request(one), policy(), str(machine.top))
    assert (opened.wished, opened.path) == (A, one.path)


def test_where_its_files_are(machine: Machine) -> None:
    where = composefs.where(machine.add(A), str(machine.top))
    assert (where.image_place, where.image) == ("composefs/objects", f"{A[:2]}/{A[2:]}")
    assert where.image_path == f"{machine.top}/composefs/images/{A}"
    assert (where.pair, where.pair_path) == ("bootseal", f"{machine.top}/state/deploy/{A}/bootseal")


# --- signatures that came along


def carried(machine: Machine, image: str = A) -> tuple[list[Found], list[str]]:
    everything = list(
        composefs.signatures(f"state/deploy/{image}", b"", str(machine.top), deployments.list_boots(str(machine.top)))
    )
    unusable = [str(one) for one in everything if isinstance(one, carriers.Unusable)]
    return [one for one in everything if isinstance(one, Found)], unusable


@pytest.mark.parametrize("place", ["boot", "boot/efi", "efi"])
def test_signature_on_a_partition_of_the_boot_loader(place: str, machine: Machine) -> None:
    machine.add(A)
    (machine.top / place / "bootseal").mkdir(parents=True)
    (machine.top / place / f"bootseal/{A}.sig").write_bytes(b"signature")
    (machine.top / place / f"bootseal/{B}.sig").write_bytes(b"of another")
    found, _ = carried(machine)
    assert found == [(f"{machine.top}/{place}/bootseal/{A}.sig", b"signature")]


def test_signature_in_another_image(machine: Machine, tmp_path: Path) -> None:
    """The image with its /boot is in the repository, beside the one that boots."""
    machine.add(A)
    plain = Repository(machine.top, B)
    boot = tmp_path / "made/root/boot/bootseal"
    boot.mkdir(parents=True)
    (boot / f"{A}.sig").write_bytes(b"signature")
    plain.object.write_bytes(make(tmp_path / "made").read_bytes())
    found, unusable = carried(machine)
    assert found == [(f"/boot/bootseal/{A}.sig of the image {B[:12]}", b"signature")]
    assert len(unusable) == 1  # that of A itself is no image, and hides no other


def test_signature_on_a_partition_of_the_running_system(machine: Machine, tmp_path: Path) -> None:
    """With an ESP of its own, the directories below the physical root are empty."""
    machine.add(A)
    esp = tmp_path / "efi/bootseal"
    esp.mkdir(parents=True)
    (esp / f"{A}.sig").write_bytes(b"signature")
    boots = ((str(machine.top), "boot"), (str(tmp_path), "efi"))
    found = [one for one in composefs.signatures(f"state/deploy/{A}", b"", str(machine.top), boots) if isinstance(one, Found)]
    assert found == [(f"{tmp_path}/efi/bootseal/{A}.sig", b"signature")]


def test_each_object_is_searched_once_and_not_too_many(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker may add any number of links, and large objects."""
    machine.add(A)
    for number in range(100):
        (machine.top / f"composefs/images/{number:064x}").symlink_to(f"../objects/{A[:2]}/{A[2:]}")
    assert len(carried(machine)[1]) == 1
    for number in range(100):
        digest = f"{number:064x}"
        link = machine.top / f"composefs/images/{digest}"
        link.unlink()
        link.symlink_to(f"../objects/{digest[:2]}/{digest[2:]}")
    unusable = carried(machine)[1]
    assert len(unusable) == composefs._MAX_IMAGES + 1
    assert unusable[-1] == "the repository has 101 images, of which 64 were searched"


@pytest.mark.root
@pytest.mark.parametrize("target", ["in an object", "outside", "too long"])
def test_signature_in_an_object_of_another_image(target: str, machine: Machine, tmp_path: Path) -> None:
    machine.add(A)
    plain = Repository(machine.top, B)
    name = {"in an object": f"/{C[:2]}/{C[2:]}", "outside": "/../../../outside", "too long": f"/{C[:2]}/{C[2:]}"}[target]
    content = b"x" * 20000 if target == "too long" else b"signature"
    for path in (machine.top / f"composefs/objects/{C[:2]}/{C[2:]}", tmp_path / "outside"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    boot = tmp_path / "made/root/boot/bootseal"
    boot.mkdir(parents=True)
    (boot / f"{A}.sig").write_bytes(b"0" * 300)
    os.setxattr(boot / f"{A}.sig", "trusted.overlay.redirect", name.encode())
    plain.object.write_bytes(make(tmp_path / "made", "--chunksize=4096").read_bytes())
    found, unusable = carried(machine)
    expected = {"in an object": [b"signature"], "outside": [], "too long": [b"x" * 9]}[target]
    assert [one.signature[:9] for one in found] == expected
    assert len(unusable) == (2 if target == "outside" else 1)


# --- the kernel's configuration, which is in the image


@pytest.mark.root
@pytest.mark.parametrize("place", ["inline", "object", "none"])
def test_configuration_of_the_kernel(place: str, machine: Machine, tmp_path: Path) -> None:
    path = machine.add(A)
    modules = tmp_path / "made/root/usr/lib/modules/6.12"
    modules.mkdir(parents=True)
    (tmp_path / "made/root/usr/lib/modules/extra").mkdir()
    if place != "none":
        (modules / "config").write_bytes(b"CONFIG_X=y")
    if place == "object":
        os.setxattr(modules / "config", "trusted.overlay.redirect", f"/{C[:2]}/{C[2:]}".encode())
    large = machine.top / f"composefs/objects/{C[:2]}/{C[2:]}"
    large.parent.mkdir()
    large.write_bytes(b"CONFIG_LARGE=y\n")
    chunks = ["--chunksize=4096"] if place == "object" else []
    (machine.top / f"composefs/objects/{A[:2]}/{A[2:]}").write_bytes(make(tmp_path / "made", *chunks).read_bytes())
    found = composefs.read_kernel_config(path, str(machine.top), 12)
    name = f"usr/lib/modules/6.12/config of the image {A[:12]}"
    assert found == {"inline": (name, b"CONFIG_X=y"), "object": (name, b"CONFIG_LARGE"), "none": ("", b"")}[place]


def test_no_configuration_in_an_image_that_is_none(machine: Machine) -> None:
    assert composefs.read_kernel_config(machine.add(A), str(machine.top), 12) == ("", b"")


# --- where a pair belongs


def test_pair_of_an_image_in_a_repository_is_with_its_state(machine: Machine, tmp_path: Path) -> None:
    """Anything but a link in composefs/images ends garbage collection with an error."""
    machine.add(A)
    assert composefs.pair_of(f"{machine.top}/composefs/images/{A}") == f"{machine.top}/state/deploy/{A}/bootseal"
    assert composefs.pair_of("image.cfs") == "image.cfs"
    (tmp_path / "images").mkdir()
    assert composefs.pair_of(f"{tmp_path}/images/{A}") == f"{tmp_path}/images/{A}"
    for path in ("images/refs/oci/x", f"objects/{A[:2]}/{A[2:]}", "images/x"):
        with pytest.raises(Failure, match="it is in a repository"):
            composefs.pair_of(f"{machine.top}/composefs/{path}")
    (machine.top / f"composefs/images/{B}").symlink_to("x")
    with pytest.raises(Failure, match=r"no .*/state/deploy/b"):
        composefs.pair_of(f"{machine.top}/composefs/images/{B}")


def test_orphans(machine: Machine) -> None:
    machine.add(A)
    for name in (f".bootseal-{A}.digest.new", f".bootseal-{B}.digest.new"):
        (machine.top / "state/deploy" / name).touch()
    assert deployments.find_orphans(str(machine.top)) == [f"state/deploy/.bootseal-{B}.digest.new"]


def test_what_bootseal_puts_beside_a_state_is_no_new_deployment(machine: Machine) -> None:
    """Otherwise each attempt to place a bad signature would cause the next one."""
    machine.add(A)
    before = deployments.stamp(str(machine.top))
    (machine.top / f"state/deploy/.bootseal-{A}.digest.new").touch()
    assert deployments.stamp(str(machine.top)) == before
    machine.add(B)
    assert deployments.stamp(str(machine.top)) != before


# --- an entry that selects several images


def test_the_next_boot_tries_all_images_of_its_entry(machine: Machine) -> None:
    machine.add(A, 1, more=f" composefs={B}")
    machine.add(B)
    machine.add(C, 0)
    assert [one.path for one in deployments.choose_next(str(machine.top))] == [f"state/deploy/{A}", f"state/deploy/{B}"]


VERDICTS = {
    "the first": (("verified", "no-digest"), 0, 0),
    "the second": (("no-digest", "verified"), 1, 1),
    "none": (("no-image", "bad-signature"), 1, 1),
    "not sealed yet": (("incomplete", "verified"), 0, 0),
}


@pytest.mark.parametrize(("names", "chosen", "notes"), VERDICTS.values(), ids=VERDICTS)
def test_verify_judges_as_the_boot_does(
    names: tuple[str, ...], chosen: int, notes: int, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.add(A, 1, more=f" composefs={B}")
    machine.add(B)
    tried = deployments.choose_next(str(machine.top))
    records = {
        one.path: {"verdict": name, "exit_status": 0 if name == "verified" else 77, "message": name}
        for one, name in zip(tried, names, strict=True)
    }
    checker: Any = SimpleNamespace(check=lambda deployed: records[deployed.path])
    assert verify._check_next(checker, tried) == (tried[chosen], records[tried[chosen].path])
    assert capsys.readouterr().err.count("another image would be refused") == notes


# --- the commands


def test_signing_in_a_repository(machine: Machine) -> None:
    """The name of the image tells the algorithm, and the files lie with its state."""
    machine.add(A)
    image = machine.top / f"composefs/images/{A}"
    said = json.loads(signed(image, "--key", key("p256"), "--cert", certificate("p256"), "--json=short"))
    pair = f"{machine.top}/state/deploy/{A}/bootseal"
    assert said["files"] == [f"{pair}.digest", f"{pair}.sig"]
    assert said["digest"].startswith("sha512:")
    assert [path.name for path in image.parent.iterdir()] == [A]
    result = bootseal("verify", f"--image={image}", f"--cert={certificate('p256')}")
    assert result.returncode == 0, result.stderr


def test_a_signature_of_the_image_itself(machine: Machine, tmp_path: Path) -> None:
    """As the sealing specification of composefs-rs has it: with certificates inside, over the image's own digest."""
    machine.add(A)
    image = machine.top / f"composefs/images/{A}"
    (tmp_path / "tbs").write_bytes(imagedigest.compute(str(image), "sha512", "").formatted())
    made = openssl(tmp_path / "image", "-noattr")
    options = (f"--image={image}", f"--cert={certificate('p256')}")
    result = bootseal("import", made, *options, "--json=short")
    said = json.loads(result.stdout)
    assert (result.returncode, said["form"]) == (0, "image")
    assert "the boot accepts it with [Policy] Signed=image" in result.stderr
    assert bootseal("verify", *options, "--signed=image").returncode == 0
    refused = bootseal("verify", *options)
    assert (refused.returncode, "over the image's own digest" in refused.stderr) == (77, True)
