# SPDX-License-Identifier: LGPL-2.1-or-later
"""The readers of reports, on texts. No guest is booted."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm.harness import guest, parse
from vm.harness.ask import ask
from vm.harness.parse import Said, Told

REPORT = """\
guest: boot.json
{"verdict": "no-image"}
guest: mountinfo
40 2 254:0 / /sysroot ro,relatime shared:28 - ext4 /dev/vda ro
guest: emergency script

=== unit
ActiveState=failed
StatusText=a=b

=== a title of words
word

"""
MOUNTS = """\
1 0 0:3 / / rw - rootfs rootfs rw
2 1 0:4 / /usr ro,nosuid shared:1 master:2 - erofs /dev/loop0 ro,user_xattr
3 2 0:5 /etc /usr rw - tmpfs tmpfs rw
"""


def said(report: str, status: int = guest.PASSED) -> Said:
    return Said(guest.Result(status, "exit", "\x1b[0;1mline\x1b[0m\n", report, Path("/overlay"), 1.0))


def test_report_splits_into_sections_of_both_kinds() -> None:
    names = ["boot.json", "mountinfo", "emergency script", "unit", "a title of words"]
    assert list(parse.sections(REPORT)) == names
    assert said(REPORT)["a title of words"] == "word"
    assert said(REPORT).unit() == {"ActiveState": "failed", "StatusText": "a=b"}
    assert [mount.target for mount in said(REPORT).mounts("mountinfo")] == ["/sysroot"]


def test_script_and_report_agree_on_marks() -> None:
    lines = ask(one="true", two="true").splitlines()
    marks = [line.removeprefix("printf '\\n").removesuffix("\\n'") for line in lines if line.startswith("printf")]
    assert list(parse.sections("\n".join(marks) + "\n")) == ["one", "two"]


def test_record_of_the_script_replaces_that_of_the_emergency_environment() -> None:
    assert said(REPORT).record == {"verdict": "no-image"}
    assert said(REPORT + '=== record\n{"verdict": "verified"}\n').record == {"verdict": "verified"}


def test_missing_section_shows_the_end_of_the_report() -> None:
    with pytest.raises(AssertionError, match=r"no section other: exit 123[^$]*--- report[^$]*word"):
        said(REPORT)["other"]


def test_other_status_shows_both() -> None:
    with pytest.raises(AssertionError, match="exit 87, not 123"):
        said(REPORT, guest.FAILED).must_end()
    said(REPORT, guest.REFUSED).must_end(guest.REFUSED)


def test_console_has_no_colours() -> None:
    assert said(REPORT).console == ["line"]


def test_later_mount_hides_an_earlier_one() -> None:
    found = said(f"=== mounts\n{MOUNTS}")
    assert found.mounts()[1] == parse.Mount("/", "/usr", ("ro", "nosuid"), "erofs", "/dev/loop0", ("ro", "user_xattr"))
    assert {target: mount.fstype for target, mount in found.topmost().items()} == {"/": "rootfs", "/usr": "tmpfs"}


def test_keys_keep_their_description_with_blanks() -> None:
    line = "0a1b2c3d I------     1 perm 08030000     0     0 asymmetri bootseal:ab: X509.id []"
    (key,) = said(f"=== keys\n{line}\n").kernel_keys()
    assert key == parse.Key(0x0A1B2C3D, "08030000", 0, "asymmetri", "bootseal:ab: X509.id []")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('said {"b"\n{\n  "a": {"b": 1}\n}\nstatus 0', {"a": {"b": 1}}),
        ('{"a": 1}\n{"a": 2}', {"a": 1}),
    ],
    ids=["alone", "between", "first"],
)
def test_first_json_of_a_section(section: str, expected: dict[str, object]) -> None:
    assert parse.first_json(section) == expected


def test_last_json_and_json_lines() -> None:
    assert parse.last_json('{\n}\n{"a": 1}') == {"a": 1}
    assert parse.json_lines('x\n{"a": 1}\n\n{"a": 2}') == [{"a": 1}, {"a": 2}]
    with pytest.raises(AssertionError, match="no JSON: none"):
        parse.first_json("none")


def test_told_separates_status_output_and_errors() -> None:
    one, two = Told.all("status: 0\nout: {\nout: }\nerr: x\nstatus: 77\nerr: out: y")
    assert (one.status, one.out, one.err, one.json) == (0, "{\n}", "x", {})
    assert (two.status, two.out, two.err) == (77, "", "out: y")


def test_marks_end_before_what_is_not_covered() -> None:
    text = "Chain\n  kernel    image: x\n  unknown   \u2514 boot keyring: y\nNot covered by it:\n  kernel  other: z"
    assert Told(0, text, "").marks == {"image": "kernel", "boot keyring": "unknown"}
