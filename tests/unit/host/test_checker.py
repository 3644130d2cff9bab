# SPDX-License-Identifier: LGPL-2.1-or-later
"""checker.py: where the keys come from, and what is added to the verdict."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bootseal.host import checker, cli, deployments, gateunits
from bootseal.host.initrd import cache, confined, reader
from bootseal.host.initrd.contents import Contents

from .initrds import aligned, do_instead, member_header
from .program import bootseal, certificate
from .roots import (
    IMAGES,
    A,
    B,
    C,
    Root,
    make_initrd,
    run_verify,
)


@pytest.mark.parametrize(("keys", "reason"), [("nowhere", "No such file or directory"), ("file", "Not a directory")])
def test_keys_that_are_no_directory(root: Root, tmp_path: Path, keys: str, reason: str) -> None:
    root.add(A, 1)
    (tmp_path / "file").touch()
    result = bootseal("verify", f"--sysroot={root.top}", f"--keys={tmp_path / keys}")
    assert (result.returncode, result.stdout) == (74, "")
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


def test_verify_with_other_keys(signed_root: Root, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    assert run_verify(signed_root, "--keys", tmp_path / "keys")[1]["verdict"] == "no-keys"
    (tmp_path / "keys/c.crt").write_bytes(certificate("rsa2048").read_bytes())
    assert run_verify(signed_root, "--keys", tmp_path / "keys")[1]["verdict"] == "untrusted-signer"
    (tmp_path / "keys/d.crt").write_bytes(certificate("p256").read_bytes())
    assert "signature" in run_verify(signed_root, "--keys", tmp_path / "keys")[1]
    assert bootseal("verify", "--sysroot", signed_root.top, "--keys", tmp_path / "absent").returncode == 74


def test_verify_with_another_initrd(signed_root: Root, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(make_initrd(**{"etc/bootseal/keys.d/a.pem": certificate("p521").read_bytes()}))
    record = run_verify(signed_root, "--initrd", other)[1]
    assert (record["verdict"], record["keys"]) == ("untrusted-signer", str(other))
    other.write_bytes(b"junk")
    result = bootseal("verify", "--sysroot", signed_root.top, "--initrd", other)
    assert (result.returncode, result.stdout) == (65, "")
    assert "neither cpio nor a known compression" in result.stderr


def test_verify_all_reads_each_initrd_once(
    signed_root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_root.add(B, 2, initrd="/initrd.img")
    signed_root.add(C, 3, initrd="/other.img")
    (signed_root.top / "boot/other.img").write_bytes(b"junk")
    read, seen = cache.contents, []

    def counted(files: reader.Opened, *asked: Sequence[str]) -> Contents:
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{files.descriptors[0]}")))
        return read(files, *asked)

    monkeypatch.setattr(cache, "contents", counted)
    assert cli.main(["verify", "--all", "--sysroot", str(signed_root.top)]) != 0
    assert sorted(seen) == ["initrd.img", "other.img", "other.img"]  # reads the broken one again, to report the reason
    assert capsys.readouterr().out.splitlines()[1].split()[2] == "unknown"


@pytest.mark.parametrize("command", [["verify"], ["verify", "--all"], ["gate"]], ids=" ".join)
def test_the_next_run_unpacks_no_initrd_again(
    signed_root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.setattr(cache, "OWNER", os.geteuid())
    monkeypatch.setattr(gateunits, "is_off", lambda: False)
    deployed = signed_root.found()[0]
    monkeypatch.setattr(deployments, "find_staged", lambda _: deployed)
    outcomes = [(cli.main(command), *capsys.readouterr())]
    monkeypatch.setattr(confined, "run", lambda *_: pytest.fail("unpacked again"))
    outcomes += [(cli.main(command), *capsys.readouterr())]
    assert outcomes[0] == outcomes[1]
    assert "initrd" not in outcomes[0][2]  # no failure to read it


def _objects_line(root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of 'verify' for a deployment that the judge accepts, with the line about its objects."""
    monkeypatch.setattr(checker, "judge", lambda *_: {"verdict": "verified", "exit_status": 0, "missing": [], "keys": ""})
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
    assert "the objects cannot be checked: " in said
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
    assert "the objects cannot be checked: " in _objects_line(root, monkeypatch, capsys)


BAD_NUMBER = member_header(b"a\0" + bytes(6), name_size=b"-0000001")
HOSTILE = {
    "118-bytes": (BAD_NUMBER, "a cpio header with other characters than hexadecimal digits"),
    "306-kilobytes": (gzip.compress(member_header(b"", name_size=300 << 20) + bytes(300 << 20)), "more than 4096 bytes"),
    "hard-links": (
        b"".join(aligned(member_header(b"%06d\0" % number, links=2, size=1)) + b"xxxx" for number in range(8000)),
        "bootseal is not in this initrd",
    ),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_verify_ends_with_a_reason(root: Root, tmp_path: Path, content: bytes, reason: str) -> None:
    assert len(BAD_NUMBER) == 118
    root.add("a" * 64, 1)
    (tmp_path / "initrd").write_bytes(content)
    result = bootseal("verify", f"--sysroot={root.top}", f"--initrd={tmp_path}/initrd")
    assert reason in result.stderr
    assert "hint: " in result.stderr
    assert result.returncode in (65, 78)


@pytest.mark.parametrize("command", [[], ["--all"]], ids=["one", "all"])
def test_a_reader_that_dies_is_a_failure(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    root.add("a" * 64, 1, initrd="/initrd.img")
    root.set_initrd(b"")
    do_instead(monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)")
    assert cli.main(["verify", f"--sysroot={root.top}", *command]) == 65
    told = capsys.readouterr().err.splitlines()
    assert "Failed to read the initrd" in told[0]
    assert "the process that reads it ended with signal 11" in told[0]
    assert "rebuild the initrd" in told[1]
    assert len(told) == 2
