# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading an initrd as the kernel unpacks it: archives, compressions, links, UKIs; damaged ones are refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import guest_cpio
import pytest
from guest_cpio import Symlink

from bootseal import config, keyring
from bootseal.host import initrdfile
from bootseal.host.initrdfile import Damaged, Tree
from unit.support import at_most

from .program import certificate


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, check=True, stdout=subprocess.PIPE).stdout


def _tree(content: bytes) -> Tree:
    return Tree(initrdfile.unpack(content))


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": _zstd,
    "lz4": lambda data: subprocess.run(["lz4", "-lqc"], input=data, check=True, stdout=subprocess.PIPE).stdout,
}
FIRST: dict[str, guest_cpio.Content] = {"kernel/x86/microcode/GenuineIntel.bin": b"microcode" * 100}
SECOND: dict[str, guest_cpio.Content] = {
    "etc/name": b"second",
    "etc/only-second": b"x" * 5000,
    "init": Symlink("usr/bin/init"),
    "usr/bin/init": (b"#!", 0o755),
}
THIRD: dict[str, guest_cpio.Content] = {"etc/name": b"third"}


def _aligned(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_early_microcode_then_compressed_then_appended(compression: str) -> None:
    if compression in ("zstd", "lz4") and not shutil.which(compression):
        pytest.skip(f"the program {compression} is not installed")
    # What 'lz4' decompresses is the whole rest of the file.
    tail = b"" if compression == "lz4" else b"\0" * 300 + guest_cpio.archive(THIRD)
    content = _aligned(guest_cpio.archive(FIRST) + COMPRESSIONS[compression](guest_cpio.archive(SECOND))) + tail
    tree = _tree(content)
    assert tree.read("kernel/x86/microcode/GenuineIntel.bin") == FIRST["kernel/x86/microcode/GenuineIntel.bin"]
    assert tree.read("etc/only-second") == b"x" * 5000
    assert tree.read("etc/name") == (b"third" if tail else b"second")
    assert tree.read("init") == b"#!"
    assert tree.list("etc") == ["name", "only-second"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz"])
def test_only_whole_members_go_on_in_another_compressed_part(compression: str) -> None:
    """Linux 7.2 takes the first, and says of the others: "junk at the end of compressed archive"."""
    compress, members = COMPRESSIONS[compression], [_flat({name: name.encode() * 200}) for name in "ab"]
    whole = b"".join(members)
    tree = _tree(compress(members[0]) + compress(members[1]))
    assert (tree.read("a"), tree.read("b")) == (b"a" * 200, b"b" * 200)
    for cut in (50, 111, 200, len(members[0]) + 50):
        with pytest.raises(Damaged):
            initrdfile.unpack(compress(whole[:cut]) + compress(whole[cut:]))


def test_an_archive_that_is_not_aligned_is_none() -> None:
    """Linux 7.2 says "invalid magic at start of compressed archive"."""
    first, second = (guest_cpio.archive(files) for files in (SECOND, THIRD))
    packed = _aligned(COMPRESSIONS["gzip"](first))
    assert _tree(packed + bytes(4) + second).read("etc/name") == b"third"
    for gap in (1, 2, 3):
        with pytest.raises(Damaged, match="neither cpio nor a known compression"):
            initrdfile.unpack(packed + bytes(gap) + second)


def _cpio(directory: Path, *options: str) -> bytes:
    if not shutil.which("cpio"):
        pytest.skip("the program cpio is not installed")
    names = "\n".join(sorted(str(p.relative_to(directory)) for p in directory.rglob("*")))
    command = ["cpio", "--quiet", "-o", "-H", "newc", *options]
    return subprocess.run(command, input=names.encode(), cwd=directory, check=True, stdout=subprocess.PIPE).stdout


@pytest.mark.parametrize("options", [(), ("--reproducible",)], ids=["plain", "reproducible"])
def test_hard_links_of_gnu_cpio(tmp_path: Path, options: tuple[str, ...]) -> None:
    """dracut makes hard links of equal files, and only one of them has the content."""
    (tmp_path / "a").write_bytes(b"content")
    for name in ("b", "c"):
        os.link(tmp_path / "a", tmp_path / name)
    (tmp_path / "empty").touch()
    tree = _tree(_cpio(tmp_path, *options))
    assert [tree.read(name) for name in ("a", "b", "c", "empty")] == [b"content", b"content", b"content", b""]


LINKS: dict[str, guest_cpio.Content] = {
    "usr/lib/real": b"real",
    "lib": Symlink("usr/lib"),
    "absolute": Symlink("/usr/lib/real"),
    "relative": Symlink("usr/../usr/lib/real"),
    "usr/up": Symlink("../../../../lib/real"),
    "dangling": Symlink("/nowhere"),
    "loop": Symlink("loop"),
    "a": Symlink("b"),
    "b": Symlink("a"),
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [("lib/real", b"real"), ("/lib/real", b"real"), ("absolute", b"real"), ("relative", b"real"), ("usr/up", b"real"),
     ("dangling", None), ("loop", None), ("a", None), ("lib", None), ("nothing", None)],
)  # fmt: skip
def test_links(path: str, expected: bytes | None) -> None:
    assert _tree(guest_cpio.archive(LINKS)).read(path) == expected


def test_a_later_archive_writes_through_a_link_to_a_directory() -> None:
    tree = _tree(guest_cpio.archive(LINKS) + _flat({"lib/real": b"replaced"}))
    assert tree.read("usr/lib/real") == b"replaced"


def _flat(files: dict[str, bytes]) -> bytes:
    """An archive without entries for directories."""
    members = [guest_cpio._member(name, 0o100644, content, 1) for name, content in files.items()]
    return b"".join(members) + guest_cpio._member("TRAILER!!!", 0, b"", 0)


def test_written_out_for_the_boots_own_code(tmp_path: Path) -> None:
    pem = certificate("p256").read_bytes()
    files: dict[str, guest_cpio.Content] = {
        "etc/bootseal/keys.d/a.pem": pem,
        "etc/bootseal/keys.d/masked.crt": Symlink("/dev/null"),
        "usr/lib/bootseal/keys.d/masked.crt": pem,
        "usr/lib/bootseal/keys.d/link.crt": Symlink("/usr/share/certificate"),
        "usr/share/certificate": certificate("p384").read_bytes(),
        "etc/bootseal/keys.d/outside.crt": Symlink(f"{tmp_path}/outside.pem"),
        "etc/bootseal/bootseal.conf": b"[Enroll]\nMethod=none\n",
        "etc/bootseal/bootseal.conf.d/10.conf": b"[Enroll]\nMethod=fsverity\n",
    }
    (tmp_path / "outside.pem").write_bytes(pem)
    directories = ["etc/bootseal", "etc/bootseal/bootseal.conf.d", "etc/bootseal/keys.d", "usr/lib/bootseal/keys.d"]
    with initrdfile.written_out(_tree(guest_cpio.archive(files)), directories) as top:
        assert config.load(top).method == "fsverity"
        paths = config.drop_ins(top, keyring.DIRECTORY, keyring.SUFFIXES)
        assert [Path(path).name for path in paths] == ["a.pem", "link.crt"]
        assert not [p for p in Path(top).rglob("*") if p.is_symlink() and os.readlink(p) != "/dev/null"]
    assert not Path(top).exists()


GOOD = guest_cpio.archive(SECOND)
DAMAGED = {
    "empty": b"",
    "zeros": bytes(512),
    "text": b"this is no initrd",
    "cut-header": GOOD[:50],
    "cut-content": GOOD[:400],
    "bad-number": GOOD.replace(b"070701", b"070701zz", 1)[: len(GOOD)],
    "cut-gzip": gzip.compress(GOOD)[:-20],
    "cut-xz": lzma.compress(GOOD)[:-20],
    "junk-after": GOOD + b"junk",
    "zstd-header-only": b"\x28\xb5\x2f\xfd",
    "compressed-junk": gzip.compress(b"junk"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged(content: bytes) -> None:
    with pytest.raises(Damaged):
        initrdfile.unpack(content)


@pytest.mark.parametrize("options", [[], ["--no-check"], ["-19", "--long=27"], ["--content-size"], ["-T2"]], ids=str)
@pytest.mark.parametrize(
    "content", [bytes(1 << 20), os.urandom(300_000), b"x" * 100, b"ab" * 200_000], ids=["rle", "raw", "small", "mixed"]
)
def test_zstd_frames_of_all_kinds(content: bytes, options: list[str]) -> None:
    packed = subprocess.run(["zstd", "-qc", *options], input=_flat({"big": content}), check=True, stdout=subprocess.PIPE).stdout
    tree = _tree(_aligned(packed) + guest_cpio.archive(THIRD))
    assert tree.read("big") == content[: initrdfile.MAX_CONTENT]
    assert tree.read("etc/name") == b"third"


def test_every_truncation_of_zstd_is_told() -> None:
    whole = _zstd(GOOD)
    for size in range(4, len(whole)):
        with pytest.raises(Damaged):
            initrdfile.unpack(whole[:size])


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "none"])
def test_a_bomb_is_stopped_where_the_limit_is(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = COMPRESSIONS[compression](_flat({"a": b"a"}) + bytes(100 << 20))
    monkeypatch.setattr(initrdfile, "MAX_SIZE", 8 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="unpacks to more than"):
            initrdfile.unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_what_is_skipped_is_not_kept() -> None:
    content = _flat({"a": os.urandom(1 << 20) * 64, "b": b"b"})
    packed = _zstd(content)
    del content
    tracemalloc.start()
    try:
        assert _tree(packed).read("b") == b"b"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("compression", "gap"), [("none", 1 << 26), ("zstd", 1 << 26), ("zstd", (1 << 26) + 3)])
def test_zeros_are_passed_over_at_once(compression: str, gap: int) -> None:
    pack = COMPRESSIONS[compression]
    content = pack(_flat({"a": b"a"}) + bytes(gap)) + bytes(gap) + pack(_flat({"b": b"b"}))
    with at_most(lines=100_000):
        tree = _tree(content)
        assert (tree.read("a"), tree.read("b")) == (b"a", b"b")


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_never_ends_is_no_initrd(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "initrd"
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    with pytest.raises(Damaged, match="not a regular file"):
        initrdfile.read([str(path)])
    with pytest.raises(Damaged, match="not a regular file"):
        initrdfile.pe_sections(str(path), (".cmdline",))


def _pe(sections: dict[str, bytes]) -> bytes:
    """A PE file with just these sections, as little of one as a reader needs."""
    header = b"MZ" + bytes(58) + struct.pack("<I", 64)
    header += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 16, 0) + bytes(16)
    offset, table, body = len(header) + 40 * len(sections), b"", b""
    for name, content in sections.items():
        table += struct.pack("<8sIIII16x", name.encode(), len(content), 0, len(content) + 100, offset + len(body))
        body += content + bytes(100)
    return header + table + body


def test_uki(tmp_path: Path) -> None:
    path = tmp_path / "linux.efi"
    path.write_bytes(_pe({".linux": b"kernel", ".cmdline": b"ostree=/x\0", ".initrd": guest_cpio.archive(THIRD)}))
    assert initrdfile.pe_sections(str(path), (".cmdline",)) == {".cmdline": b"ostree=/x\0"}
    assert initrdfile.read([str(path)]).read("etc/name") == b"third"


def test_a_section_that_claims_to_be_large_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "linux.efi"
    content = _pe({".cmdline": b"ostree=/x"})
    path.write_bytes(content.replace(struct.pack("<II", 9, 0), struct.pack("<II", 1 << 31, 0)).replace(
        struct.pack("<I", 109), struct.pack("<I", 1 << 31)))  # fmt: skip
    tracemalloc.start()
    try:
        assert initrdfile.pe_sections(str(path), (".cmdline",))[".cmdline"].startswith(b"ostree=/x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", range(2, 200, 7))
def test_cut_uki(tmp_path: Path, size: int) -> None:
    path = tmp_path / "linux.efi"
    path.write_bytes(_pe({".initrd": guest_cpio.archive(THIRD)})[:size])
    with pytest.raises(Damaged):
        initrdfile.read([str(path)])


def test_several_files_are_one_initrd(tmp_path: Path) -> None:
    for name, files in (("1", FIRST), ("2", SECOND), ("3", THIRD)):
        (tmp_path / name).write_bytes(guest_cpio.archive(files) + b"\0")
    tree = initrdfile.read([str(tmp_path / name) for name in "123"])
    assert tree.read("etc/name") == b"third"
    assert tree.exists("kernel/x86/microcode")
