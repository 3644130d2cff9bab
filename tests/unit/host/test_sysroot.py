# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding deployments as ostree and the boot loader know them; verify and the gate on top of it."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import guest_cpio
import pytest

from bootseal import digest, verdicts
from bootseal.errors import Refusal
from bootseal.formats import gvariant
from bootseal.host import cli, dryrun
from bootseal.host import deployments as sysroots
from bootseal.host.commands import gate, verify
from bootseal.host.deployments import Found
from bootseal.host.initrd import reader
from bootseal.host.initrd.archive import Contents
from bootseal.host.output import Failure
from bootseal.linux import files
from bootseal.stages import mount, ostreebooted
from bootseal.values import Deployment, RootConfig

from .program import bootseal, certificate, key, signed
from .test_initrdfile import _pe

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


class Root:
    """A physical root with deployments, made by hand."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "ostree/repo/objects").mkdir(parents=True)
        (top / "boot/loader/entries").mkdir(parents=True)
        (top / "ostree/deploy/os/var").mkdir(parents=True)

    def add(self, checksum: str, version: int | None = None, *, etc: bool = True, initrd: str = "") -> str:
        """A deployment; `version` is that of its boot entry."""
        path = f"ostree/deploy/os/deploy/{checksum}.0"
        for name in ("usr/etc", "usr/lib/modules/6.12", *(["etc"] if etc else [])):
            (self.top / path / name).mkdir(parents=True)
        (self.top / path / ".ostree.cfs").write_bytes(b"image " + checksum.encode())
        if version is not None:
            link = self.top / "ostree/boot.1/os" / checksum / "0"
            link.parent.mkdir(parents=True)
            link.symlink_to(f"../../../../{path}")
            lines = [f"title x ({version})", f"version {version}", f"options quiet ostree=/ostree/boot.1/os/{checksum}/0 rw"]
            lines += [f"initrd {initrd}"] if initrd else []
            (self.top / f"boot/loader/entries/ostree-{version}.conf").write_text("\n".join(lines) + "\n")
        return path

    def set_initrd(self, content: bytes) -> None:
        (self.top / "boot/initrd.img").write_bytes(content)

    def found(self) -> list[Found]:
        return sysroots.deployments(str(self.top))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    """A root that is the running system's, with nothing booted and nothing staged."""
    monkeypatch.setattr(sysroots, "default_sysroot", lambda: str(tmp_path / "root"))
    monkeypatch.setattr(sysroots, "STAGED", str(tmp_path / "staged"))
    monkeypatch.setattr(ostreebooted, "PATH", str(tmp_path / "ostree-booted"))
    return Root(tmp_path / "root")


def _strv(words: list[str]) -> bytes:
    """A GVariant of type as."""
    body, ends = b"", []
    for word in words:
        body += word.encode() + b"\0"
        ends.append(len(body))
    width = next(width for width in (1, 2, 4) if len(body) + width * len(ends) < 1 << (8 * width))
    return body + b"".join(end.to_bytes(width, "little") for end in ends)


def _stage(root: Root, checksum: str, *arguments: str) -> None:
    """What ostree_sysroot_stage_tree() writes, made by our own serializer of the type."""
    target = gvariant.write_vardict(
        {
            "name": ("s", f"{checksum}.0\0".encode()),
            "osname": ("s", b"os\0"),
            "bootcsum": ("s", b"d" * 64 + b"\0"),
        }
    )
    kargs = _strv(["quiet", "ostree=/ostree/boot.1/old", *arguments])
    content = gvariant.write_vardict({"target": ("a{sv}", target), "locked": ("b", b"\0"), "kargs": ("as", kargs)})
    Path(sysroots.STAGED).write_bytes(content)
    (root.top.parent / "ostree-booted").touch()


def _boot(root: Root, path: str) -> None:
    fd = os.open(root.top / path, os.O_PATH)
    config = RootConfig(sysroot_readonly=True, root_transient=False, root_readonly=True, etc_transient=False)
    deployment = Deployment("ostree", "os", A, 0, path, -1, fd, -1, -1, -1)
    Path(ostreebooted.PATH).write_bytes(ostreebooted.serialize(deployment, config, ""))


def test_in_boot_order(root: Root) -> None:
    paths = {version: root.add(checksum, version) for checksum, version in ((A, 1), (B, 10), (C, 9))}
    assert [found.path for found in root.found()] == [paths[10], paths[9], paths[1]]
    assert [found.state for found in root.found()] == ["pending", "", ""]


def test_booted_and_pending(root: Root) -> None:
    old, new = root.add(A, 1), root.add(B, 2)
    _boot(root, old)
    assert [(found.path, found.state) for found in root.found()] == [(new, "pending"), (old, "booted")]
    _boot(root, new)
    assert [(found.path, found.state) for found in root.found()] == [(new, "booted"), (old, "")]


def test_staged_comes_first_and_needs_no_etc(root: Root) -> None:
    old, new = root.add(A, 1), root.add(B, etc=False)
    _stage(root, B)
    assert [(found.path, found.state) for found in root.found()] == [(new, "staged"), (old, "")]
    opened = sysroots.opened(root.found()[0], str(root.top))
    assert (opened.checksum, opened.stateroot) == (B, "os")
    root.add(C, 3, etc=False)
    with pytest.raises(Refusal):  # a deployment that the boot loader knows must have its /etc
        sysroots.opened(next(f for f in root.found() if C in f.path), str(root.top))


def test_kernel_arguments_of_a_staged_deployment(root: Root) -> None:
    path = root.add(B, etc=False)
    _stage(root, B, "rd.bootseal.typo")
    found = root.found()[0]
    assert found.options == f"quiet rd.bootseal.typo ostree=/{path}"
    with pytest.raises(Refusal, match="bad-command-line"):
        sysroots.request(found)


def test_staged_is_read_at_any_size(root: Root) -> None:
    for words in (0, 1, 50, 5000):
        _stage(root, B, *["word" * 5] * words)
        assert (sysroots.staged() or pytest.fail()).options.count("word" * 5) == words  # type: ignore[union-attr]


def test_every_truncation_of_staged_is_told(root: Root) -> None:
    _stage(root, B)
    whole = Path(sysroots.STAGED).read_bytes()
    for size in range(len(whole)):
        Path(sysroots.STAGED).write_bytes(whole[:size])
        with pytest.raises(Failure):
            sysroots.staged()


def test_staged_that_cannot_be_read_is_no_empty_answer(root: Root) -> None:
    root.add(A, 1)
    _stage(root, B)
    Path(sysroots.STAGED).write_bytes(b"another form")
    with pytest.raises(Failure, match="not in the form"):
        root.found()


def test_without_boot_entry_last(root: Root) -> None:
    with_entry = root.add(B, 1)
    without = root.add(A)
    assert [found.path for found in root.found()] == [with_entry, without]


@pytest.mark.parametrize("version", ["9" * 5000, "\u00b2", "-1", "x"], ids=["large", "superscript", "negative", "text"])
def test_a_version_that_is_none(root: Root, version: str) -> None:
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


@pytest.mark.parametrize(("keys", "reason"), [("nowhere", "No such file or directory"), ("file", "Not a directory")])
def test_keys_that_are_no_directory(root: Root, tmp_path: Path, keys: str, reason: str) -> None:
    root.add(A, 1)
    (tmp_path / "file").touch()
    result = bootseal("verify", f"--sysroot={root.top}", f"--keys={tmp_path / keys}")
    assert (result.returncode, result.stdout) == (66, "")
    assert result.stderr.startswith(f"bootseal: Failed to read the certificates in {tmp_path / keys}: {reason}")


def test_verbose_with_certificates_that_cannot_be_read(root: Root, tmp_path: Path) -> None:
    root.add(A, 1)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/dangling.crt").symlink_to("/nowhere")
    (tmp_path / "keys/directory.crt").mkdir()
    os.mkfifo(tmp_path / "keys/fifo.crt")
    result = bootseal("verify", "--verbose", f"--sysroot={root.top}", f"--keys={tmp_path}/keys")
    assert result.returncode == 78, result.stderr
    assert "/keys/fifo.crt: not a regular file" in result.stderr


def test_an_entry_that_leads_nowhere_is_told(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    root.add(A, 1)
    (root.top / "ostree/boot.1/os" / A / "0").unlink()
    assert [found.options for found in root.found()] == [None]
    assert f"leads to no deployment: ostree=/ostree/boot.1/os/{A}/0" in capsys.readouterr().err


def _failing(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, end: str, number: int) -> None:
    """A function whose first text that ends so makes it fail."""
    real = getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if any(isinstance(a, str) and a.endswith(end) for a in arguments):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, call)


# What is opened where a list would otherwise miss what boots next.
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
    _failing(monkeypatch, files, "openat2", place, number)
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
    _failing(monkeypatch, files, "openat2", "ostree/deploy", number)
    with pytest.raises(Failure) as caught:
        root.found()
    assert (caught.value.status, caught.value.hint) == (status, hint)


def test_an_entry_that_may_not_be_followed_is_told(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root.add(A, 1)
    _failing(monkeypatch, files, "open_directory", f"{A}/0", errno.EACCES)
    assert len(root.found()) == 1
    assert "Permission denied (EACCES)" in capsys.readouterr().err


@pytest.mark.parametrize(("uid", "hint"), [(1000, "run as root"), (0, verdicts.MOUNT_FAILED.hint)])
@pytest.mark.parametrize("state", ["", "staged"])
def test_what_only_root_may_open(
    root: Root, state: str, uid: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/c.crt").write_bytes(certificate("p256").read_bytes())
    found = Found(root.add(A), state, None, ())
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(mount, "private_namespace", lambda: -1)
    _failing(monkeypatch, files, "openat2", f"{A}.0", errno.EACCES)
    record = dryrun._judge(found, str(root.top), dryrun.Source(str(tmp_path), "keys", keys=str(tmp_path / "keys")))
    assert (record["verdict"], record["hint"]) == ("mount-failed", hint)
    assert "cannot be opened: Permission denied (EACCES)" in record["message"]


def test_uki(root: Root) -> None:
    path = root.add(A, 1)
    (root.top / "boot/loader/entries/ostree-1.conf").unlink()
    directory = root.top / "boot/EFI/Linux"
    directory.mkdir(parents=True)
    initrd = guest_cpio.archive({"etc/x": b"x"})
    (directory / "os.efi").write_bytes(_pe({".cmdline": f"ostree=/ostree/boot.1/os/{A}/0\0".encode(), ".initrd": initrd}))
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
    assert sysroots.initrd_files(found, str(root.top)) == ()
    file = root.top / path / "usr/lib/modules/6.12" / name
    file.touch()
    assert list(map(str, sysroots.initrd_files(found, str(root.top)))) == [str(file)]


CHOICES: dict[str | None, str | None] = {
    None: B, "bbbb": B, B: B, f"{B}.0": B, f"os/{'c' * 12}": C, "pending": B, "booted": C, "aaaa": A, "aaa": None, "dddd": None,
    f"{B}.1": None,
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), CHOICES.items(), ids=str)
def test_choose(root: Root, name: str | None, expected: str | None) -> None:
    for checksum, version in ((A, 1), (B, 3), (C, 2)):
        root.add(checksum, version)
    _boot(root, f"ostree/deploy/os/deploy/{C}.0")
    if expected is None:
        with pytest.raises(Failure, match="none is called"):
            sysroots.choose(str(root.top), name)
    else:
        assert sysroots.choose(str(root.top), name).parts[1] == expected


def test_ambiguous(root: Root) -> None:
    root.add("ab" * 32, 1)
    root.add("ab" * 31 + "cd", 2)
    with pytest.raises(Failure, match="2 are called"):
        sysroots.choose(str(root.top), "abab")


def _initrd(**more: bytes | guest_cpio.Symlink) -> bytes:
    unit = "usr/lib/systemd/system/initrd-root-fs.target.requires/bootseal.service"
    files: dict[str, guest_cpio.Content] = {
        unit: guest_cpio.Symlink("../bootseal.service"),
        "usr/lib/systemd/system/bootseal.service": b"[Unit]\n",
        "usr/lib/bootseal/__main__.py": b"",
        "etc/bootseal/keys.d/a.pem": certificate("p256").read_bytes(),
        **more,
    }
    return guest_cpio.archive(files)


@pytest.fixture
def signed_root(root: Root) -> Root:
    """One deployment, signed, with its initrd; everything but fs-verity, which this machine need not have."""
    path = root.add(A, 1, initrd="/initrd.img")
    root.set_initrd(_initrd())
    signed(root.top / path / ".ostree.cfs", "--key", key("p256"), "--cert", certificate("p256"))
    return root


def _verify(root: Root, *options: str | Path) -> tuple[int, dict[str, object]]:
    result = bootseal("verify", "--sysroot", root.top, "--json=short", *options)
    return result.returncode, json.loads(result.stdout)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("usr")


MUTATIONS: dict[str, tuple[Callable[[Path, Root], object], int, str]] = {
    "no-digest": (lambda d, r: (d / ".ostree.cfs.digest").unlink(), 66, "no-digest"),
    "no-signature": (lambda d, r: (d / ".ostree.cfs.sig").unlink(), 66, "no-signature"),
    "bad-digest": (lambda d, r: (d / ".ostree.cfs.digest").write_bytes(bytes(31)), 65, "bad-digest"),
    "bad-signature": (lambda d, r: (d / ".ostree.cfs.sig").write_bytes(b""), 65, "bad-signature"),
    "wrong-signature": (lambda d, r: (d / ".ostree.cfs.digest").write_bytes(bytes(32)), 77, "wrong-signature"),
    "no-image": (lambda d, r: (d / ".ostree.cfs").unlink(), 66, "no-image"),
    "link": (lambda d, r: _link(d / ".ostree.cfs.sig"), 65, "bad-signature"),
    "no-etc": (lambda d, r: (d / "etc").rmdir(), 66, "no-deployment"),
    "no-module": (lambda d, r: r.set_initrd(guest_cpio.archive({"etc/x": b""})), 78, "no-keys"),
    "no-keys": (lambda d, r: r.set_initrd(_initrd(**{"etc/bootseal/keys.d/a.pem": b""})), 78, "no-keys"),
    "bad-config": (lambda d, r: r.set_initrd(_initrd(**{"etc/bootseal/bootseal.conf": b"[No]\na=b\n"})), 78, "bad-config"),
    "prepare-root": (lambda d, r: r.set_initrd(_initrd(**{"usr/lib/ostree/ostree-prepare-root": b""})), 78, "bad-config"),
    "hook": (
        lambda d, r: r.set_initrd(_initrd(**{"var/lib/dracut/hooks/pre-pivot/01-fips-crypto-policies.sh": b""})),
        78,
        "bad-config",
    ),
    "kernel": (lambda d, r: (d / "usr/lib/modules/6.12/config").write_text("CONFIG_FS_VERITY=y\n"), 69, "unsupported"),
    "untrusted": (
        lambda d, r: r.set_initrd(_initrd(**{"etc/bootseal/keys.d/a.pem": certificate("p384").read_bytes()})),
        77,
        "untrusted-signer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_verify_with_the_initrd_of_the_boot_entry(
    signed_root: Root, mutation: tuple[Callable[[Path, Root], object], int, str]
) -> None:
    change, status, verdict = mutation
    # The signature is good up to here; only fs-verity is missing on this machine.
    before = _verify(signed_root)[1]
    assert before["verdict"] in ("unsupported", "image-unsealed")
    assert "signature" in before
    change(signed_root.top / f"ostree/deploy/os/deploy/{A}.0", signed_root)
    code, record = _verify(signed_root)
    assert (code, record["verdict"]) == (status, verdict), record


def test_a_module_that_undoes_the_check_is_named(signed_root: Root) -> None:
    signed_root.set_initrd(_initrd(**{"usr/lib/systemd/system/composefs-setup-root.service": b""}))
    record = _verify(signed_root)[1]
    assert "dracut module 'composefs' is in this initrd, too, and undoes the check (usr/lib/" in str(record["message"])
    assert 'omit_dracutmodules+=" composefs "' in str(record["hint"])


VOA = "usr/share/voa/os/kernel-keyring/fs-verity/x509/a-certificate.pem"


@pytest.mark.parametrize(
    ("configuration", "path", "trusted"),
    [
        (b"[Keyring]\nVOA=os\n", VOA, True),
        (b"[Keyring]\nVOA=os:1\n", VOA.replace("/os/", "/os:1/"), True),
        (b"[Keyring]\nVOA=os\n", VOA.replace("usr/share", "etc"), True),
        (b"[Keyring]\nVOA=no\n", VOA, False),
        (b"", VOA, False),
        (b"[Keyring]\nVOA=other\n", VOA, False),
        (b"[Keyring]\nVOA=os\n", VOA.replace("usr/share", "run"), False),
    ],
)
def test_certificates_of_voa(signed_root: Root, configuration: bytes, path: str, *, trusted: bool) -> None:
    pem = certificate("p256").read_bytes()
    signed_root.set_initrd(
        _initrd(**{"etc/bootseal/keys.d/a.pem": b"", path: pem, "etc/bootseal/bootseal.conf.d/1.conf": configuration})
    )
    record = _verify(signed_root)[1]
    assert (record["verdict"] in ("unsupported", "image-unsealed")) is trusted, record
    assert trusted or record["verdict"] == "no-keys"


@pytest.mark.parametrize("lacking", ["FS_VERITY", "EROFS_FS", "OVERLAY_FS"])
def test_kernel_options(signed_root: Root, lacking: str) -> None:
    options = {"FS_VERITY": "y", "EROFS_FS": "m", "OVERLAY_FS": "m", "FS_VERITY_BUILTIN_SIGNATURES": "y"}
    path = signed_root.top / f"ostree/deploy/os/deploy/{A}.0/usr/lib/modules/6.12/config"
    path.write_text("".join(f"CONFIG_{name}={value}\n" for name, value in options.items()))
    assert "CONFIG" not in str(_verify(signed_root)[1])
    path.write_text("".join(f"CONFIG_{n}={v}\n" if n != lacking else f"# CONFIG_{n} is not set\n" for n, v in options.items()))
    assert f"the kernel lacks CONFIG_{lacking}:" in str(_verify(signed_root)[1]["message"])
    path.unlink()
    assert "not known" in str(_verify(signed_root)[1]["missing"])


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        (["--cmdline", ""], "no-deployment"),
        (["--cmdline", "ostree=/a ostree=/b"], "bad-command-line"),
        (["--cmdline", "ostree=/ostree/boot.1/os/x/0"], "no-deployment"),
        (["--cmdline", f"ostree=/ostree/boot.1/os/{A}/0 rd.bootseal.x"], "bad-command-line"),
    ],
)
def test_verify_with_a_command_line(signed_root: Root, options: list[str], verdict: str) -> None:
    assert _verify(signed_root, *options)[1]["verdict"] == verdict


def test_verify_with_other_keys(signed_root: Root, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    assert _verify(signed_root, "--keys", tmp_path / "keys")[1]["verdict"] == "no-keys"
    (tmp_path / "keys/c.crt").write_bytes(certificate("rsa2048").read_bytes())
    assert _verify(signed_root, "--keys", tmp_path / "keys")[1]["verdict"] == "untrusted-signer"
    (tmp_path / "keys/d.crt").write_bytes(certificate("p256").read_bytes())
    assert "signature" in _verify(signed_root, "--keys", tmp_path / "keys")[1]
    assert bootseal("verify", "--sysroot", signed_root.top, "--keys", tmp_path / "absent").returncode == 66


def test_verify_with_another_initrd(signed_root: Root, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(_initrd(**{"etc/bootseal/keys.d/a.pem": certificate("p521").read_bytes()}))
    record = _verify(signed_root, "--initrd", other)[1]
    assert (record["verdict"], record["keys"]) == ("untrusted-signer", str(other))
    other.write_bytes(b"junk")
    result = bootseal("verify", "--sysroot", signed_root.top, "--initrd", other)
    assert (result.returncode, result.stdout) == (66, "")
    assert "neither cpio nor a known compression" in result.stderr


def test_verify_all_goes_on_where_one_has_no_initrd(signed_root: Root) -> None:
    signed_root.add(B)
    result = bootseal("verify", "--all", "--sysroot", signed_root.top)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["NAME", "ON", "DISK", "STATE", "VERDICT", "IMAGE", "SIGNER", "MISSING"]
    assert len(lines) == 3
    assert lines[1].startswith(f"os/{A[:12]}.0")
    assert "unknown" in lines[2]
    assert result.returncode == 69  # the first one's: no fs-verity here
    assert "\033" not in result.stdout + result.stderr


def test_the_text_of_verify_names_what_is_covered_first() -> None:
    found = Found(f"ostree/deploy/os/deploy/{A}.0", "pending", None, ())
    image = {"algorithm": "sha256", "digest": "ab" * 32, "id": "edge", "version": "41.3"}
    record = {"verdict": "verified", "image": image, "keys": "x", "missing": [], "not_covered": ["/var", "/opt -> /var/opt"]}
    lines = verify._text(found, record).splitlines()
    assert lines[0] == f"os/{A[:12]}.0 (pending), as the disk names it:  verified"
    assert [" ".join(line.split()) for line in lines[1:3]] == ["image edge 41.3", f"digest sha256:{'ab' * 32}"]
    assert lines[-1].split(maxsplit=2)[2] == "/var, /opt -> /var/opt"
    del image["id"], image["version"]
    assert "  image" not in verify._text(found, record)


EVIL = "verified sha256:0 by vendor"


def test_a_stateroot_whose_name_could_say_something(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing lists it, as the boot refuses it; a boot entry that leads there is named with the boot's reason."""
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


@pytest.mark.parametrize("name", [EVIL, "..", "a/b", "\u0661"])
def test_a_staged_deployment_with_such_a_stateroot(root: Root, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The gate holds it, and says why."""
    target = gvariant.write_vardict({"name": ("s", f"{B}.0\0".encode()), "osname": ("s", name.encode() + b"\0")})
    Path(sysroots.STAGED).write_bytes(gvariant.write_vardict({"target": ("a{sv}", target)}))
    with pytest.raises(Failure, match=r"name of the stateroot|leads to no ostree/deploy/") as caught:
        _gate(monkeypatch, "enabled")
    assert name not in caught.value.what.replace("...", "")


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


def test_verify_all_reads_each_initrd_once(
    signed_root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_root.add(B, 2, initrd="/initrd.img")
    signed_root.add(C, 3, initrd="/other.img")
    (signed_root.top / "boot/other.img").write_bytes(b"junk")
    read, seen = reader.contents, []

    def counted(files: reader.Opened, *asked: Sequence[str]) -> Contents:
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{files.descriptors[0]}")))
        return read(files, *asked)

    monkeypatch.setattr(reader, "contents", counted)
    assert cli.main(["verify", "--all", "--sysroot", str(signed_root.top)]) != 0
    assert sorted(seen) == ["initrd.img", "other.img", "other.img"]  # what could not be read is tried again, to say why
    assert capsys.readouterr().out.splitlines()[1].split()[2] == "unknown"


def test_verbose_names_each_deviation(signed_root: Root) -> None:
    path = signed_root.top / f"ostree/deploy/os/deploy/{A}.0/.ostree.cfs.sig"
    path.write_bytes(path.read_bytes() + b"\n")
    result = bootseal("verify", "--verbose", "--sysroot", signed_root.top)
    assert "deviation  trailing-bytes: the kernel accepts it" in result.stdout
    assert bootseal("verify", "--sysroot", signed_root.top).stdout.count("deviation") == 0


def test_nothing_is_left_and_nothing_is_written(signed_root: Root, tmp_path: Path) -> None:
    def state() -> list[tuple[str, int]]:
        return sorted((str(p), p.lstat().st_mtime_ns) for p in tmp_path.rglob("*"))

    before, mounts = state(), Path("/proc/self/mountinfo").read_text()
    _verify(signed_root)
    assert state() == before
    assert Path("/proc/self/mountinfo").read_text() == mounts


# --- the gate


def _gate(monkeypatch: pytest.MonkeyPatch, switch: str) -> int:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Namespace(stdout=switch + "\n"))
    arguments = Namespace()
    arguments.initrd = arguments.keys = None
    arguments.system_keys = False
    return gate.run(arguments, [])


@pytest.mark.parametrize("switch", ["disabled", "masked", "not-found"])
def test_a_gate_that_is_off_lets_everything_pass(root: Root, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    _stage(root, B)
    assert _gate(monkeypatch, switch) == 0


@pytest.mark.parametrize("switch", ["enabled", "enabled-runtime", "static", "", "bad"])
def test_a_gate_that_is_on_holds_what_cannot_be_found(root: Root, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    root.add(A, 1)
    _stage(root, B)
    with pytest.raises(Failure):
        _gate(monkeypatch, switch)


def test_gate_without_a_staged_deployment(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _gate(monkeypatch, "enabled") == 0


@pytest.mark.parametrize(("verdict", "status"), [("verified", 0), ("no-signature", 66), ("untrusted-signer", 77)])
def test_gate_decides_by_the_verdict(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: str, status: int
) -> None:
    root.add(A, 1)
    path = root.add(B, etc=False)
    (root.top / path / "usr/lib/modules/6.12/initramfs.img").write_bytes(_initrd())
    _stage(root, B)
    asked = []

    def judged(found: Found, _sysroot: str, source: dryrun.Source) -> dryrun.Record:
        asked.append((found.path, source.name))
        image = {"algorithm": "sha256", "digest": "ab" * 32, "id": "edge", "version": "41.3"}
        ending = {"verdict": verdict, "exit_status": status, "message": f"refused ({verdict})", "hint": "", "missing": []}
        return ending | ({"image": image} if status == 0 else {})

    monkeypatch.setattr(verify, "judge", judged)
    named = f"(the disk names it os/{B[:12]}.0)"
    if status == 0:
        assert _gate(monkeypatch, "enabled") == 0
        assert f"the staged deployment would boot: edge 41.3 sha256:abababababab {named}\n" in capsys.readouterr().err
    else:
        with pytest.raises(Failure, match=verdict) as caught:
            _gate(monkeypatch, "enabled")
        assert caught.value.status == status
        assert caught.value.what.endswith(named)
    assert asked == [(path, str(root.top / path / "usr/lib/modules/6.12/initramfs.img"))]


@pytest.mark.parametrize(("switch", "restarted"), [("enabled", True), ("disabled", False), ("not-found", False)])
def test_the_gate_looks_again_only_if_it_is_on(monkeypatch: pytest.MonkeyPatch, switch: str, restarted: bool) -> None:  # noqa: FBT001
    called = []

    def run(command: list[str], **_: object) -> Namespace:
        called.append(command[-2:])
        return Namespace(stdout=switch + "\n")

    monkeypatch.setattr(subprocess, "run", run)
    gate.look_again()
    assert called == [["is-enabled", "bootseal-gate.path"], ["restart", "bootseal-gate.service"]][: 1 + restarted]


def test_the_gate_is_not_needed_to_deploy(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> Namespace:
        raise FileNotFoundError("systemctl")

    monkeypatch.setattr(subprocess, "run", run)
    gate.look_again()


def test_the_booted_inode_is_read_back(root: Root) -> None:
    path = root.add(A, 1)
    _boot(root, path)
    status = (root.top / path).stat()
    assert sysroots._booted_inode() == (status.st_dev, status.st_ino)
    Path(ostreebooted.PATH).write_bytes(b"")
    assert sysroots._booted_inode() is None
    Path(ostreebooted.PATH).write_bytes(struct.pack("=QQ", 1, 2))
    assert sysroots._booted_inode() is None


def test_the_digest_is_of_the_image(signed_root: Root) -> None:
    path = signed_root.top / f"ostree/deploy/os/deploy/{A}.0/.ostree.cfs"
    assert path.with_name(".ostree.cfs.digest").read_bytes() == digest.of_bytes(path.read_bytes(), "sha256").value
