# SPDX-License-Identifier: LGPL-2.1-or-later
"""No link, FIFO, device, huge file or full directory of a disk leads the program astray: host/inside.py and its users."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import guest_cpio
import pytest

from bootseal.host import cli, deviations, dryrun, imagedigest, inside, objects
from bootseal.host import deployments as sysroots
from bootseal.host.commands import verify
from bootseal.host.live import drift
from bootseal.host.output import Failure
from bootseal.linux import files
from bootseal.record import parse
from bootseal.stages import ostreebooted
from unit.support import policy, raising, refusal, run_python

from .program import bootseal, certificate, key, signed
from .test_initrdfile import _pe
from .test_sysroot import A, B, Root, _initrd, _stage
from .test_sysroot import root as root

_NOT_FOUND = r"No such file|symbolic links|Not a directory"
OPTIONS = "CONFIG_FS_VERITY=y\nCONFIG_EROFS_FS=y\nCONFIG_OVERLAY_FS=y\n"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the physical root, to which links of the disk lead."""
    path = tmp_path / "outside"
    path.mkdir()
    return path


@pytest.fixture
def tree(root: Root) -> Path:
    """A deployment with a boot entry, an initrd and a signature."""
    path = root.top / root.add(A, 1, initrd="/initrd.img")
    root.set_initrd(_initrd())
    signed(path / ".ostree.cfs", "--key", key("p256"), "--cert", certificate("p256"))
    return path


def _linked_fifo(path: Path, outside: Path) -> None:
    os.mkfifo(outside / "fifo")
    path.symlink_to(outside / "fifo")


def _linked_parent(path: Path, outside: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(outside)


def _huge(path: Path, _: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _fill(directory: Path, count: int, suffix: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (directory / f"{number}{suffix}").touch()


# --- the helper itself


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root/place/a").mkdir(parents=True)
    (tmp_path / "root/place/a/file").write_bytes(b"content")
    (tmp_path / "root/other").write_bytes(b"other")
    with inside.opened(str(tmp_path / "root"), "place") as fd:
        yield fd


@pytest.mark.parametrize("target", ["/a/file", "a/file", "../../../a/file"])
def test_links_within_the_place_are_followed(target: str, place: int) -> None:
    os.symlink(target, "link", dir_fd=place)
    assert inside.read(place, "link", 4) == b"cont"


@pytest.mark.parametrize("target", ["../other", "/proc/self/fd/0", "/proc/kmsg", "/dev/zero", "/etc/passwd", "link"])
def test_links_out_of_the_place_are_not(target: str, place: int) -> None:
    os.symlink(target, "link", dir_fd=place)
    for path in ("link", "link/x"):
        with pytest.raises(OSError, match=_NOT_FOUND):
            inside.read(place, path, 4)
        assert inside.listed(place, path) == []


@pytest.mark.parametrize("path", ["link", "link/a", "nowhere", "other", ""])
def test_no_link_leads_to_a_place(path: str, place: int, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to("place")
    assert place
    with pytest.raises(OSError, match=_NOT_FOUND):
        inside.place(str(tmp_path / "root"), path)


KINDS: dict[str, Callable[[Path], object]] = {
    "directory": os.mkdir,
    "fifo": os.mkfifo,
    "device": lambda path: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5)),  # /dev/zero
}


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files(kind: str, place: int, tmp_path: Path) -> None:
    path = tmp_path / "root/place/x"
    KINDS[kind](path)
    with pytest.raises(files.NotRegular):
        inside.read(place, "x", 4)
    with pytest.raises(OSError, match="symbolic links"):
        objects.open_file("x", place)
    assert inside.listed(place, "x") == []


def test_a_full_directory(place: int, tmp_path: Path) -> None:
    _fill(tmp_path / "root/place/a", inside.MAX_NAMES - 1)
    assert len(inside.listed(place, "a")) == inside.MAX_NAMES
    assert inside.listed(place, "a", "file") == ["file"]
    (tmp_path / "root/place/a/one more").touch()
    with pytest.raises(Failure, match=f"/place/a: more than {inside.MAX_NAMES} names"):
        inside.listed(place, "a", "file")


def test_a_file_that_the_user_names_may_be_anywhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with inside.File("", "", str(tmp_path / "link")).opened() as fd:
        assert os.read(fd, 4) == b"cont"


def test_no_descriptor_is_left(place: int, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a", "a/file", "nowhere"):
        inside.listed(place, path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "scandir", raising(errno.EIO))
            with pytest.raises(Failure, match="EIO"):
                inside.listed(place, "a")
    with inside.File(str(tmp_path / "root"), "place", "a/file").opened():
        pass
    assert len(os.listdir("/proc/self/fd")) == before


MOUNTS = """
import os, sys
from bootseal.host import inside
from bootseal.linux import mountapi, syscall
top = sys.argv[1]
syscall.unshare(mountapi.CLONE_NEWNS)
syscall.mount(None, "/", None, mountapi.MS_REC | mountapi.MS_PRIVATE)
for place in ("boot", "boot/efi"):
    os.makedirs(f"{top}/{place}", exist_ok=True)
    syscall.mount("tmpfs", f"{top}/{place}", "tmpfs", 0)
    os.makedirs(f"{top}/{place}/EFI/Linux")
    open(f"{top}/{place}/EFI/Linux/x.efi", "w").write(place)
for place, path in (("boot", "EFI/Linux/x.efi"), ("boot/efi", "EFI/Linux/x.efi"), ("boot", "efi/EFI/Linux/x.efi")):
    try:
        with inside.opened(top, place) as fd: print(inside.read(fd, path, 9).decode(), inside.listed(fd, os.path.dirname(path)))
    except OSError as error: print(error.strerror)
"""


@pytest.mark.root
def test_a_place_may_be_a_mount_point_and_what_is_below_it_may_not(tmp_path: Path) -> None:
    said = run_python(MOUNTS, str(tmp_path)).splitlines()
    assert said == ["boot ['x.efi']", "boot/efi ['x.efi']", "Invalid cross-device link"]


# --- the kernel's configuration


CONFIGS: dict[str, Callable[[Path, Path], object]] = {
    "linked file": lambda config, outside: config.symlink_to(outside / "config"),
    "linked directory": _linked_parent,
    "fifo": lambda config, _: os.mkfifo(config),
    "linked fifo": _linked_fifo,
}


@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
def test_the_configuration_of_the_kernel_is_the_deployments_own(
    make: Callable[[Path, Path], object], root: Root, tree: Path, outside: Path
) -> None:
    (outside / "config").write_text(OPTIONS)
    make(tree / "usr/lib/modules/6.12/config", outside)
    assert dryrun._kernel_config(root.found()[0], str(root.top)) == ("", b"")


def test_a_configuration_within_the_deployment_may_be_linked(root: Root, tree: Path) -> None:
    (tree / "usr/lib/ostree-boot").mkdir()
    (tree / "usr/lib/ostree-boot/config-6.12").write_text(OPTIONS)
    path = tree / "usr/lib/modules/6.12/config"
    found = root.found()[0]
    assert dryrun._kernel_config(found, str(root.top))[0] == str(tree / "usr/lib/ostree-boot/config-6.12")
    path.symlink_to("/usr/lib/ostree-boot/config-6.12")
    assert dryrun._kernel_config(found, str(root.top)) == (str(path), OPTIONS.encode())


def test_a_configuration_without_end(root: Root, tree: Path) -> None:
    with (tree / "usr/lib/modules/6.12/config").open("w") as file:
        file.write(OPTIONS)
        file.truncate(1 << 40)
    assert len(dryrun._kernel_config(root.found()[0], str(root.top))[1]) == dryrun._CONFIG_SIZE


@pytest.mark.parametrize("end", "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_only_newlines_end_a_line_of_the_configuration(end: str, root: Root, tree: Path) -> None:
    (tree / "usr/lib/modules/6.12/config").write_bytes(f"# x{end}{OPTIONS}".encode())
    refused = refusal(dryrun._check_kernel, root.found()[0], str(root.top), policy(), [])
    assert refused.what == "the kernel lacks CONFIG_FS_VERITY"


# --- initrds


INITRDS: dict[str, Callable[[Path, Path], object]] = {
    "linked file": lambda initrd, outside: initrd.symlink_to(outside / "initrd.img"),
    "linked device": lambda initrd, _: initrd.symlink_to("/dev/zero"),
    "fifo": lambda initrd, _: os.mkfifo(initrd),
    "linked fifo": _linked_fifo,
}


@pytest.mark.parametrize("make", INITRDS.values(), ids=INITRDS)
def test_an_initrd_is_a_file_of_boot(make: Callable[[Path, Path], object], root: Root, tree: Path, outside: Path) -> None:
    assert tree
    (outside / "initrd.img").write_bytes(_initrd())
    (root.top / "boot/initrd.img").unlink()
    make(root.top / "boot/initrd.img", outside)
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, result.stdout) == (66, ""), result.stdout
    assert result.stderr.startswith(f"bootseal: Failed to read the initrd {root.top}/boot/initrd.img: "), result.stderr


@pytest.mark.parametrize("start", ["/../../", "/boot/../../", "/..//../", "//../../"])
def test_an_entry_names_no_initrd_outside_boot(start: str, root: Root, outside: Path) -> None:
    (outside / "initrd.img").write_bytes(_initrd())
    root.add(A, 1, initrd=f"{start}outside/initrd.img")
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, result.stdout) == (66, "")
    assert "No such file or directory" in result.stderr


@pytest.mark.parametrize("part", ["usr", "usr/lib", "usr/lib/modules", "usr/lib/modules/6.12", "usr/lib/modules/6.12/initrd"])
def test_the_initrd_beside_the_kernel_is_the_deployments_own(part: str, root: Root, outside: Path) -> None:
    deployment = root.top / root.add(A)
    real = outside / "usr/lib/modules/6.12/initrd"
    real.parent.mkdir(parents=True)
    real.write_bytes(_initrd())
    (deployment / part).rename(outside / "old") if (deployment / part).exists() else None
    (deployment / part).symlink_to(outside / part)
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, result.stdout) == (66, ""), result.stdout
    assert "Failed to find the initrd" in result.stderr or "No such file or directory" in result.stderr


def test_the_initrd_beside_the_kernel_may_be_linked_within(root: Root) -> None:
    deployment = root.top / root.add(A)
    (deployment / "usr/lib/ostree-boot").mkdir()
    (deployment / "usr/lib/ostree-boot/initrd").write_bytes(guest_cpio.archive({"etc/x": b""}))
    (deployment / "usr/lib/modules/6.12/initrd").symlink_to("../../ostree-boot/initrd")
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, "bootseal is not in this initrd" in result.stderr) == (78, True)


# --- boot entries, unified kernel images, deployments


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


def test_where_boot_is(root: Root) -> None:
    """A partition that is mounted at /boot only is looked for on the running system, and on no other."""
    top = str(root.top)
    (root.top.parent / "ostree-booted").touch()
    assert sysroots._boot_place(top) == (top, "boot")
    (root.top / "boot/loader").rename(root.top / "boot/other")
    assert sysroots._boot_place(top) == ("/", "boot")
    (root.top.parent / "ostree-booted").unlink()
    assert sysroots._boot_place(top) == (top, "boot")


def _uki(root: Root, directory: Path) -> None:
    root.add(A, 1)
    (root.top / "boot/loader/entries/ostree-1.conf").unlink()
    directory.mkdir(parents=True)
    (directory / "os.efi").write_bytes(_pe({".cmdline": f"ostree=/ostree/boot.1/os/{A}/0".encode(), ".initrd": _initrd()}))


@pytest.mark.parametrize("place", sysroots._UKI_PLACES)
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
    with pytest.raises(Failure, match="no ostree/deploy below"):
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
    _fill(root.top / directory, inside.MAX_NAMES, suffix)
    (root.top / directory / "one more").touch()
    result = bootseal("verify", f"--sysroot={root.top}")
    assert (result.returncode, result.stdout) == (65, "")
    first, second = result.stderr.splitlines()
    assert first == f"bootseal: Failed to list {root.top / directory}: more than {inside.MAX_NAMES} names"
    assert second.startswith("bootseal: hint: ")


def test_a_full_directory_of_one_deployment_does_not_end_the_table(root: Root, tree: Path) -> None:
    assert tree
    other = root.top / root.add(B)
    _fill(other / "usr/lib/modules", inside.MAX_NAMES)
    result = bootseal("verify", "--all", f"--sysroot={root.top}")
    first, second = (line.split() for line in result.stdout.splitlines()[1:])
    assert first[2] in ("unsupported", "image-unsealed")  # as far as this machine comes
    assert second[1:] == ["unknown"]
    assert "more than 1024 names" in result.stderr


def test_a_full_directory_of_kernels_is_no_bug_of_the_judge(root: Root, tree: Path) -> None:
    _fill(tree / "usr/lib/modules", inside.MAX_NAMES)
    assert dryrun._kernel_config(root.found()[0], str(root.top)) == ("", b"")


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
    path = Path(sysroots.STAGED if which == "staged" else ostreebooted.PATH)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if which == "booted":
        assert [found.state for found in root.found()] == ["pending"]
    else:
        with pytest.raises(Failure, match="not in the form"):
            root.found()


# --- image, signature and objects


IMAGES: dict[str, Callable[[Path, Path], object]] = {
    "linked": lambda image, outside: image.symlink_to(outside / "image"),
    "fifo": lambda image, _: os.mkfifo(image),
    "linked fifo": _linked_fifo,
    "huge": _huge,
}


def _objects_line(root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What 'verify' says of the objects of a deployment that was verified a moment ago."""
    monkeypatch.setattr(verify, "judge", lambda *_: {"verdict": "verified", "exit_status": 0, "missing": [], "keys": ""})
    assert cli.main(["verify", f"--sysroot={root.top}"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_an_image_that_was_changed_after_the_check(
    make: Callable[[Path, Path], object],
    root: Root,
    tree: Path,
    outside: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (outside / "image").write_bytes(b"/ab/" + b"c" * 62)
    (tree / ".ostree.cfs").unlink()
    make(tree / ".ostree.cfs", outside)
    said = _objects_line(root, monkeypatch, capsys)
    assert "the objects could not be looked at: " in said
    assert "symbolic links" in said or "File too large" in said


def test_objects_through_a_link_are_missing(
    root: Root, tree: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "c" * 62
    (tree / ".ostree.cfs").write_bytes(b"/ab/" + name.encode())
    (outside / name).write_bytes(b"object")
    (root.top / "ostree/repo/objects/ab").symlink_to(outside)
    assert f"1 object is missing, such as ab/{name}" in _objects_line(root, monkeypatch, capsys)
    (root.top / "ostree/repo/objects/ab").unlink()
    (root.top / "ostree/repo/objects").rmdir()
    (root.top / "ostree/repo/objects").symlink_to(outside)
    assert "the objects could not be looked at: " in _objects_line(root, monkeypatch, capsys)


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
def test_an_object_that_is_no_file_is_missing(kind: str, tmp_path: Path, outside: Path) -> None:
    (tmp_path / "ab").mkdir()
    path = tmp_path / "ab" / ("c" * 62)
    (outside / "x").touch()
    {"fifo": os.mkfifo, "directory": os.mkdir, "link": lambda p: p.symlink_to(outside / "x")}[kind](path)
    directory = os.open(tmp_path, os.O_PATH)
    assert objects.Store(directory)._state("ab/" + "c" * 62) == "missing"
    os.close(directory)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_an_object_that_cannot_be_opened_is_an_error(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open_regular", raising(error))
    with pytest.raises(OSError, match=os.strerror(error)):
        objects.Store(-1)._state("ab/x")


def _named(tmp_path: Path, content: bytes) -> set[str]:
    (tmp_path / "image").write_bytes(content)
    with (tmp_path / "image").open("rb") as file:
        return objects._names(file.fileno())


NAMES = [f"{n:02x}/{chr(97 + n) * 62}{suffix}" for n, suffix in enumerate(["", ".file"] * 3)]


@pytest.mark.parametrize("between", [0, 1, 3, 60, 75, 200])
def test_names_in_an_image_wherever_it_is_cut(between: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\0".join(b"x" * between + b"/" + name.encode() for name in NAMES)
    for chunk in range(1, 160):
        monkeypatch.setattr(objects, "_CHUNK", chunk)
        assert _named(tmp_path, content) == set(NAMES)


def test_an_image_that_names_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(b"/ab/%062x\0" % number for number in range(100)) + bytes(100)
    monkeypatch.setattr(objects, "MAX_OBJECTS", 100)
    assert len(_named(tmp_path, content)) == 100
    monkeypatch.setattr(objects, "MAX_OBJECTS", 99)
    with pytest.raises(OSError, match="File too large"):
        _named(tmp_path, content)
    monkeypatch.setattr(objects, "MAX_SIZE", len(content) - 1)
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("read"))
    with pytest.raises(OSError, match="File too large"):
        _named(tmp_path, content)


def test_a_signature_outside_is_not_explained(tmp_path: Path, outside: Path) -> None:
    (outside / "sig").write_bytes(b"-----BEGIN")
    (tmp_path / "d").mkdir()
    with inside.opened(str(tmp_path), "d") as directory:
        os.symlink(outside / "sig", ".ostree.cfs.sig", dir_fd=directory)
        assert deviations.signature_in(directory) == []
        os.unlink(".ostree.cfs.sig", dir_fd=directory)
        (tmp_path / "d/.ostree.cfs.sig").write_bytes(b"-----BEGIN")
        assert [finding.name for finding in deviations.signature_in(directory)] == ["pem"]


@pytest.mark.parametrize(
    ("make", "why"),
    [(IMAGES["linked"], "not a regular file"), (IMAGES["fifo"], "not a regular file"), (IMAGES["huge"], "larger than")],
    ids=["linked", "fifo", "huge"],
)
def test_an_image_whose_digest_is_not_computed(
    make: Callable[[Path, Path], object], why: str, tmp_path: Path, outside: Path
) -> None:
    (outside / "image").write_bytes(b"image")
    (tmp_path / "d").mkdir()
    make(tmp_path / "d/.ostree.cfs", outside)
    with inside.opened(str(tmp_path), "d") as directory, pytest.raises(Failure, match=why):
        imagedigest.compute(str(tmp_path / "d/.ostree.cfs"), "sha256", "", directory)


# --- what is compared after the boot


def test_a_linked_deployment_is_not_compared(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "d").symlink_to(outside)
    record = {"deployment": {"path": "d"}, "image": {"algorithm": "sha256", "digest": "00"}}
    found = drift._image(parse(record), str(tmp_path))
    assert (found.state, "ELOOP" in found.text) == (drift.DIFFERS, True)


@pytest.mark.parametrize("kind", ["directory", "linked"])
def test_the_gate_stays_within_the_deployment(kind: str, root: Root, outside: Path) -> None:
    """What is staged has no boot entry; its initrd beside the kernel is looked for in it alone."""
    path = root.top / root.add(B, etc=False)
    _stage(root, B)
    modules = path / "usr/lib/modules"
    if kind == "linked":
        modules.rename(outside / "modules")
        modules.symlink_to(outside / "modules")
        (outside / "modules/6.12/initrd").write_bytes(_initrd())
    else:
        (modules / "6.12/initrd").write_bytes(_initrd())
    found = sysroots.staged()
    assert found
    assert len(sysroots.initrd_files(found, str(root.top))) == (kind == "directory")
