# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test cmdline.py: every malformed command line is refused, and quoting follows next_arg() of the kernel."""

from pathlib import Path

import pytest

from bootseal.stages import cmdline
from bootseal.values import Wish
from unit.support import raising, refusal, verdict

TARGET = "/ostree/boot.1/os/abc/0"
OSTREE = f"ostree={TARGET}"

ACCEPTED = {
    "alone": OSTREE,
    "newline at the end": OSTREE + "\n",
    "among others": f"root=UUID=1 rw {OSTREE} quiet",
    "spaces and tabs around": f"  \t{OSTREE}\t  quiet ",
    "twice the same": f"{OSTREE} {OSTREE}",
    "argument quoted": f'"{OSTREE}"',
    "value quoted": f'ostree="{TARGET}"',
    "value quoted, argument after": f'ostree="{TARGET}" init=/sbin/init',
    "quoted argument with a space before": f'dyndbg="file a.c +p" {OSTREE}',
    "quoted ostree= of somebody else": f'other="ostree=/ostree/x" {OSTREE}',
    "after -- not looked at": f"{OSTREE} -- ostree=/ostree/other rd.bootseal.x",
    "key that only begins so": f"ostree.prepare-root.composefs=0 {OSTREE} ostreex=/a xostree=/b",
    "boot loader junk": f"BOOT_IMAGE=(hd0,gpt2)/ostree/x/vmlinuz {OSTREE}",
    "longest": "ostree=/ostree/" + "a" * 1016,
    "last printable": "ostree=/ostree/aaa~",
}

BAD = {
    "empty value": "ostree=",
    "empty quoted value": 'ostree=""',
    "without =": "ostree",
    "two different": f"{OSTREE} ostree=/ostree/boot.0/os/abc/0",
    "one of two without =": f"{OSTREE} ostree",
    "one of two empty": f"ostree= {OSTREE}",
    "relative": "ostree=ostree/boot.1/os/abc/0",
    "relative path": "ostree=boot.1",
    "another root": "ostree=/boot/ostree.0",
    "/ostree alone": "ostree=/ostree",
    "/ostree/ alone": "ostree=/ostree/",
    "/ostreex": "ostree=/ostreex/boot.1",
    "dot": "ostree=/ostree/./x",
    "dot at the end": "ostree=/ostree/x/.",
    "dot dot": "ostree=/ostree/../../etc",
    "dot dot at the end": "ostree=/ostree/..",
    "two slashes": "ostree=/ostree//boot.1",
    "two slashes at the start": "ostree=//ostree/boot.1",
    "slash at the end": "ostree=/ostree/boot.1/",
    "quote never closed": f'"{OSTREE}',
    "value quote never closed": f'ostree="{TARGET}',
    "quote of another argument never closed": f'{OSTREE} a="b',
    "NUL": "ostree=/ostree/a\0b",
    "escape": "ostree=/ostree/a\x1b[2Jb",
    "newline in quotes": 'ostree="/ostree/a\nb"',
    "delete": "ostree=/ostree/a\x7f",
    "non-ASCII": "ostree=/ostree/\xe4",
    "invalid UTF-8": "ostree=/ostree/\udcff",
    "4096 bytes": "ostree=/ostree/" + "a" * 4096,
    "too long by one": "ostree=/ostree/" + "a" * 1017,
    "unknown own argument": f"{OSTREE} rd.bootseal.degub",
    "unknown own argument with value": f"{OSTREE} rd.bootseal.verify=no",
    "unknown own argument before": f"rd.bootseal.x {OSTREE}",
    "own prefix alone": f"{OSTREE} rd.bootseal.",
    "debug twice, one bad": f"{OSTREE} rd.bootseal.debug=maybe rd.bootseal.debug",
    "debug empty": f"{OSTREE} rd.bootseal.debug=",
    "debug upper case": f"{OSTREE} rd.bootseal.debug=YES",
    "upper-case own argument": f"{OSTREE} rd.bootseal.DEBUG",
    "dash for dot is another argument": f"{OSTREE} rd.bootseal.de-bug",
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_ostree_target_is_accepted(text: str) -> None:
    expected = text[text.index("/") :] if text.startswith("ostree=/ostree/aaa") else TARGET
    assert cmdline.parse(text).wishes == (Wish("ostree", expected),)


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_malformed_command_line_is_refused(text: str) -> None:
    found = refusal(cmdline.parse, text)
    assert found.verdict.name == "bad-command-line"
    assert all(" " <= c <= "~" for c in str(found) + found.hint)


IMAGE, OTHER = "ab" * 32, "cd" * 64
COMPOSEFS = {
    "bare": (f"composefs={IMAGE}", [IMAGE]),
    "with a format": (f"root=/dev/vda composefs.digest=v1-sha512-12:{OTHER} rw", [OTHER]),
    "several, in order": (f"composefs.digest=v2-sha512-12:{OTHER} composefs={IMAGE}", [OTHER, IMAGE]),
    "one twice": (f"composefs={IMAGE} composefs.digest=v1-sha256-12:{IMAGE}", [IMAGE]),
    "quoted": (f'"composefs={IMAGE}"', [IMAGE]),
}


@pytest.mark.parametrize(("text", "images"), COMPOSEFS.values(), ids=COMPOSEFS)
def test_images_of_a_repository(text: str, images: list[str]) -> None:
    assert cmdline.parse(text).wishes == tuple(Wish("composefs", image) for image in images)


BAD_COMPOSEFS = {
    "no enforcement": f"composefs=?{IMAGE}",
    "one of two without enforcement": f"composefs={IMAGE} composefs.digest=?v1-sha512-12:{OTHER}",
    "without =": "composefs",
    "empty": "composefs.digest=",
    "no digest": "composefs=on",
    "both kinds": f"{OSTREE} composefs={IMAGE}",
    "ostree and a list": f"{OSTREE} bootseal.root=/roots",
    "an image and a list": f"composefs={IMAGE} bootseal.root=/roots",
    "list without =": "bootseal.root",
    "empty list": "bootseal.root=",
    "two lists": "bootseal.root=/a bootseal.root=/b",
    "relative list": "bootseal.root=roots",
    "list above the root": "bootseal.root=/../roots",
    "list with an empty component": "bootseal.root=/a//b",
    "list that is no ASCII": "bootseal.root=/\xe4",
}


@pytest.mark.parametrize("text", BAD_COMPOSEFS.values(), ids=BAD_COMPOSEFS)
def test_malformed_selection_of_an_image_is_refused(text: str) -> None:
    found = refusal(cmdline.parse, text)
    assert found.verdict.name == "bad-command-line"
    assert all(" " <= c <= "~" for c in str(found))


def test_list_on_the_disk() -> None:
    request = cmdline.parse("rw bootseal.root=/state/roots")
    assert (request.wishes, request.root_list) == ((), "state/roots")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("", ""), ("systemd.volatile=state", "state"), ("systemd.volatile=yes systemd.volatile=overlay", "overlay")],
)
def test_volatile(argument: str, value: str) -> None:
    assert cmdline.parse(f"{OSTREE} {argument}").volatile == value


@pytest.mark.parametrize("text", ["", "\n", "root=/dev/vda rw", f"-- {OSTREE}", 'a="ostree=/ostree/x"'])
def test_missing_ostree_is_no_deployment(text: str) -> None:
    assert verdict(cmdline.parse, text) == "no-deployment"


def test_quoted_space_is_part_of_the_path() -> None:
    assert cmdline.parse('ostree="/ostree/boot.1/a b"').wishes == (Wish("ostree", "/ostree/boot.1/a b"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b=c", [("a", None), ("b", "c")]),
        ("a= b", [("a", ""), ("b", None)]),
        ("a=b=c", [("a", "b=c")]),
        ('a="b c" d', [("a", "b c"), ("d", None)]),
        ('"a=b c" d', [("a", "b c"), ("d", None)]),
        ('"a b"', [("a b", None)]),
        ('a=b" "c', [("a", 'b" "c')]),
        ('a="b"c', [("a", 'b"c')]),
        ("a -- b", [("a", None)]),
        ("a --b", [("a", None), ("--b", None)]),
    ],
)
def test_split_into_keys_and_values(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert cmdline.split(text) == expected


@pytest.mark.parametrize("separator", [" ", "\t", "\n", "\v", "\f", "\r"])
def test_kernel_whitespace_separates_arguments(separator: str) -> None:
    assert cmdline.split(f"a{separator}b") == [("a", None), ("b", None)]


@pytest.mark.parametrize("character", ["\x1c", "\x1f", "\x85", "\u2003", "\u3000"], ids=ascii)
def test_other_whitespace_does_not_separate_arguments(character: str) -> None:
    """Python's str.isspace() accepts more characters than isspace() of the kernel."""
    assert cmdline.split(f"a{character}b") == [(f"a{character}b", None)]


@pytest.mark.parametrize(
    ("argument", "debug"),
    [
        ("", False),
        ("rd.bootseal.debug", True),
        ("rd.bootseal.debug=1", True),
        ("rd.bootseal.debug=yes", True),
        ("rd.bootseal.debug=no", False),
        ("rd.bootseal.debug rd.bootseal.debug=0", False),
        ("bootseal.debug", False),
        ("xrd.bootseal.debug", False),
    ],
)
def test_debug_argument(argument: str, *, debug: bool) -> None:
    assert cmdline.parse(f"{OSTREE} {argument}").debug is debug


@pytest.mark.parametrize(
    ("argument", "init"),
    [
        ("", ""),
        ("init=/bin/sh", "/bin/sh"),
        ("init=/a init=/b", "/b"),
        ("init", ""),
        ("rdinit=/x", ""),
        ("init=/a init=", "/a"),
    ],
)
def test_last_init_argument_counts(argument: str, init: str) -> None:
    assert cmdline.parse(f"{OSTREE} {argument}").init == init


def test_read_keeps_invalid_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cmdline"
    path.write_bytes(b"a=\xff b\n")
    monkeypatch.setattr(cmdline, "PATH", str(path))
    assert cmdline.read() == "a=\udcff b\n"


def test_read_keeps_carriage_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cmdline"
    path.write_bytes(b'a="b\rc\r\nd"\n')
    monkeypatch.setattr(cmdline, "PATH", str(path))
    assert cmdline.split(cmdline.read()) == [("a", "b\rc\r\nd")]


def test_read_without_proc_is_internal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmdline, "PATH", str(tmp_path / "missing"))
    assert verdict(cmdline.read) == "internal"


def test_read_denied_is_internal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", raising(13))
    assert verdict(cmdline.read) == "internal"
