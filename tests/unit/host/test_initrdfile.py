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

import pytest

from bootseal.host.initrd import archive, decompress, reader
from bootseal.host.initrd.archive import Damaged, Tree
from bootseal.host.inside import File
from bootseal.stages import config, keyring
from unit.support import at_most
from vm.harness import cpio
from vm.harness.cpio import Symlink

from .program import certificate


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, check=True, stdout=subprocess.PIPE).stdout


def _tree(content: bytes) -> Tree:
    return archive.unpack(content)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": _zstd,
    "lz4": lambda data: subprocess.run(["lz4", "-lqc"], input=data, check=True, stdout=subprocess.PIPE).stdout,
}
FIRST: dict[str, cpio.Content] = {"kernel/x86/microcode/GenuineIntel.bin": b"microcode" * 100}
SECOND: dict[str, cpio.Content] = {
    "etc/name": b"second",
    "etc/only-second": b"x" * 5000,
    "init": Symlink("usr/bin/init"),
    "usr/bin/init": (b"#!", 0o755),
}
THIRD: dict[str, cpio.Content] = {"etc/name": b"third"}


def _aligned(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_early_microcode_then_compressed_then_appended(compression: str) -> None:
    if compression in ("zstd", "lz4") and not shutil.which(compression):
        pytest.skip(f"the program {compression} is not installed")
    # What 'lz4' decompresses is the whole rest of the file.
    tail = b"" if compression == "lz4" else b"\0" * 300 + cpio.archive(THIRD)
    content = _aligned(cpio.archive(FIRST) + COMPRESSIONS[compression](cpio.archive(SECOND))) + tail
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
            archive.unpack(compress(whole[:cut]) + compress(whole[cut:]))


def test_an_archive_that_is_not_aligned_is_none() -> None:
    """Linux 7.2 says "invalid magic at start of compressed archive"."""
    first, second = (cpio.archive(files) for files in (SECOND, THIRD))
    packed = _aligned(COMPRESSIONS["gzip"](first))
    assert _tree(packed + bytes(4) + second).read("etc/name") == b"third"
    for gap in (1, 2, 3):
        with pytest.raises(Damaged, match="neither cpio nor a known compression"):
            archive.unpack(packed + bytes(gap) + second)


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


LINKS: dict[str, cpio.Content] = {
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
    assert _tree(cpio.archive(LINKS)).read(path) == expected


def test_a_later_archive_writes_through_a_link_to_a_directory() -> None:
    tree = _tree(cpio.archive(LINKS) + _flat({"lib/real": b"replaced"}))
    assert tree.read("usr/lib/real") == b"replaced"


def _flat(files: dict[str, bytes]) -> bytes:
    """An archive without entries for directories."""
    members = [cpio.entry(name, 0o100644, content, 1) for name, content in files.items()]
    return b"".join(members) + cpio.entry("TRAILER!!!", 0, b"", 0)


def test_written_out_for_the_boots_own_code(tmp_path: Path) -> None:
    pem = certificate("p256").read_bytes()
    files: dict[str, cpio.Content] = {
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
    with archive.written_out(_tree(cpio.archive(files)).contents(directories, ())) as top:
        assert config.load(top).method == "fsverity"
        paths = config.drop_ins(top, keyring.DIRECTORY, keyring.SUFFIXES)
        assert [Path(path).name for path in paths] == ["a.pem", "link.crt"]
        assert not [p for p in Path(top).rglob("*") if p.is_symlink() and os.readlink(p) != "/dev/null"]
    assert not Path(top).exists()


GOOD = cpio.archive(SECOND)
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
        archive.unpack(content)


@pytest.mark.parametrize("options", [[], ["--no-check"], ["-19", "--long=27"], ["--content-size"], ["-T2"]], ids=str)
@pytest.mark.parametrize(
    "content", [bytes(1 << 20), os.urandom(300_000), b"x" * 100, b"ab" * 200_000], ids=["rle", "raw", "small", "mixed"]
)
def test_zstd_frames_of_all_kinds(content: bytes, options: list[str]) -> None:
    packed = subprocess.run(["zstd", "-qc", *options], input=_flat({"big": content}), check=True, stdout=subprocess.PIPE).stdout
    tree = _tree(_aligned(packed) + cpio.archive(THIRD))
    assert tree.read("big") == content[: archive.MAX_CONTENT]
    assert tree.read("etc/name") == b"third"


def test_every_truncation_of_zstd_is_told() -> None:
    whole = _zstd(GOOD)
    for size in range(4, len(whole)):
        with pytest.raises(Damaged):
            archive.unpack(whole[:size])


def test_a_zstd_frame_of_empty_blocks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "_MAX_BLOCKS", 3)
    assert decompress._zstd_frame_size(memoryview(b"\x28\xb5\x2f\xfd\0\0" + bytes(6) + b"\1\0\0")) == 15
    with pytest.raises(ValueError, match="more than 3 blocks"):
        decompress._zstd_frame_size(memoryview(b"\x28\xb5\x2f\xfd\0\0" + bytes(9) + b"\1\0\0"))


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "none"])
def test_a_bomb_is_stopped_where_the_limit_is(compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = COMPRESSIONS[compression](_flat({"a": b"a"}) + bytes(100 << 20))
    monkeypatch.setattr(archive, "MAX_SIZE", 8 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="unpacks to more than"):
            archive.unpack(bomb)
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
    with pytest.raises(Damaged, match="not a regular file"), reader.opened([File("", "", str(path))]):
        pass
    assert reader.command_lines([File("", "", str(path))]) == {}


def _pe(sections: dict[str, bytes]) -> bytes:
    """A PE file with just these sections, as little of one as a reader needs."""
    header = b"MZ" + bytes(58) + struct.pack("<I", 64)
    header += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 16, 0) + bytes(16)
    offset, table, body = len(header) + 40 * len(sections), b"", b""
    for name, content in sections.items():
        table += struct.pack("<8sIIII16x", name.encode(), len(content), 0, len(content) + 100, offset + len(body))
        body += content + bytes(100)
    return header + table + body


def _sections(content: bytes, *names: str) -> dict[str, bytes]:
    return {name: bytes(section) for name, section in archive.sections(memoryview(content), names).items()}


def test_uki() -> None:
    content = _pe({".linux": b"kernel", ".cmdline": b"ostree=/x\0", ".initrd": cpio.archive(THIRD)})
    assert _sections(content, ".cmdline") == {".cmdline": b"ostree=/x\0"}
    assert archive.unpack(archive.initrd(memoryview(content))).read("etc/name") == b"third"


def test_of_sections_with_one_name_the_first_counts() -> None:
    """As for systemd-stub. None of them is copied, however many there are."""
    count = 65535
    entry = struct.Struct("<8sIIII16x")
    header = bytearray(_pe({})[:104])
    header[70:72] = struct.pack("<H", count)
    end = len(header) + entry.size * count
    sections = [entry.pack(b".cmdline", 5, 0, 5, end)] + [entry.pack(b".cmdline", 1 << 31, 0, 1 << 31, 0)] * (count - 1)
    content = bytes(header) + b"".join(sections) + b"first"
    tracemalloc.start()
    try:
        assert _sections(content, ".cmdline") == {".cmdline": b"first"}
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_section_that_claims_to_be_large_takes_no_memory() -> None:
    content = _pe({".cmdline": b"ostree=/x"})
    content = content.replace(struct.pack("<II", 9, 0), struct.pack("<II", 1 << 31, 0)).replace(
        struct.pack("<I", 109), struct.pack("<I", 1 << 31))  # fmt: skip
    tracemalloc.start()
    try:
        assert _sections(content, ".cmdline")[".cmdline"].startswith(b"ostree=/x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", range(2, 200, 7))
def test_cut_uki(size: int) -> None:
    content = _pe({".initrd": cpio.archive(THIRD)})[:size]
    with pytest.raises(Damaged):
        archive.unpack(archive.initrd(memoryview(content)))


def test_several_files_are_one_initrd() -> None:
    tree = archive.unpack(*(cpio.archive(files) + b"\0" for files in (FIRST, SECOND, THIRD)))
    assert tree.read("etc/name") == b"third"
    assert tree.exists("kernel/x86/microcode")


# --- hostile archives


def _header(name: bytes, *, mode: int = 0o100644, links: int = 1, size: int | bytes = 0, name_size: int | bytes = 0) -> bytes:
    """A header and a name, with numbers as they are given."""
    fields: list[int | bytes] = [1, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size or len(name), 0]
    return b"070701" + b"".join(f if isinstance(f, bytes) else b"%08X" % f for f in fields) + name


NUMBERS = [*b"-0000001|+0000001|0x000001|0X000001|0000_001| 0000001|0000001 |0000001\n|0000001\0|0000001g".split(b"|")]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", range(13))
def test_a_number_is_eight_hexadecimal_digits(number: bytes, field: int) -> None:
    content = bytearray(_header(b"a\0\0\0", size=8) + bytes(8))
    content[6 + 8 * field : 14 + 8 * field] = number
    with pytest.raises(Damaged, match="something else than hexadecimal digits"):
        archive.unpack(bytes(content))


@pytest.mark.parametrize("size", [b"0000000a", b"0000000A"])
def test_digits_may_be_of_either_case(size: bytes) -> None:
    assert _tree(_header(b"a\0", size=size) + b"0123456789" + bytes(2)).read("a") == b"0123456789"


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        (b"d/" * 2047 + b"a\0", {}, "d/" * 2047 + "a"),
        (b"d/" * 2047 + b"aa\0", {}, None),
        (b"", {"size": 4}, None),
        (b"ab", {}, None),
        (b"a\0b\0", {}, "a"),
        (b"../../etc/./a\0", {}, "etc/a"),
        (b"/etc/a\0", {}, "etc/a"),
        (b"a\0", {"mode": 0o120777, "size": 4096}, "a"),
        (b"a\0", {"mode": 0o120777, "size": 4097}, None),
    ],
    ids=["longest", "too-long", "empty", "without-end", "after-the-end", "above", "absolute", "longest-link", "too-long-link"],
)
def test_names_as_the_kernel_limits_them(name: bytes, options: dict[str, int], found: str | None) -> None:
    header = _header(name, **options)
    content = header + bytes(-len(header) % 4) + b"x" * 4100 * ("size" in options)
    content = content[: len(header) + -len(header) % 4 + options.get("size", 0)]
    if found:
        assert list(_tree(_aligned(content))._members) == [found]
    else:
        with pytest.raises(Damaged, match="whose name is cut off" if name == b"ab" else "without a name"):
            _tree(_aligned(content))


def test_a_long_name_is_not_unpacked() -> None:
    packed = gzip.compress(_header(b"", name_size=0x7FFFFFFF) + bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="more than 4096 bytes"):
            _tree(packed)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_name_that_no_filesystem_takes_is_not_there() -> None:
    tree = _tree(_flat({"keys.d/" + "a" * 255: b"", "keys.d/" + "b" * 256: b""}))
    assert list(tree._members) == ["keys.d/" + "a" * 255]


def test_hard_links_are_one_inode() -> None:
    """Whichever of them has the content; if several have, the last one's is written over the others'."""
    links = [_aligned(_header(b"%07d\0" % number, links=2, size=4)) + b"%04d" % number for number in range(8000)]
    tree = _tree(b"".join(links) + _aligned(_header(b"last\0", links=2)))
    assert len({id(member) for member in tree._members.values()}) == 1
    assert (tree.read("0000000"), tree.read("last")) == (b"7999", b"7999")


def test_an_inode_ends_with_its_archive_and_has_one_type() -> None:
    one = _aligned(_header(b"a\0", links=2, size=4)) + b"aaaa" + _aligned(_header(b"p\0", links=2, mode=0o010644))
    other = _aligned(_header(b"b\0", links=2, size=4)) + b"bbbb"
    tree = _tree(one + _aligned(_header(b"TRAILER!!!\0")) + other)
    assert (tree.read("a"), tree.read("b"), tree.read("p")) == (b"aaaa", b"bbbb", None)


def test_a_hard_link_replaces_a_file_of_an_earlier_archive() -> None:
    empty = _aligned(_header(b"a\0", links=2))
    other = _aligned(_header(b"b\0", links=2, size=4)) + b"new\n"
    assert _tree(_flat({"a": b"old"}) + empty).read("a") == b""
    tree = _tree(_flat({"a": b"old", "c": b"c"}) + empty + other)
    assert [tree.read(name) for name in "abc"] == [b"new\n", b"new\n", b"c"]


def test_a_later_archive_writes_into_a_file_and_its_hard_links() -> None:
    """The kernel opens what has the name; it removes only what is of another type."""
    pair = _aligned(_header(b"a\0", links=2)) + _aligned(_header(b"b\0", links=2, size=4)) + b"old\n"
    end = _aligned(_header(b"TRAILER!!!\0"))
    tree = _tree(pair + end + _flat({"a": b"new"}))
    assert [tree.read(name) for name in "ab"] == [b"new", b"new"]
    tree = _tree(pair + end + cpio.archive({"a": Symlink("b")}))
    assert [tree.read(name) for name in "ab"] == [b"old\n", b"old\n"]


def test_a_path_that_is_too_long_leads_nowhere() -> None:
    members = {"a" * size: archive.Member(0o040755, b"") for size in (4096, 4097)}
    tree = Tree(members | {f"{name}/b": archive.Member(0o100644, b"b") for name in members})
    assert [tree.exists(f"{name}/b") for name in members] == [True, False]


def test_a_link_to_a_name_that_another_member_took() -> None:
    first, other, last = (_header(name, links=links, size=4, mode=mode) for name, links, mode in
                          ((b"a\0", 2, 0o100644), (b"a\0", 1, 0o120777), (b"b\0", 2, 0o100644)))  # fmt: skip
    tree = _tree(
        b"".join(_aligned(header) + content for header, content in ((first, b"1111"), (other, b"gone"), (last, b"2222")))
    )
    assert (tree.link_target("a"), tree.read("b")) == ("gone", b"2222")


MEMBERS = {name: name.encode() * 10 for name in "abcdefghi"}
ONE_BY_ONE = [_flat({name: content}) for name, content in MEMBERS.items()]
PACKED = b"".join(_aligned(gzip.compress(archive)) for archive in ONE_BY_ONE)


@pytest.mark.parametrize(
    ("limit", "value", "content", "reason"),
    [
        ("MAX_MEMBERS", 10, _flat(MEMBERS), "more than 9 members"),
        ("MAX_MEMBERS", 10, gzip.compress(_flat(MEMBERS)), "more than 9 members"),
        ("MAX_MEMBERS", 18, gzip.compress(b"".join(ONE_BY_ONE)), "more than 17 members"),
        ("MAX_KEPT", 109, _flat(MEMBERS), "more than 108 bytes in the names and contents"),
        ("MAX_ARCHIVES", 9, b"".join(ONE_BY_ONE), "more than 8 archives"),
        ("MAX_ARCHIVES", 9, PACKED, "more than 8 archives"),
        ("MAX_SIZE", sum(map(len, ONE_BY_ONE)), PACKED, "unpacks to more than"),
        ("MAX_STEPS", 18, _flat({f"d/{name}": b"" for name in MEMBERS}), "more than"),
    ],
    ids=["members", "members-compressed", "trailers", "kept", "archives", "compressed-archives", "many-bombs", "steps"],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, content: bytes, reason: str) -> None:
    monkeypatch.setattr(archive, limit, value)
    _tree(content)
    monkeypatch.setattr(archive, limit, value - 1 if limit != "MAX_STEPS" else 8)
    with pytest.raises(Damaged, match=reason):
        _tree(content)


def test_a_farm_of_links_ends() -> None:
    """Each member costs 32,768 steps: a few dozen of them are too many."""
    farm: dict[str, cpio.Content] = {f"l{n}": Symlink("./" * 2040 + f"l{n + 1}") for n in range(15)}
    with pytest.raises(Damaged, match="steps to follow its paths and links"):
        _tree(cpio.archive(farm | {"l15": b""}) + _flat({f"l0/{n}": b"" for n in range(100)}))
