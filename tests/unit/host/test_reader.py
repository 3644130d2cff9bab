# SPDX-License-Identifier: LGPL-2.1-or-later
"""reader.py: the privileges of the process that reads initrds, its end, and answers that a hostile one could give."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from bootseal.host.initrd import archive, confined, reader
from bootseal.host.initrd.contents import Contents, written_out
from bootseal.host.initrd.decompress import Damaged
from bootseal.host.inside import File

from .initrds import Content, Symlink, cpio_archive, flat_archive, pe_file


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_never_ends_is_no_initrd(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "initrd"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    with pytest.raises(Damaged, match="not a regular file"), reader.opened([File("", "", str(path))]):
        pass
    assert reader.command_lines([File("", "", str(path))]) == {}


DIRECTORIES = ("etc/bootseal", "etc/bootseal/keys.d", "usr/lib/bootseal")
NAMES = ("usr/lib/bootseal", "lib/bootseal", "nothing")
FILES: dict[str, Content] = {
    "etc/bootseal/bootseal.conf": b"[Enroll]\nMethod=none\n",
    "etc/bootseal/keys.d/link.crt": Symlink("/usr/share/certificate"),
    "etc/bootseal/keys.d/masked.crt": Symlink("/dev/null"),
    "etc/bootseal/keys.d/nowhere.crt": Symlink("/nowhere"),
    "etc/other": b"not asked for",
    "usr/share/certificate": b"certificate",
    "usr/lib/bootseal/__main__.py": b"x" * 100_000,
    "lib": Symlink("usr/lib"),
}


def _contents(*paths: Path) -> Contents:
    with reader.opened([File("", "", str(path)) for path in paths]) as files:
        return reader.parse(reader.ask(files, DIRECTORIES, NAMES), DIRECTORIES, NAMES)


@pytest.mark.parametrize("parts", [1, 2])
def test_what_was_asked_comes_back(tmp_path: Path, parts: int) -> None:
    (tmp_path / "1").write_bytes(cpio_archive(FILES))
    (tmp_path / "2").write_bytes(flat_archive({"etc/bootseal/bootseal.conf": b"other"}))
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
        "a.efi": pe_file({".cmdline": b"ostree=/a\n\0"}),
        "b.efi": pe_file({".cmdline": b"ostree=/b"})[:100],
        "c.efi": b"",
        "d.efi": pe_file({".linux": b""}),
        "e.efi": pe_file({".cmdline": b"ostree=/e " + b"x" * (1 << 20)}),
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
    (tmp_path / "initrd").write_bytes(cpio_archive({**content, "usr/lib/bootseal/a": b""}))
    with pytest.raises(Damaged, match="more than 4096 files or 16777216 bytes"):
        _contents(tmp_path / "initrd")


def test_links_do_not_multiply_a_file(tmp_path: Path) -> None:
    content = {f"etc/bootseal/keys.d/{number}": Symlink("../a") for number in range(300)}
    (tmp_path / "initrd").write_bytes(cpio_archive({**content, "etc/bootseal/a": bytes(1 << 17)}))
    with pytest.raises(Damaged, match="more than 4096 files or 16777216 bytes"):
        _contents(tmp_path / "initrd")


def test_a_file_where_a_directory_belongs(tmp_path: Path) -> None:
    """The kernel keeps the file, and makes nothing below it."""
    (tmp_path / "initrd").write_bytes(cpio_archive({"etc/bootseal/keys.d": b""}) + flat_archive({"etc/bootseal/keys.d/a": b""}))
    found = _contents(tmp_path / "initrd")
    assert found.files == {"etc/bootseal/keys.d": b""}
    with written_out(found) as top:
        assert (Path(top) / "etc/bootseal/keys.d").is_file()


@pytest.mark.parametrize("limit", ["sum", "number"])
def test_limits_of_the_files(tmp_path: Path, limit: str) -> None:
    paths = [tmp_path / str(number) for number in range(2)]
    for path in paths:
        path.touch()
        os.truncate(path, archive.MAX_SIZE // 2 + 1)  # sparse
    with pytest.raises(Damaged, match="larger than" if limit == "sum" else "more than 64 files"):
        _contents(*paths * (1 if limit == "sum" else 33))


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
    with pytest.raises(Damaged, match="invalid answer"):
        _contents(tmp_path / "initrd")
    with pytest.raises(Damaged, match="invalid answer"):
        reader.command_lines([File(str(tmp_path), ".", "initrd")])
