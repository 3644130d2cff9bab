# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading an initrd as the kernel unpacks it: archives, compressions, links, UKIs; damaged ones are refused."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest

from bootseal.host.initrd import archive
from bootseal.host.initrd.archive import Tree
from bootseal.host.initrd.decompress import Damaged
from unit.support import at_most

from .initrds import (
    COMPRESSIONS,
    FIRST,
    GOOD,
    SECOND,
    THIRD,
    Content,
    Symlink,
    aligned,
    cpio_archive,
    flat_archive,
    member_header,
    unpack,
    zstd,
)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_early_microcode_then_compressed_then_appended(compression: str) -> None:
    if compression in ("zstd", "lz4") and not shutil.which(compression):
        pytest.skip(f"the program {compression} is not installed")
    # What 'lz4' decompresses is the whole rest of the file.
    tail = b"" if compression == "lz4" else b"\0" * 300 + cpio_archive(THIRD)
    content = aligned(cpio_archive(FIRST) + COMPRESSIONS[compression](cpio_archive(SECOND))) + tail
    tree = unpack(content)
    assert tree.read("kernel/x86/microcode/GenuineIntel.bin") == FIRST["kernel/x86/microcode/GenuineIntel.bin"]
    assert tree.read("etc/only-second") == b"x" * 5000
    assert tree.read("etc/name") == (b"third" if tail else b"second")
    assert tree.read("init") == b"#!"
    assert tree.list("etc") == ["name", "only-second"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz"])
def test_only_whole_members_go_on_in_another_compressed_part(compression: str) -> None:
    """Linux 7.2 takes the first, and says of the others: "junk at the end of compressed archive"."""
    compress, members = COMPRESSIONS[compression], [flat_archive({name: name.encode() * 200}) for name in "ab"]
    whole = b"".join(members)
    tree = unpack(compress(members[0]) + compress(members[1]))
    assert (tree.read("a"), tree.read("b")) == (b"a" * 200, b"b" * 200)
    for cut in (50, 111, 200, len(members[0]) + 50):
        with pytest.raises(Damaged):
            archive.unpack(compress(whole[:cut]) + compress(whole[cut:]))


def test_an_archive_that_is_not_aligned_is_none() -> None:
    """Linux 7.2 says "invalid magic at start of compressed archive"."""
    first, second = (cpio_archive(files) for files in (SECOND, THIRD))
    packed = aligned(COMPRESSIONS["gzip"](first))
    assert unpack(packed + bytes(4) + second).read("etc/name") == b"third"
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
    tree = unpack(_cpio(tmp_path, *options))
    assert [tree.read(name) for name in ("a", "b", "c", "empty")] == [b"content", b"content", b"content", b""]


LINKS: dict[str, Content] = {
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
    assert unpack(cpio_archive(LINKS)).read(path) == expected


def test_a_later_archive_writes_through_a_link_to_a_directory() -> None:
    tree = unpack(cpio_archive(LINKS) + flat_archive({"lib/real": b"replaced"}))
    assert tree.read("usr/lib/real") == b"replaced"


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


def test_what_is_skipped_is_not_kept() -> None:
    content = flat_archive({"a": os.urandom(1 << 20) * 64, "b": b"b"})
    packed = zstd(content)
    del content
    tracemalloc.start()
    try:
        assert unpack(packed).read("b") == b"b"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("compression", "gap"), [("none", 1 << 26), ("zstd", 1 << 26), ("zstd", (1 << 26) + 3)])
def test_zeros_are_passed_over_at_once(compression: str, gap: int) -> None:
    pack = COMPRESSIONS[compression]
    content = pack(flat_archive({"a": b"a"}) + bytes(gap)) + bytes(gap) + pack(flat_archive({"b": b"b"}))
    with at_most(lines=100_000):
        tree = unpack(content)
        assert (tree.read("a"), tree.read("b")) == (b"a", b"b")


def test_several_files_are_one_initrd() -> None:
    tree = archive.unpack(*(cpio_archive(files) + b"\0" for files in (FIRST, SECOND, THIRD)))
    assert tree.read("etc/name") == b"third"
    assert tree.exists("kernel/x86/microcode")


NUMBERS = [*b"-0000001|+0000001|0x000001|0X000001|0000_001| 0000001|0000001 |0000001\n|0000001\0|0000001g".split(b"|")]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", range(13))
def test_a_number_is_eight_hexadecimal_digits(number: bytes, field: int) -> None:
    content = bytearray(member_header(b"a\0\0\0", size=8) + bytes(8))
    content[6 + 8 * field : 14 + 8 * field] = number
    with pytest.raises(Damaged, match="other characters than hexadecimal digits"):
        archive.unpack(bytes(content))


@pytest.mark.parametrize("size", [b"0000000a", b"0000000A"])
def test_digits_may_be_of_either_case(size: bytes) -> None:
    assert unpack(member_header(b"a\0", size=size) + b"0123456789" + bytes(2)).read("a") == b"0123456789"


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
    header = member_header(name, **options)
    content = header + bytes(-len(header) % 4) + b"x" * 4100 * ("size" in options)
    content = content[: len(header) + -len(header) % 4 + options.get("size", 0)]
    if found:
        assert list(unpack(aligned(content))._members) == [found]
    else:
        with pytest.raises(Damaged, match="with a truncated name" if name == b"ab" else "without a name"):
            unpack(aligned(content))


def test_a_long_name_is_not_unpacked() -> None:
    packed = gzip.compress(member_header(b"", name_size=0x7FFFFFFF) + bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="more than 4096 bytes"):
            unpack(packed)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_name_that_no_filesystem_takes_is_not_there() -> None:
    tree = unpack(flat_archive({"keys.d/" + "a" * 255: b"", "keys.d/" + "b" * 256: b""}))
    assert list(tree._members) == ["keys.d/" + "a" * 255]


def test_hard_links_are_one_inode() -> None:
    """Whichever of them has the content; if several have, the last one's is written over the others'."""
    links = [aligned(member_header(b"%07d\0" % number, links=2, size=4)) + b"%04d" % number for number in range(8000)]
    tree = unpack(b"".join(links) + aligned(member_header(b"last\0", links=2)))
    assert len({id(member) for member in tree._members.values()}) == 1
    assert (tree.read("0000000"), tree.read("last")) == (b"7999", b"7999")


def test_an_inode_ends_with_its_archive_and_has_one_type() -> None:
    one = aligned(member_header(b"a\0", links=2, size=4)) + b"aaaa" + aligned(member_header(b"p\0", links=2, mode=0o010644))
    other = aligned(member_header(b"b\0", links=2, size=4)) + b"bbbb"
    tree = unpack(one + aligned(member_header(b"TRAILER!!!\0")) + other)
    assert (tree.read("a"), tree.read("b"), tree.read("p")) == (b"aaaa", b"bbbb", None)


def test_a_hard_link_replaces_a_file_of_an_earlier_archive() -> None:
    empty = aligned(member_header(b"a\0", links=2))
    other = aligned(member_header(b"b\0", links=2, size=4)) + b"new\n"
    assert unpack(flat_archive({"a": b"old"}) + empty).read("a") == b""
    tree = unpack(flat_archive({"a": b"old", "c": b"c"}) + empty + other)
    assert [tree.read(name) for name in "abc"] == [b"new\n", b"new\n", b"c"]


def test_a_later_archive_writes_into_a_file_and_its_hard_links() -> None:
    """The kernel opens what has the name; it removes only what is of another type."""
    pair = aligned(member_header(b"a\0", links=2)) + aligned(member_header(b"b\0", links=2, size=4)) + b"old\n"
    end = aligned(member_header(b"TRAILER!!!\0"))
    tree = unpack(pair + end + flat_archive({"a": b"new"}))
    assert [tree.read(name) for name in "ab"] == [b"new", b"new"]
    tree = unpack(pair + end + cpio_archive({"a": Symlink("b")}))
    assert [tree.read(name) for name in "ab"] == [b"old\n", b"old\n"]


def test_a_path_that_is_too_long_leads_nowhere() -> None:
    members = {"a" * size: archive.Member(0o040755, b"") for size in (4096, 4097)}
    tree = Tree(members | {f"{name}/b": archive.Member(0o100644, b"b") for name in members})
    assert [tree.exists(f"{name}/b") for name in members] == [True, False]


def test_a_link_to_a_name_that_another_member_took() -> None:
    first, other, last = (member_header(name, links=links, size=4, mode=mode) for name, links, mode in
                          ((b"a\0", 2, 0o100644), (b"a\0", 1, 0o120777), (b"b\0", 2, 0o100644)))  # fmt: skip
    tree = unpack(
        b"".join(aligned(header) + content for header, content in ((first, b"1111"), (other, b"gone"), (last, b"2222")))
    )
    assert (tree.link_target("a"), tree.read("b")) == ("gone", b"2222")


MEMBERS = {name: name.encode() * 10 for name in "abcdefghi"}
ONE_BY_ONE = [flat_archive({name: content}) for name, content in MEMBERS.items()]
PACKED = b"".join(aligned(gzip.compress(archive)) for archive in ONE_BY_ONE)


@pytest.mark.parametrize(
    ("limit", "value", "content", "reason"),
    [
        ("MAX_MEMBERS", 10, flat_archive(MEMBERS), "more than 9 members"),
        ("MAX_MEMBERS", 10, gzip.compress(flat_archive(MEMBERS)), "more than 9 members"),
        ("MAX_MEMBERS", 18, gzip.compress(b"".join(ONE_BY_ONE)), "more than 17 members"),
        ("MAX_KEPT", 109, flat_archive(MEMBERS), "more than 108 bytes in the names and contents"),
        ("MAX_ARCHIVES", 9, b"".join(ONE_BY_ONE), "more than 8 archives"),
        ("MAX_ARCHIVES", 9, PACKED, "more than 8 archives"),
        ("MAX_SIZE", sum(map(len, ONE_BY_ONE)), PACKED, "unpacks to more than"),
        ("MAX_STEPS", 18, flat_archive({f"d/{name}": b"" for name in MEMBERS}), "more than"),
    ],
    ids=["members", "members-compressed", "trailers", "kept", "archives", "compressed-archives", "many-bombs", "steps"],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, content: bytes, reason: str) -> None:
    monkeypatch.setattr(archive, limit, value)
    unpack(content)
    monkeypatch.setattr(archive, limit, value - 1 if limit != "MAX_STEPS" else 8)
    with pytest.raises(Damaged, match=reason):
        unpack(content)


def test_a_farm_of_links_ends() -> None:
    """Each member costs 32,768 steps: a few dozen of them are too many."""
    farm: dict[str, Content] = {f"l{n}": Symlink("./" * 2040 + f"l{n + 1}") for n in range(15)}
    with pytest.raises(Damaged, match="steps to follow its paths and links"):
        unpack(cpio_archive(farm | {"l15": b""}) + flat_archive({f"l0/{n}": b"" for n in range(100)}))
