# SPDX-License-Identifier: LGPL-2.1-or-later
"""deployments.py: finding deployments as ostree and the boot loader know them, and nothing outside the physical root."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal.errors import Refusal
from bootseal.host import deployments, inside
from bootseal.host.deployed import Deployed
from bootseal.host.initrd import reader
from bootseal.host.layouts import ostree
from bootseal.host.output import Failure
from bootseal.layouts import ostreebooted
from bootseal.linux import files
from bootseal.values import Deployment
from unit.support import policy

from .initrds import cpio_archive, pe_file
from .program import bootseal
from .roots import (
    EVIL,
    A,
    B,
    C,
    Root,
    failing,
    fill,
    link_to_fifo,
    make_initrd,
    set_booted,
    stage,
)


def test_in_boot_order(root: Root) -> None:
    paths = {version: root.add(checksum, version) for checksum, version in ((A, 1), (B, 10), (C, 9))}
    assert [found.path for found in root.found()] == [paths[10], paths[9], paths[1]]
    assert [found.state for found in root.found()] == ["pending", "", ""]


def test_booted_and_pending(root: Root) -> None:
    old, new = root.add(A, 1), root.add(B, 2)
    set_booted(root, old)
    assert [(found.path, found.state) for found in root.found()] == [(new, "pending"), (old, "booted")]
    set_booted(root, new)
    assert [(found.path, found.state) for found in root.found()] == [(new, "booted"), (old, "")]


def test_staged_comes_first_and_needs_no_etc(root: Root) -> None:
    old, new = root.add(A, 1), root.add(B, etc=False)
    stage(root, B)
    assert [(found.path, found.state) for found in root.found()] == [(new, "staged"), (old, "")]
    opened = locate(root.found()[0], root)
    assert (opened.checksum, opened.stateroot) == (B, "os")
    root.add(C, 3, etc=False)
    with pytest.raises(Refusal):  # a deployment that the boot loader knows must have its /etc
        locate(next(f for f in root.found() if C in f.path), root)


def locate(deployed: Deployed, root: Root) -> Deployment:
    return deployments.locate(deployed, deployments.parse_request(deployed), policy(), str(root.top))


def test_kernel_arguments_of_a_staged_deployment(root: Root) -> None:
    path = root.add(B, etc=False)
    stage(root, B, "rd.bootseal.typo")
    found = root.found()[0]
    assert found.options == f"quiet rd.bootseal.typo ostree=/{path}"
    with pytest.raises(Refusal, match="bad-command-line"):
        deployments.parse_request(found)


def test_staged_is_read_at_any_size(root: Root) -> None:
    for words in (0, 1, 50, 5000):
        stage(root, B, *["word" * 5] * words)
        assert (deployments.find_staged(str(root.top)) or pytest.fail()).options.count("word" * 5) == words  # type: ignore[union-attr]


def test_every_truncation_of_staged_is_told(root: Root) -> None:
    stage(root, B)
    whole = Path(ostree.STAGED).read_bytes()
    for size in range(len(whole)):
        Path(ostree.STAGED).write_bytes(whole[:size])
        with pytest.raises(Failure):
            deployments.find_staged(str(root.top))


def test_staged_that_cannot_be_read_is_no_empty_answer(root: Root) -> None:
    root.add(A, 1)
    stage(root, B)
    Path(ostree.STAGED).write_bytes(b"another form")
    with pytest.raises(Failure, match="unknown format"):
        root.found()


def test_without_boot_entry_last(root: Root) -> None:
    with_entry = root.add(B, 1)
    without = root.add(A)
    assert [found.path for found in root.found()] == [with_entry, without]


@pytest.mark.parametrize("version", ["9" * 5000, "\u00b2", "-1", "x"], ids=["large", "superscript", "negative", "text"])
def test_an_invalid_version_sorts_last(root: Root, version: str) -> None:
    first = root.add(A, 1)
    second = root.add(B, 0)
    entry = root.top / "boot/loader/entries/ostree-0.conf"
    entry.write_text(entry.read_text().replace("version 0", f"version {version}"))
    assert [found.path for found in root.found()] == [first, second]


def test_an_entry_that_is_no_file(root: Root) -> None:
    first = root.add(A, 1)
    os.mkfifo(root.top / "boot/loader/entries/fifo.conf")
    (root.top / "boot/loader/entries/device.conf").symlink_to("/dev/zero")
    (root.top / "boot/loader/entries/directory.conf").mkdir()
    assert [found.path for found in root.found()] == [first]


def test_an_entry_that_leads_nowhere_is_told(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    root.add(A, 1)
    (root.top / "ostree/boot.1/os" / A / "0").unlink()
    assert [found.options for found in root.found()] == [None]
    assert f"leads to no deployment: ostree=/ostree/boot.1/os/{A}/0" in capsys.readouterr().err


# Directories that cannot be skipped: without them, a list could miss the deployment that boots next.
LISTED = {
    "ostree/deploy itself": "ostree/deploy",
    "stateroots": ".",
    "deployments": "os/deploy",
    "boot entries": "loader/entries",
    "a boot entry": "ostree-1.conf",
    "its link": f"{A}/0",
    "UKIs": "EFI/Linux",
    "a UKI": "a.efi",
}


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADMSG, errno.EUCLEAN], ids=errno.errorcode.get)
@pytest.mark.parametrize("place", LISTED.values(), ids=LISTED)
def test_a_failed_disk_is_no_shorter_list(root: Root, place: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    root.add(A, 1)
    (root.top / "boot/EFI/Linux").mkdir(parents=True)
    (root.top / "boot/EFI/Linux/a.efi").write_bytes(b"")
    root.found()
    failing(monkeypatch, files, "openat2", place, number)
    with pytest.raises(Failure, match=errno.errorcode[number]) as caught:
        root.found()
    assert caught.value.status == 74


@pytest.mark.parametrize(
    ("number", "status", "hint"),
    [(errno.ENOENT, 66, "give the physical root with --sysroot="), (errno.EACCES, 74, "run as root"), (errno.EIO, 74, "")],
)
def test_a_physical_root_that_cannot_be_opened(
    root: Root, number: int, status: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, files, "openat2", "ostree/deploy", number)
    with pytest.raises(Failure) as caught:
        root.found()
    assert (caught.value.status, caught.value.hint) == (status, hint)


def test_an_entry_that_may_not_be_followed_is_told(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root.add(A, 1)
    failing(monkeypatch, files, "open_directory", f"{A}/0", errno.EACCES)
    assert len(root.found()) == 1
    assert "Permission denied (EACCES)" in capsys.readouterr().err


def test_uki(root: Root) -> None:
    path = root.add(A, 1)
    (root.top / "boot/loader/entries/ostree-1.conf").unlink()
    directory = root.top / "boot/EFI/Linux"
    directory.mkdir(parents=True)
    initrd = cpio_archive({"etc/x": b"x"})
    (directory / "os.efi").write_bytes(pe_file({".cmdline": f"ostree=/ostree/boot.1/os/{A}/0\0".encode(), ".initrd": initrd}))
    found = root.found()[0]
    assert (found.path, *map(str, found.initrds)) == (path, str(directory / "os.efi"))
    assert found.options == f"ostree=/ostree/boot.1/os/{A}/0"


@pytest.mark.parametrize("line", ["/ostree/os-1/initrd.img", "/boot/ostree/os-1/initrd.img"])
def test_initrd_of_the_boot_entry(root: Root, line: str) -> None:
    root.add(A, 1, initrd=line)
    assert list(map(str, root.found()[0].initrds)) == [str(root.top / "boot/ostree/os-1/initrd.img")]


@pytest.mark.parametrize("name", ["initramfs.img", "initrd", "initrd.img", "os.efi"])
def test_initrd_of_a_deployment_without_entry(root: Root, name: str) -> None:
    path = root.add(A)
    found = root.found()[0]
    assert deployments.find_initrds(found, str(root.top)) == ()
    file = root.top / path / "usr/lib/modules/6.12" / name
    file.touch()
    assert list(map(str, deployments.find_initrds(found, str(root.top)))) == [str(file)]


CHOICES: dict[str | None, str | None] = {
    None: B, "bbbb": B, B: B, f"{B}.0": B, f"os/{'c' * 12}": C, "pending": B, "booted": C, "aaaa": A, "aaa": None, "dddd": None,
    f"{B}.1": None,
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), CHOICES.items(), ids=str)
def test_choose(root: Root, name: str | None, expected: str | None) -> None:
    for checksum, version in ((A, 1), (B, 3), (C, 2)):
        root.add(checksum, version)
    set_booted(root, f"ostree/deploy/os/deploy/{C}.0")
    if expected is None:
        with pytest.raises(Failure, match="Failed to find the deployment"):
            deployments.choose(str(root.top), name)
    else:
        assert deployments.choose(str(root.top), name).path.split("/")[-1].split(".")[0] == expected


def test_ambiguous(root: Root) -> None:
    root.add("ab" * 32, 1)
    root.add("ab" * 31 + "cd", 2)
    with pytest.raises(Failure, match="2 match"):
        deployments.choose(str(root.top), "abab")


def test_a_stateroot_whose_name_could_say_something(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    """List none of its deployments, and report a boot entry that leads there with the boot's reason."""
    kept, path = root.add(A, 1), root.add(B, 2)
    (root.top / f"ostree/deploy/{EVIL}/deploy").mkdir(parents=True)
    (root.top / path).rename(root.top / f"ostree/deploy/{EVIL}/deploy/{B}.0")
    link = root.top / "ostree/boot.1/os" / B / "0"
    link.unlink()
    link.symlink_to(f"/ostree/deploy/{EVIL}/deploy/{B}.0")
    assert [found.path for found in root.found()] == [kept]
    said = capsys.readouterr().err
    assert "name of the stateroot" in said
    assert EVIL not in said


@pytest.mark.parametrize("name", [f"{B}.0/etc", f"{B}.0.origin", f"{B}.0000000000", f"{B}.\u0661"])
def test_what_the_boot_takes_for_no_deployment_is_none(root: Root, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    root.add(A, 1)
    (root.top / f"ostree/deploy/os/deploy/{name}").mkdir(parents=True)
    link = root.top / "ostree/boot.1/os" / A / "0"
    link.unlink()
    link.symlink_to(f"/ostree/deploy/os/deploy/{name}")
    assert {(found.path, found.options) for found in root.found()} <= {
        (f"ostree/deploy/os/deploy/{checksum}.0", None) for checksum in (A, B)
    }
    assert "leads to no deployment" in capsys.readouterr().err


def test_the_booted_inode_is_read_back(root: Root) -> None:
    path, other = root.add(A, 1), root.add(B, 2)
    set_booted(root, path)
    assert ostree.is_booted(path, str(root.top))
    assert not ostree.is_booted(other, str(root.top))
    for content in (b"", struct.pack("=QQ", 1, 2)):
        Path(ostreebooted.PATH).write_bytes(content)
        assert not ostree.is_booted(path, str(root.top))


@pytest.mark.parametrize("command", [[], ["--all"]], ids=["one", "all"])
def test_without_a_deployment_there_is_no_verdict(root: Root, command: list[str]) -> None:
    (root.top / "ostree/deploy").mkdir(parents=True, exist_ok=True)
    result = bootseal("verify", f"--sysroot={root.top}", *command)
    assert (result.returncode, result.stdout) == (66, "")
    assert "Failed to find a deployment below" in result.stderr


def test_what_no_boot_entry_names_does_not_boot_next(root: Root) -> None:
    root.add(A)
    (only,) = deployments.list_all(str(root.top))
    assert (only.state, only.options) == ("", None)
    assert deployments.choose(str(root.top), None) == only
    root.add(B)
    with pytest.raises(Failure, match="no boot entry names one") as caught:
        deployments.choose(str(root.top), None)
    assert f"{A[:12]}.0" in caught.value.hint
    root.add("c" * 64, 1)
    assert deployments.choose(str(root.top), None).path.split("/")[-1].split(".")[0] == "c" * 64
    assert [one.state for one in deployments.list_all(str(root.top))] == ["pending", "", ""]


INITRDS: dict[str, Callable[[Path, Path], object]] = {
    "linked file": lambda initrd, outside: initrd.symlink_to(outside / "initrd.img"),
    "linked device": lambda initrd, _: initrd.symlink_to("/dev/zero"),
    "fifo": lambda initrd, _: os.mkfifo(initrd),
    "linked fifo": link_to_fifo,
}


@pytest.mark.parametrize("make", INITRDS.values(), ids=INITRDS)
def test_an_initrd_is_a_file_of_boot(make: Callable[[Path, Path], object], root: Root, tree: Path, outside: Path) -> None:
    assert tree
    (outside / "initrd.img").write_bytes(make_initrd())
    (root.top / "boot/initrd.img").unlink()
    make(root.top / "boot/initrd.img", outside)
    result = bootseal("verify", f"--sysroot={root.top}")
    assert result.returncode in (65, 74)
    assert result.stdout == ""
    assert result.stderr.startswith(f"bootseal: Failed to read the initrd {root.top}/boot/initrd.img: "), result.stderr


@pytest.mark.parametrize("start", ["/../../", "/boot/../../", "/..//../", "//../../"])
def test_an_entry_names_no_initrd_outside_boot(start: str, root: Root, outside: Path) -> None:
    (outside / "initrd.img").write_bytes(make_initrd())
    root.add(A, 1, initrd=f"{start}outside/initrd.img")
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, result.stdout) == (74, "")
    assert "No such file or directory" in result.stderr


@pytest.mark.parametrize("part", ["usr", "usr/lib", "usr/lib/modules", "usr/lib/modules/6.12", "usr/lib/modules/6.12/initrd"])
def test_the_initrd_beside_the_kernel_is_the_deployments_own(part: str, root: Root, outside: Path) -> None:
    deployment = root.top / root.add(A)
    real = outside / "usr/lib/modules/6.12/initrd"
    real.parent.mkdir(parents=True)
    real.write_bytes(make_initrd())
    (deployment / part).rename(outside / "old") if (deployment / part).exists() else None
    (deployment / part).symlink_to(outside / part)
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, result.stdout) == (74, ""), result.stdout
    assert "Failed to find the initrd" in result.stderr or "No such file or directory" in result.stderr


def test_the_initrd_beside_the_kernel_may_be_linked_within(root: Root) -> None:
    deployment = root.top / root.add(A)
    (deployment / "usr/lib/ostree-boot").mkdir()
    (deployment / "usr/lib/ostree-boot/initrd").write_bytes(cpio_archive({"etc/x": b""}))
    (deployment / "usr/lib/modules/6.12/initrd").symlink_to("../../ostree-boot/initrd")
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, "bootseal is not in this initrd" in result.stderr) == (78, True)


@pytest.mark.parametrize("linked", ["boot", "boot/loader", "boot/loader/entries", "boot/loader/entries/ostree-1.conf"])
def test_boot_entries_outside_are_not_read(linked: str, root: Root, outside: Path) -> None:
    root.add(A, 1)
    (root.top / linked).rename(outside / "moved")
    (root.top / linked).symlink_to(outside / "moved")
    assert [found.options for found in root.found()] == [None]


def test_a_loader_directory_that_is_linked_as_ostree_does(root: Root) -> None:
    root.add(A, 1)
    (root.top / "boot/loader").rename(root.top / "boot/loader.0")
    (root.top / "boot/loader").symlink_to("loader.0")
    (root.top / "boot/boot").symlink_to(".")
    assert [found.options is None for found in root.found()] == [False]


def test_where_boot_is(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the /boot of the running system only if the physical root is that of the running system."""
    top = str(root.top)
    (root.top.parent / "ostree-booted").touch()
    monkeypatch.setattr(deployments, "_BOOT_PLACES", ("boot", "efi", "usr"))
    boots = deployments.list_boots(top)
    assert boots[0] == (top, "boot")
    assert ("/", "usr") in boots
    assert deployments._find_entries(boots) == ((top, "boot"),)
    (root.top.parent / "ostree-booted").unlink()
    assert deployments.list_boots(top) == ((top, "boot"),)


def test_entries_of_the_running_system_count_if_the_disk_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boots = ((str(tmp_path), "boot"), ("/", str(tmp_path / "esp").lstrip("/")))
    for root, place in boots:
        Path(root, place, "loader").mkdir(parents=True)
    assert deployments._find_entries(boots) == boots[:1]
    (tmp_path / "boot/loader").rmdir()
    assert deployments._find_entries(boots) == boots[1:]


def test_a_place_of_the_boot_loader_under_two_names_is_one(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "_BOOT_PLACES", ("boot", "boot/../boot"))
    assert deployments.list_boots(str(root.top)) == ((str(root.top), "boot"),)


def _uki(root: Root, directory: Path) -> None:
    root.add(A, 1)
    (root.top / "boot/loader/entries/ostree-1.conf").unlink()
    directory.mkdir(parents=True)
    (directory / "os.efi").write_bytes(
        pe_file({".cmdline": f"ostree=/ostree/boot.1/os/{A}/0".encode(), ".initrd": make_initrd()})
    )


@pytest.mark.parametrize("place", deployments._BOOT_PLACES)
def test_a_unified_kernel_image(place: str, root: Root) -> None:
    _uki(root, root.top / place / "EFI/Linux")
    (found,) = root.found()
    assert list(map(str, found.initrds)) == [f"{root.top}/{place}/EFI/Linux/os.efi"]


@pytest.mark.parametrize("linked", ["efi", "efi/EFI", "efi/EFI/Linux", "efi/EFI/Linux/os.efi"])
def test_unified_kernel_images_outside_are_not_read(linked: str, root: Root, outside: Path) -> None:
    _uki(root, root.top / "efi/EFI/Linux")
    (root.top / linked).rename(outside / "moved")
    (root.top / linked).symlink_to(outside / "moved")
    assert [found.options for found in root.found()] == [None]


@pytest.mark.parametrize("linked", ["ostree", "ostree/deploy"])
def test_a_linked_ostree_is_none(linked: str, root: Root, outside: Path) -> None:
    root.add(A)
    (root.top / linked).rename(outside / "moved")
    (root.top / linked).symlink_to(outside / "moved")
    with pytest.raises(Failure, match="neither ostree/deploy nor state/deploy below"):
        root.found()


@pytest.mark.parametrize("linked", ["ostree/deploy/os", "ostree/deploy/os/deploy"])
def test_deployments_outside_are_not_listed(linked: str, root: Root, outside: Path) -> None:
    root.add(A)
    (root.top / linked).rename(outside / "moved")
    (root.top / linked).symlink_to(outside / "moved")
    assert root.found() == []


FULL = {
    "entries": ("boot/loader/entries", ".conf"),
    "stateroots": ("ostree/deploy", ""),
    "deployments": ("ostree/deploy/os/deploy", ""),
    "images": ("efi/EFI/Linux", ".efi"),
    "kernels": (f"ostree/deploy/os/deploy/{A}.0/usr/lib/modules", ""),
    "files of a kernel": (f"ostree/deploy/os/deploy/{A}.0/usr/lib/modules/6.12", ""),
}


@pytest.mark.parametrize(("directory", "suffix"), FULL.values(), ids=FULL)
def test_a_full_directory_is_a_refusal_and_no_wait(directory: str, suffix: str, root: Root) -> None:
    root.add(A)
    fill(root.top / directory, inside.MAX_NAMES, suffix)
    (root.top / directory / "one more").touch()
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, result.stdout) == (65, "")
    first, second = result.stderr.splitlines()
    assert first == f"bootseal: Failed to list {root.top / directory}: more than {inside.MAX_NAMES} names"
    assert second.startswith("bootseal: hint: ")


def test_a_full_directory_of_one_deployment_does_not_end_the_table(root: Root, tree: Path) -> None:
    assert tree
    other = root.top / root.add(B)
    fill(other / "usr/lib/modules", inside.MAX_NAMES)
    result = bootseal("verify", "--all", f"--sysroot={root.top}")
    first, second = (line.split() for line in result.stdout.splitlines()[1:])
    assert first[2] in ("incomplete", "image-unsealed")  # as far as this machine comes
    assert second[1:] == ["unknown"]
    assert "more than 1024 names" in result.stderr


@pytest.mark.parametrize("end", "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_only_newlines_end_a_line_of_an_entry(end: str, root: Root) -> None:
    root.add(A, 1)
    entry = root.top / "boot/loader/entries/ostree-1.conf"
    entry.write_bytes(f"title x{end}options ostree=/ostree/boot.1/os/{A}/0\nversion 1\n".encode())
    assert [found.options for found in root.found()] == [None]


@pytest.mark.parametrize("blank", [" ", "\t", "  \t"])
def test_an_entry_with_other_blanks_and_line_ends(blank: str, root: Root) -> None:
    root.add(A, 1, initrd="/i")
    entry = root.top / "boot/loader/entries/ostree-1.conf"
    options = f"a\u00a0b{blank}ostree=/ostree/boot.1/os/{A}/0"
    entry.write_bytes(f"version{blank}1\r\n\r\n{blank}options{blank}{options}\r\ninitrd{blank}/i /j\n".encode())
    (found,) = root.found()
    assert found.options == options
    assert [file.path for file in found.initrds] == ["i", "j"]


@pytest.mark.parametrize("which", ["staged", "booted"])
def test_a_fifo_in_run(which: str, root: Root) -> None:
    root.add(A, 1)
    (root.top.parent / "ostree-booted").touch()
    path = Path(ostree.STAGED if which == "staged" else ostreebooted.PATH)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if which == "booted":
        assert [found.state for found in root.found()] == ["pending"]
    else:
        with pytest.raises(Failure, match="unknown format"):
            root.found()


@pytest.mark.parametrize("kind", ["directory", "linked"])
def test_the_gate_stays_within_the_deployment(kind: str, root: Root, outside: Path) -> None:
    """A staged deployment lacks a boot entry. The gate looks for its initrd beside its kernel, without following links out."""
    path = root.top / root.add(B, etc=False)
    stage(root, B)
    modules = path / "usr/lib/modules"
    if kind == "linked":
        modules.rename(outside / "modules")
        modules.symlink_to(outside / "modules")
        (outside / "modules/6.12/initrd").write_bytes(make_initrd())
    else:
        (modules / "6.12/initrd").write_bytes(make_initrd())
    found = deployments.find_staged(str(root.top))
    assert found
    assert len(deployments.find_initrds(found, str(root.top))) == (kind == "directory")


def test_images_that_cannot_be_read_are_a_failure(root: Root) -> None:
    root.add("a" * 64, 1)
    (root.top / "boot/EFI/Linux").mkdir(parents=True)
    for number in range(reader.MAX_FILES + 1):
        (root.top / f"boot/EFI/Linux/{number}.efi").touch()
    with pytest.raises(Failure, match="boot/EFI/Linux: more than 64 files") as caught:
        deployments.list_all(str(root.top))
    assert "remove the images" in caught.value.hint
