# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that reads initrds: what it may do, how it ends, and that no answer of it is believed."""

from __future__ import annotations

import gzip
import os
import re
import struct
from pathlib import Path

import pytest

from bootseal.host import cli
from bootseal.host import deployments as sysroots
from bootseal.host.initrd import archive, confined, reader
from bootseal.host.initrd.archive import Damaged
from bootseal.host.inside import File
from bootseal.host.output import Failure
from vm.harness import cpio
from vm.harness.cpio import Symlink

from .program import bootseal
from .test_initrdfile import _aligned, _flat, _header, _pe
from .test_sysroot import Root, root

__all__ = ["root"]  # a fixture

DIRECTORIES = ("etc/bootseal", "etc/bootseal/keys.d", "usr/lib/bootseal")
NAMES = ("usr/lib/bootseal", "lib/bootseal", "nothing")
FILES: dict[str, cpio.Content] = {
    "etc/bootseal/bootseal.conf": b"[Enroll]\nMethod=none\n",
    "etc/bootseal/keys.d/link.crt": Symlink("/usr/share/certificate"),
    "etc/bootseal/keys.d/masked.crt": Symlink("/dev/null"),
    "etc/bootseal/keys.d/nowhere.crt": Symlink("/nowhere"),
    "etc/other": b"not asked for",
    "usr/share/certificate": b"certificate",
    "usr/lib/bootseal/__main__.py": b"x" * 100_000,
    "lib": Symlink("usr/lib"),
}


def _contents(*paths: Path) -> archive.Contents:
    with reader.opened([File("", "", str(path)) for path in paths]) as files:
        return reader.contents(files, DIRECTORIES, NAMES)


@pytest.mark.parametrize("parts", [1, 2])
def test_what_was_asked_comes_back(tmp_path: Path, parts: int) -> None:
    (tmp_path / "1").write_bytes(cpio.archive(FILES))
    (tmp_path / "2").write_bytes(_flat({"etc/bootseal/bootseal.conf": b"other"}))
    found = _contents(*[tmp_path / name for name in "12"[:parts]])
    assert found.files == {
        "etc/bootseal/bootseal.conf": FILES["etc/bootseal/bootseal.conf"] if parts == 1 else b"other",
        "etc/bootseal/keys.d/link.crt": b"certificate",
        "etc/bootseal/keys.d/masked.crt": None,
        "usr/lib/bootseal/__main__.py": b"x" * archive.MAX_CONTENT,
    }
    assert found.names == {"usr/lib/bootseal": True, "lib/bootseal": True, "nothing": False}
    with pytest.raises(KeyError):
        found.exists("etc/other")


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    def identity() -> tuple[str, ...]:
        with reader.opened([File("", "", str(tmp_path / "1"))]) as files:
            return files.identity

    (tmp_path / "1").write_bytes(b"1")
    first = identity()
    assert identity() == first
    (tmp_path / "1").write_bytes(b"12")
    assert identity() != first


def test_command_lines_of_those_that_can_be_read(tmp_path: Path) -> None:
    contents = {
        "a.efi": _pe({".cmdline": b"ostree=/a\n\0"}),
        "b.efi": _pe({".cmdline": b"ostree=/b"})[:100],
        "c.efi": b"",
        "d.efi": _pe({".linux": b""}),
        "e.efi": _pe({".cmdline": b"ostree=/e " + b"x" * (1 << 20)}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.truncate(tmp_path / "e.efi", 1 << 40)  # sparse
    found = reader.command_lines([File(str(tmp_path), ".", name) for name in (*contents, "missing.efi")])
    assert {file.path: line[:10] for file, line in found.items()} == {
        "a.efi": "ostree=/a", "c.efi": "", "d.efi": "", "e.efi": "ostree=/e ",
    }  # fmt: skip
    assert max(map(len, found.values())) == reader.MAX_COMMAND_LINE


@pytest.mark.parametrize("files", [4096, 5000], ids=["names", "masked"])
def test_more_files_than_the_boot_reads(tmp_path: Path, files: int) -> None:
    content = {f"etc/bootseal/keys.d/{number}": Symlink("/dev/null") for number in range(files)}
    (tmp_path / "initrd").write_bytes(cpio.archive({**content, "usr/lib/bootseal/a": b""}))
    with pytest.raises(Damaged, match="more than 4096 files or 16777216 bytes"):
        _contents(tmp_path / "initrd")


def test_links_do_not_multiply_a_file(tmp_path: Path) -> None:
    content = {f"etc/bootseal/keys.d/{number}": Symlink("../a") for number in range(300)}
    (tmp_path / "initrd").write_bytes(cpio.archive({**content, "etc/bootseal/a": bytes(1 << 17)}))
    with pytest.raises(Damaged, match="more than 4096 files or 16777216 bytes"):
        _contents(tmp_path / "initrd")


def test_a_file_where_a_directory_belongs(tmp_path: Path) -> None:
    """The kernel keeps the file, and makes nothing below it."""
    (tmp_path / "initrd").write_bytes(cpio.archive({"etc/bootseal/keys.d": b""}) + _flat({"etc/bootseal/keys.d/a": b""}))
    found = _contents(tmp_path / "initrd")
    assert found.files == {"etc/bootseal/keys.d": b""}
    with archive.written_out(found) as top:
        assert (Path(top) / "etc/bootseal/keys.d").is_file()


@pytest.mark.parametrize("limit", ["sum", "number"])
def test_limits_of_the_files(tmp_path: Path, limit: str) -> None:
    paths = [tmp_path / str(number) for number in range(2)]
    for path in paths:
        path.touch()
        os.truncate(path, archive.MAX_SIZE // 2 + 1)  # sparse
    with pytest.raises(Damaged, match="larger than" if limit == "sum" else "more than 64 files"):
        _contents(*paths * (1 if limit == "sum" else 33))


# --- the process


def _instead(monkeypatch: pytest.MonkeyPatch, work: str, before: str = "") -> None:
    """The process does this instead of reading."""
    start = f"""
import os, signal, subprocess, sys
sys.path.insert(0, sys.argv[1])
from bootseal.host.initrd import confined
{before}
confined.answer(lambda: {work}, ValueError, 1 << 20)
"""
    monkeypatch.setattr(confined, "_START", start)


STATUS = {
    "itself": "open('/proc/self/status', 'rb').read()",
    "program": "subprocess.check_output(['cat', '/proc/self/status'])",
}


@pytest.mark.parametrize("work", STATUS.values(), ids=STATUS)
def test_it_has_no_privileges(monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    _instead(monkeypatch, work)
    status = dict(line.split(":\t") for line in confined.run("", ()).decode().splitlines())
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert (status["Uid"].split(), status["Gid"].split()) == (["65534"] * 4, ["65534"] * 4)
        assert status["Groups"].split() == []


@pytest.mark.root
@pytest.mark.parametrize("may_leave", [True, False], ids=["uid-left", "uid-kept"])
def test_root_gives_up_groups_and_capabilities(monkeypatch: pytest.MonkeyPatch, *, may_leave: bool) -> None:
    """A unit without CAP_SETUID keeps the uid, and loses every capability."""
    before = "os.setgroups([1])" if may_leave else "def refuse(_): raise PermissionError\nos.setgroups = refuse"
    _instead(monkeypatch, STATUS["program"], before)
    status = dict(line.split(":\t") for line in confined.run("", ()).decode().splitlines())
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert status["Uid"].split()[0] == ("65534" if may_leave else "0")
    assert "1" not in status["Groups"].split()


def test_it_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch, "open('/proc/self/limits', 'rb').read()")
    limits = dict(re.findall(r"(?m)^Max (.*?) {2,}(\w+)", confined.run("", ()).decode()))
    names = ("address space", "cpu time", "file size", "open files", "core file size")
    assert [int(limits[name]) for name in names] == [confined.MEMORY + (1 << 20), confined.CPU, 1 << 20, 256, 0]


def test_it_sees_neither_environment_nor_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    _instead(monkeypatch, "repr((sorted(os.environ), os.getcwd(), os.readlink('/proc/self/fd/0'))).encode()")
    environment, directory, stdin = eval(confined.run("", ()))
    assert (set(environment) - {"PATH", "LC_CTYPE"}, directory, stdin) == (set(), "/", "/dev/null")


ENDINGS = {
    "refused": ("exec('raise ValueError(\"why\")')", "why"),
    "os-error": ("open('/nowhere', 'rb').read()", "No such file or directory"),
    "memory": ("bytes(confined.MEMORY)", "needs more than 512 MiB of memory"),
    "answer": ("bytes(confined.MAX_ANSWER + 1)", "gives more than 16777216 bytes"),
    "endless-answer": ("[os.write(1, bytes(1 << 20)) for _ in iter(int, 1)]", "gives more than 16777216 bytes"),
    "processor": ("[0 for _ in iter(int, 1)]", "takes more than 1 seconds of processor time"),
    "time": ("signal.pause()", "takes longer than 1 seconds"),
    "disk": ("os.kill(os.getpid(), signal.SIGBUS)", "the disk failed"),
    "crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
    "bug": ("1 / 0", "ended with status 1"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, as the kernel does when memory runs out"),
    "file": ("open('/dev/shm/bootseal-test', 'wb').write(bytes(2 << 20))", "File too large|Permission denied|No such file"),
}


@pytest.mark.parametrize(("work", "reason"), ENDINGS.values(), ids=ENDINGS)
def test_however_it_ends_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, work: str, reason: str) -> None:
    monkeypatch.setattr(confined, "CPU", 1)
    if reason.startswith("takes longer"):
        monkeypatch.setattr(confined, "WALL", 1)
    _instead(monkeypatch, work, "confined.CPU = 1")
    with pytest.raises(confined.Refused, match=reason):
        confined.run("", ())


def _record(kind: bytes, name: bytes, content: bytes = b"") -> bytes:
    return struct.pack("<cHI", kind, len(name), len(content)) + name + content


STRANGE = {
    "text": b"Segmentation fault\n",
    "short": _record(b"f", b"etc/bootseal/a", b"content")[:-1],
    "kind": _record(b"x", b"etc/bootseal/a"),
    "name": _record(b"n", b"etc/shadow"),
    "name-with-content": _record(b"n", b"usr/lib/bootseal", b"x"),
    "file-elsewhere": _record(b"f", b"etc/cron.d/a"),
    "above": _record(b"f", b"etc/bootseal/.."),
    "below": _record(b"f", b"etc/bootseal/../../a"),
    "end-of-name": _record(b"f", b"etc/bootseal/a\0"),
    "directory": _record(b"m", b"etc/bootseal/"),
    "long-name": _record(b"f", b"etc/bootseal/" + b"a" * 256),
    "file-that-is-a-directory": _record(b"f", b"etc/bootseal/keys.d") + _record(b"f", b"etc/bootseal/keys.d/a"),
    "too-many": _record(b"f", b"etc/bootseal/a") * (reader.MAX_RECORDS + 1),
}


@pytest.mark.parametrize("answer", STRANGE.values(), ids=STRANGE)
def test_no_answer_is_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes) -> None:
    (tmp_path / "initrd").touch()
    monkeypatch.setattr(confined, "run", lambda *_: answer)
    with pytest.raises(Damaged, match="strange answer"):
        _contents(tmp_path / "initrd")
    with pytest.raises(Damaged, match="strange answer"):
        reader.command_lines([File(str(tmp_path), ".", "initrd")])


# --- the commands


BAD_NUMBER = _header(b"a\0" + bytes(6), name_size=b"-0000001")
HOSTILE = {
    "118-bytes": (BAD_NUMBER, "a cpio header with something else than hexadecimal digits"),
    "306-kilobytes": (gzip.compress(_header(b"", name_size=300 << 20) + bytes(300 << 20)), "more than 4096 bytes"),
    "hard-links": (
        b"".join(_aligned(_header(b"%06d\0" % number, links=2, size=1)) + b"xxxx" for number in range(8000)),
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
    assert result.returncode in (66, 78)


@pytest.mark.parametrize("command", [[], ["--all"]], ids=["one", "all"])
def test_a_reader_that_dies_is_a_failure(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    root.add("a" * 64, 1, initrd="/initrd.img")
    root.set_initrd(b"")
    _instead(monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)")
    assert cli.main(["verify", f"--sysroot={root.top}", *command]) == 66
    told = capsys.readouterr().err.splitlines()
    assert "Failed to read the initrd" in told[0]
    assert "the process that reads it ended with signal 11" in told[0]
    assert "rebuild the initrd" in told[1]
    assert len(told) == 2


def test_images_that_cannot_be_read_are_a_failure(root: Root) -> None:
    root.add("a" * 64, 1)
    (root.top / "boot/EFI/Linux").mkdir(parents=True)
    for number in range(reader.MAX_FILES + 1):
        (root.top / f"boot/EFI/Linux/{number}.efi").touch()
    with pytest.raises(Failure, match="boot/EFI/Linux: more than 64 files") as caught:
        sysroots.deployments(str(root.top))
    assert "remove those" in caught.value.hint
