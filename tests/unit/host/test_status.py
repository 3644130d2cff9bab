# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal status: host/status.py, chain.py, recheck.py, manager.py, devices.py, with systemd, udev and /run made here."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bootseal
from bootseal import report, verdicts
from bootseal.digest import Digest
from bootseal.errors import Refusal
from bootseal.host import cli
from bootseal.host.commands import status
from bootseal.host.live import blockdevices, chain, drift, gptauto, systemd
from bootseal.linux import efi, files, keyctl
from bootseal.linux.mountapi import MountInfo
from bootseal.record import Ending, Trail, as_json, of, parse, success
from bootseal.stages import image, kernelkeys, origin
from bootseal.values import Mounted, Origin, Release
from unit.host.schema import SCHEMA, errors
from unit.support import SERVICE, TREE, deployment, enrolled, kernel_keys, pinned, raising, trusting, verified

DIGEST = pinned().verified.digest
SOURCE = f"composefs:{DIGEST.value.hex()}"
ROOT_LINE = f"30 1 0:25 / / ro - overlay {SOURCE} ro,lowerdir=x,redirect_dir=on,metacopy=on,verity=require"
SYSROOT_LINE = "31 30 254:1 / /sysroot ro - ext4 /dev/vda1 ro"
USUAL = (
    ROOT_LINE, SYSROOT_LINE, "32 30 254:1 /e /etc rw - ext4 /dev/vda1 ro", "33 30 254:1 /v /var rw - ext4 /dev/vda1 ro",
    "34 30 0:5 / /proc rw - proc proc rw", "35 30 0:6 / /dev rw - devtmpfs udev rw", "36 35 0:7 / /dev/shm rw - tmpfs tmpfs rw",
    "37 30 0:8 / /run rw - tmpfs tmpfs rw", "38 30 0:9 / /tmp rw - tmpfs tmpfs rw", "39 33 0:10 / /var/tmp rw - tmpfs t rw",
)  # fmt: skip


def table(*lines: str) -> drift.Mounts:
    found = [drift.Mount(line) for line in (*USUAL, *lines)]
    return drift.Mounts(found[0], found)


def recorded(*not_covered: str, missing: tuple[Any, ...] = (), **changes: Any) -> dict[str, Any]:
    """The content of boot.json after a good boot, as the boot itself makes it."""
    seen = Trail()
    release = changes.pop("release", Release("edge", "41.3"))
    for value in (
        report.this_machine(), trusting("p256"), kernel_keys(sealed=changes.pop("sealed", True)), deployment(), verified(),
        pinned(), enrolled(missing, **changes), Origin(()) if not_covered else origin.look(),
        Mounted(-1, "ro,verity=require", b"", b"", not_covered or ("/etc", "/var"), release),
    ):  # fmt: skip
        seen(value)
    content: dict[str, Any] = json.loads(json.dumps(as_json(of(seen, success(seen)))))
    return content


def named(checks: list[drift.Check], name: str) -> drift.Check:
    (found,) = (check for check in checks if check.name == name)
    return found


INITRD, LINE = "initrd (not known)", "kernel command line (not known)"


class World:
    """What the functions of the program find, each of which a test may change."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.run, self.patch = directory / "run", patch
        self.run.mkdir()
        patch.setattr(report, "PATH", str(self.run / "boot.json"))
        self.write(recorded())
        self.sysroot = directory / "sysroot"
        (self.sysroot / deployment().path / "etc").mkdir(parents=True)
        self.etc("/etc")
        for module, name in ((origin, "_IMPORTED"), (origin, "_EXTRA"), (gptauto, "_GENERATED"), (gptauto, "_SWAPS")):
            patch.setattr(module, name, str(directory / name))
        self.mounted()
        self.measured(lambda *_: DIGEST)
        self.keys(str(DIGEST))
        self.firmware = chain.Firmware(secure_boot=False, unified=False)
        self.unit = systemd.Unit("loaded", "active", "exited", "success", "verified", 0)
        self.soft_reboots: int | None = 0
        own = drift.checks
        patch.setattr(drift, "checks", lambda record, now: own(record, now, str(self.sysroot)))
        patch.setattr(chain, "firmware", lambda: self.firmware)
        patch.setattr(systemd, "ask", lambda: systemd.Answer(self.unit, self.soft_reboots))
        disk = blockdevices.Device("/dev/vda", "disk", "", False, 0)
        patch.setattr(blockdevices, "behind", lambda _: ([disk], []))

    def write(self, record: object) -> None:
        (self.run / "boot.json").write_text(json.dumps(record))

    def etc(self, target: str) -> None:
        """What the deployment's own /etc is: a directory that is seen at /etc, or not."""
        own = str(self.sysroot / deployment().path / "etc")
        self.patch.setattr(drift, "_ETC", own if target == "/etc" else target)

    def mounted(self, *lines: str) -> None:
        self.patch.setattr(drift, "mounts", lambda: table(*lines))

    def measured(self, enforced: Callable[..., Digest]) -> None:
        self.patch.setattr(image, "enforced_digest", enforced)

    def keys(self, *held: str, locked: bool = True, ring: bool = True, uid: int = 0) -> None:
        self.patch.setattr(os, "geteuid", lambda: uid)
        self.patch.setattr(kernelkeys, "find_fsverity_keyring", lambda: 1)
        self.patch.setattr(kernelkeys, "is_locked", lambda _: locked)
        self.patch.setattr(kernelkeys, "list_members", lambda _: {kernelkeys.DIGEST_KEYRING: 2} if ring else {})
        self.patch.setattr(keyctl, "members", lambda _: tuple(range(10, 10 + len(held))))
        self.patch.setattr(keyctl, "read", lambda key: held[key - 10].encode())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    def call(mode: str = "off") -> Said:
        capfd.readouterr()
        result = status.run(argparse.Namespace(json=mode), [])
        return Said(result, *capfd.readouterr())

    yield call


# --- a good boot


def test_good_boot(world: World, said: Callable[..., Said]) -> None:
    found = said()
    assert (found.status, found.err) == (0, "")
    assert "verified, and still so" in found.out
    assert "measured now, and the same" in found.out
    assert str(DIGEST) in found.out
    assert "bootseal.service: active (exited), result success" in found.out
    assert len(found.out.splitlines()) <= 25, "one screen"
    assert max(map(len, found.out.splitlines())) <= 84


def test_what_is_covered_comes_before_the_disks_own_names(world: World, said: Callable[..., Said]) -> None:
    lines = said().out.splitlines()
    name = f"os/{deployment().checksum[:12]}.0"
    assert lines[1:4] == [
        "Image   edge 41.3, as its own os-release says",
        f"Digest  {DIGEST}",
        f"Root    {name}, as the disk names it; bootseal {bootseal.__version__}",
    ]
    for release, first in ((Release("edge", ""), "Image   edge, as"), (Release("", ""), "Digest  ")):
        world.write(recorded(release=release))
        assert said().out.splitlines()[1].startswith(first)


def test_links_of_the_image_that_lead_out(world: World, said: Callable[..., Said]) -> None:
    world.write(recorded("/etc", "/var", "/usr/local -> /var/usrlocal"))
    listed = {place["what"]: place["why"] for place in said("short").json["status"]["not_covered"]}
    assert listed["/usr/local -> /var/usrlocal"] == "a link of the image, to where code is looked for"
    assert "  /usr/local -> /var/usrlocal  a link of the image" in said().out
    assert max(map(len, said().out.splitlines())) <= 84


def test_json_is_the_record_and_more(world: World, said: Callable[..., Said]) -> None:
    found = said("short")
    record = json.loads((world.run / "boot.json").read_text())
    assert {key: found.json[key] for key in record} == record
    assert set(found.json) - set(record) == {"unit", "soft_reboots", "status"}
    assert found.json["unit"]["sub_state"] == "exited"
    assert found.out.count("\n") == 1
    assert errors(found.json) == []
    assert said("pretty").json == found.json


def test_links_of_a_good_boot(world: World, said: Callable[..., Said]) -> None:
    marks = {link["name"]: link["mark"] for link in said("short").json["status"]["chain"]}
    assert marks == {
        "Secure Boot": "not-verified", "initrd": "not-verified", "boot keyring": "not-verified", "signer": "kernel",
        "digest file": "kernel", "image": "kernel", "overlay": "kernel", "root": "kernel",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("firmware", "marks"),
    [
        (chain.Firmware(True, True, (LINE,)), ["firmware", "firmware", "firmware"]),
        (chain.Firmware(True, True, (INITRD, LINE)), ["firmware", "unknown", "unknown"]),
        (chain.Firmware(True, False), ["firmware", "not-verified", "not-verified"]),
        (chain.Firmware(False, True, shim_insecure=True), ["not-verified", "not-verified", "not-verified"]),
        (chain.Firmware(False, True), ["not-verified", "not-verified", "not-verified"]),
        (chain.Firmware(None, None), ["unknown", "unknown", "unknown"]),
    ],
)
def test_firmware_links(firmware: chain.Firmware, marks: list[str]) -> None:
    assert [link.mark for link in chain.links(parse(recorded()), firmware, [], table())[:3]] == marks
    listed = chain.not_covered(parse(recorded("/etc", "initrd", INITRD)), firmware, table(), 0)
    said = {place.what + (origin.NOT_KNOWN if place.why.startswith("not known: ") else ""): place.why for place in listed}
    assert [*said] == ["/etc", *firmware.unauthenticated]
    assert len(listed) == len(said)


def test_shim_s_validation_is_named() -> None:
    off, on = chain.Firmware(False, True, shim_insecure=True), chain.Firmware(True, True, (LINE,))
    assert [chain.links(parse(recorded()), firmware, [], table())[0].text for firmware in (off, on)] == [
        "shim's validation is off",
        "on",
    ]


def test_signature_that_userspace_alone_checked() -> None:
    links = {
        link.name: link.mark
        for link in chain.links(parse(recorded(kernel_checked=False)), chain.Firmware(None, None), [], table())
    }
    assert (links["signer"], links["digest file"]) == ("bootseal", "bootseal")


def test_what_was_not_looked_at_is_unknown() -> None:
    links = {link.name: link.mark for link in chain.links(parse(recorded()), chain.Firmware(None, None), [], table())}
    assert {links[name] for name in ("image", "overlay", "root")} == {"unknown"}


STUB = b"\6\0\0\0" + "systemd-stub 257\0".encode("utf-16-le")
BOTH = ("initrd", "kernel command line")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (True, True, (LINE,), False)),
        ({efi.SECURE_BOOT: b"\6\0\0\0\0"}, (False, True, BOTH, False)),
        ({efi.SECURE_BOOT: b""}, (False, True, BOTH, False)),
        ({efi.SECURE_BOOT: None}, (False, True, BOTH, False)),
        ({efi.STUB_INFO: b"\7" + STUB[1:]}, (True, False, BOTH, False)),
        ({efi.STUB_INFO: None}, (True, False, BOTH, False)),
        ({efi.STUB_INFO: STUB[:-8] + STUB[-2:]}, (True, True, (INITRD, LINE), False)),
        ({efi.SHIM_INSECURE: b"\6\0\0\0\1"}, (False, True, BOTH, True)),
    ],
    ids=["good", "off", "empty", "no-secure-boot", "lasting", "no-stub", "unknown-stub", "shim"],
)
def test_firmware_is_read(changes: dict[str, bytes | None], expected: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "Boot0000-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"x")
    for name, value in ({efi.SECURE_BOOT: b"\6\0\0\0\1", efi.STUB_INFO: STUB} | changes).items():
        if value is not None:
            (tmp_path / name).write_bytes(value)
    assert chain.firmware(str(tmp_path)) == expected


def test_firmware_without_efi_is_unknown(tmp_path: Path) -> None:
    assert chain.firmware(str(tmp_path / "none")) == (None, None, BOTH, False)
    assert chain.firmware(str(tmp_path)) == (None, None, BOTH, False)  # not mounted


def test_firmware_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / efi.SECURE_BOOT).mkdir()
    assert chain.firmware(str(tmp_path)) == (None, None, BOTH, False)


def test_what_the_boot_went_on_without(world: World, said: Callable[..., Said]) -> None:
    world.write(recorded() | {"notes": ["certificate skipped: a.pem: no certificate\x1b", "the digest file cannot be opened"]})
    lines = [line.removeprefix("Note    ") for line in said().out.splitlines() if line.startswith("Note")]
    assert lines == ["certificate skipped: a.pem: no certificate\\x1b", "the digest file cannot be opened"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "keyring, checked by the kernel, no bytes written"),
        (
            {"method": "fsverity", "first_boot": True, "bytes_written": 53248},
            "fsverity, checked by the kernel, first boot, 53248 bytes written",
        ),
        (
            {"method": "fsverity", "first_boot": True, "bytes_written": None},
            "fsverity, checked by the kernel, first boot",
        ),
        ({"method": "none", "kernel_checked": False}, "none, checked by userspace alone, no bytes written"),
    ],
    ids=["keyring", "fsverity", "unknown", "none"],
)
def test_how_it_was_enrolled(changes: dict[str, Any], text: str, world: World, said: Callable[..., Said]) -> None:
    world.write(recorded(**changes))
    assert f"Method  {text}" in said().out.splitlines()


# --- a difference


def other_digest(*_: object) -> Digest:
    return Digest("sha256", bytes(32))


def set_unsealed(world: World) -> None:
    def unsealed(*_: object) -> Digest:
        raise Refusal(verdicts.IMAGE_UNSEALED, "fs-verity is not enabled on the image", "/sysroot/x")

    world.measured(unsealed)


def replace_root(world: World, *, line: str) -> None:
    found = [drift.Mount(line), *(drift.Mount(other) for other in USUAL[1:])]
    world.patch.setattr(drift, "mounts", lambda: drift.Mounts(found[0], found))


def replace_table(world: World, record: object, *lines: str) -> None:
    world.write(record)
    world.mounted(*lines)


DIFFERENCES: dict[str, tuple[str, str, Callable[[World], object]]] = {
    "another image": ("image", "has the digest sha256:0000", lambda w: w.measured(other_digest)),
    "image without fs-verity": ("image", "fs-verity is not enabled", set_unsealed),
    "deployment gone": ("image", "cannot be opened", lambda w: shutil.rmtree(w.sysroot / deployment().path)),
    "root of another kind": (
        "root",
        "is ext4 from /dev/vdb",
        lambda w: replace_root(w, line="30 1 8:1 / / ro - ext4 /dev/vdb rw"),
    ),
    "root of another digest": (
        "root",
        "composefs:00",
        lambda w: replace_root(w, line=ROOT_LINE.replace(SOURCE, "composefs:" + "0" * 64)),
    ),
    "no verity": (
        "root",
        "no verity=require",
        lambda w: replace_root(w, line=ROOT_LINE.replace("verity=require", "verity=on")),
    ),
    "verity in a name": (
        "root",
        "no verity=require",
        lambda w: replace_root(w, line=ROOT_LINE.replace(",verity=require", ",lowerdir=verity=require")),
    ),
    "bind over usr": (
        "tree",
        "over the verified root: /usr (ext4",
        lambda w: w.mounted("50 30 254:1 /evil /usr rw - ext4 /dev/vda1 rw"),
    ),
    "bind below usr": ("tree", "/usr/bin/sh (tmpfs", lambda w: w.mounted("50 30 0:50 /sh /usr/bin/sh rw - tmpfs t rw")),
    "overlay of ostree admin unlock": (
        "tree",
        "/usr (overlay, as 'ostree admin unlock' makes it)",
        lambda w: w.mounted("50 30 0:50 / /usr rw - overlay overlay rw,lowerdir=usr,upperdir=/x"),
    ),
    "another overlay": (
        "tree",
        "/usr (overlay from overlay)",
        lambda w: w.mounted("50 30 0:50 / /usr rw - overlay overlay rw,lowerdir=/usr,upperdir=/x"),
    ),
    "bind on top of an extension": (
        "tree",
        "root: /usr/bin (ext4",
        lambda w: w.mounted("50 30 0:50 / /usr ro - overlay sysext ro", "51 50 254:1 /evil /usr/bin rw - ext4 /dev/vda1 rw"),
    ),
    "another part of the root over usr": (
        "tree",
        "root: /usr/bin (overlay from composefs:",
        lambda w: w.mounted(f"50 30 0:25 /usr/old /usr/bin ro - overlay {SOURCE} ro"),
    ),
    "mount on top of the root": ("tree", "root: / (tmpfs", lambda w: w.mounted("50 30 0:50 / / rw - tmpfs t rw")),
    "extension where systemd merges none": (
        "tree",
        "/usr/bin (overlay from sysext)",
        lambda w: w.mounted("50 30 0:50 / /usr/bin ro - overlay sysext ro"),
    ),
    "another etc": (
        "tree",
        "root: /etc (ext4 from /dev/vda1)",
        lambda w: w.etc("/usr"),
    ),
    "another overlay over a transient etc": (
        "tree",
        "root: /etc (overlay from overlay)",
        lambda w: replace_table(w, recorded("/var"), "50 32 0:50 / /etc rw - overlay overlay rw,upperdir=/run/x"),
    ),
    "another etc where it is transient": (
        "tree",
        "root: /etc (ext4 from /dev/vda1)",
        lambda w: w.write(recorded("/var")),
    ),
    "a mount that calls itself sysext": ("tree", "/usr (tmpfs", lambda w: w.mounted("50 30 0:50 / /usr rw - tmpfs sysext rw")),
    "another digest in the kernel": ("keyring", "holds sha256:00", lambda w: w.keys("sha256:" + "0" * 64)),
    "two digests in the kernel": ("keyring", "verified was", lambda w: w.keys(str(DIGEST), str(DIGEST))),
    "no digest in the kernel": ("keyring", "holds no digest", lambda w: w.keys()),
    "no ring": ("keyring", "holds no keyring 'bootseal'", lambda w: w.keys(ring=False)),
    "keyring opened": ("keyring", "can be written now", lambda w: w.keys(str(DIGEST), locked=False)),
    "record of another boot": ("boot", "the record is of boot 0", lambda w: w.write(recorded() | {"boot_id": "0"})),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_an_error(name: str, world: World, said: Callable[..., Said]) -> None:
    check, text, change = DIFFERENCES[name]
    change(world)
    found = said()
    assert found.status == 77
    assert "not so any more" in found.out
    assert text in found.err
    assert "bootseal: Failed to find what was verified at boot: " in found.err
    checks = said("short").json["status"]["checks"]
    assert [c["name"] for c in checks if c["state"] == "differs"] == [check]


@pytest.mark.parametrize("name", [n for n, (check, _, _) in DIFFERENCES.items() if check != "boot"])
def test_a_difference_stands_in_the_chain(name: str, world: World, said: Callable[..., Said]) -> None:
    check, _, change = DIFFERENCES[name]
    change(world)
    link = {"image": "image", "root": "overlay", "tree": "root", "keyring": "digest file"}[check]
    answer = said("short").json
    assert [entry["name"] for entry in answer["status"]["chain"] if entry["mark"] == "differs"] == [link]
    assert answer["status"]["result"] == "differs"
    assert errors(answer) == []
    if check == "root":
        assert answer["status"]["chain"][-1]["mark"] == "not-verified", "whatever is mounted there, it was not verified"


def test_method_none_has_nothing_in_the_kernel(world: World, said: Callable[..., Said]) -> None:
    world.write(recorded(method="none", kernel_checked=False))
    world.keys(ring=False)
    assert said().status == 0


def test_incomplete_enrolling_is_no_difference(world: World, said: Callable[..., Said]) -> None:
    record = recorded()
    record["enrollment"]["missing"] = ["no .fs-verity keyring"]
    world.write(record)
    world.patch.setattr(kernelkeys, "find_fsverity_keyring", lambda: None)
    found = said()
    assert found.status == 0
    assert "enrolling was incomplete at boot" in found.err
    world.keys("sha256:" + "0" * 64)  # but another digest is
    assert said().status == 77


@pytest.mark.parametrize(
    "line",
    [
        f"50 30 0:25 /usr /usr ro - overlay {SOURCE} ro",  # ProtectSystem=yes
        "50 32 254:1 /e /etc ro - ext4 /dev/vda1 ro",  # ProtectSystem=full
        "50 32 0:50 / /etc ro - overlay confext ro",
    ],
)
def test_a_sandbox_and_an_extension_are_no_difference(line: str, world: World, said: Callable[..., Said]) -> None:
    world.mounted(line)
    if "confext" in line:
        world.etc("/usr")
    found = said()
    assert (found.status, found.err) == (0, "")
    assert "\n  /usr " not in found.out


def test_transient_etc_is_no_difference(world: World, said: Callable[..., Said]) -> None:
    world.write(recorded("/var"))
    world.etc("/usr")
    world.mounted("50 32 0:50 / /etc rw - overlay overlay rw,upperdir=/run/ostree/transient-etc.0a/upper")
    assert (said().status, said().err) == (0, "")


def test_etc_that_cannot_be_compared_is_unknown(world: World, said: Callable[..., Said]) -> None:
    world.etc("/proc/self/nowhere")
    found = said()
    assert found.status == 0
    assert "/etc was not compared with the deployment's: No such file or directory (ENOENT)" in found.err


def test_a_line_of_the_mount_table_that_cannot_be_parsed_is_unknown(world: World, said: Callable[..., Said]) -> None:
    world.patch.setattr(drift, "mounts", lambda: table()._replace(unread=2))
    found = said()
    assert found.status == 0
    assert "not known: the mount table has 2 lines that cannot be parsed" in found.err
    world.patch.setattr(drift, "mounts", lambda: table("50 30 0:50 / /usr ro - tmpfs tmpfs ro")._replace(unread=1))
    assert said().status == 77


def test_the_mount_table_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [*USUAL, "no line of it"]
    monkeypatch.setattr(files, "read_lines", lambda path: lines if path.endswith("mountinfo") else ["mnt_id: 30"])
    found = drift.mounts()
    assert (found.root and found.root.target, len(found.everything), found.unread) == ("/", len(USUAL), 1)


def test_an_image_outside_the_mount_table_is_unknown(world: World, said: Callable[..., Said]) -> None:
    def none(*_: object) -> Digest:
        try:
            raise LookupError
        except LookupError as error:
            raise Refusal(verdicts.UNSUPPORTED, "the mount table does not have it", "/x") from error

    world.measured(none)
    assert said().status == 0


# --- not covered


@pytest.mark.parametrize(
    ("line", "what", "why"),
    [
        ("50 30 0:50 / /usr ro - overlay sysext ro", "/usr", "sysext merged over it"),
        ("50 32 0:50 / /etc ro - overlay confext ro", "/etc", "confext merged over it"),
        ("50 30 8:17 / /home rw - xfs /dev/sdb1 rw", "/home", "xfs from /dev/sdb1, mounted over it"),
        ("50 30 8:17 / /opt/a\\040b rw - xfs /dev/sdb1 rw", "/opt/a", "mounted over it"),
    ],
)
def test_later_mounts_are_not_covered(line: str, what: str, why: str, world: World, said: Callable[..., Said]) -> None:
    world.mounted(line)
    answer = said("short")
    assert answer.status == 0, answer.err
    assert [p for p in answer.json["status"]["not_covered"] if p["what"].startswith(what) and why in p["why"]]
    assert why in said().out


@pytest.mark.parametrize("name", drift.EXTENSIONS)
def test_root_under_an_extension_is_not_verified(name: str, world: World, said: Callable[..., Said]) -> None:
    world.mounted(f"50 30 0:50 / /usr ro - overlay {name} ro")
    answer = said("short").json
    assert (answer["status"]["chain"][-1]["mark"], answer["status"]["result"]) == ("not-verified", "verified")
    assert said().out.startswith("Boot    verified; what is merged over it since is not\n")


def test_own_mounts_of_a_system_are_not_listed(world: World, said: Callable[..., Said]) -> None:
    names = [place["what"] for place in said("short").json["status"]["not_covered"]]
    assert names == ["/etc", "/var", "initrd", "kernel command line"]


def places(answer: Said) -> dict[str, str]:
    return {place["what"]: place["why"] for place in answer.json["status"]["not_covered"]}


@pytest.mark.parametrize("name", ["@system", "@encrypted"])
def test_credentials_are_named_whether_or_not_the_record_does(name: str, world: World, said: Callable[..., Said]) -> None:
    assert origin.CREDENTIALS not in places(said("short"))
    (world.run.parent / "_IMPORTED" / name).mkdir(parents=True)
    assert list(places(said("short")))[-1] == origin.CREDENTIALS
    world.write(recorded())
    assert origin.CREDENTIALS in json.loads((world.run / "boot.json").read_text())["not_covered"]
    assert said().out.count(origin.CREDENTIALS) == 1


def test_what_reached_the_initrd_comes_last_as_in_the_record(world: World) -> None:
    listed = ("/etc", "/var", LINE, origin.CREDENTIALS, origin.EXTENSIONS)
    found = chain.not_covered(parse(recorded(*listed)), chain.Firmware(True, True, (LINE,)), table(), 0)
    assert [place.what for place in found] == ["/etc", "/var", "kernel command line", *listed[-2:]]


def test_what_the_generator_found_in_the_partition_table_is_named(world: World, said: Callable[..., Said]) -> None:
    generated = world.run.parent / "_GENERATED"
    generated.mkdir()
    for name, section, place in (
        ("srv.mount", "Mount", "/srv"),
        ("var-tmp.mount", "Mount", "/var/tmp"),
        ("null.swap", "Swap", ""),
    ):
        where = f"Where={place}\n" if place else ""
        (generated / name).write_text(f"# Made by systemd-gpt-auto-generator\n[{section}]\nWhat=/dev/null\n{where}")
    (world.run.parent / "_SWAPS").write_text("Filename\n/dev/null partition\n/dev/zero partition\n/dev/zram0 partition\n")
    world.mounted(
        "50 30 8:3 / /srv rw - ext4 /dev/null rw",
        "51 31 8:3 / /var/tmp rw - ext4 /dev/null rw",
        "52 30 8:4 / /home rw - xfs /dev/b rw",
    )
    answer = said("short")
    assert errors(answer.json) == []
    listed = [(p["what"], p["why"]) for p in answer.json["status"]["not_covered"]][4:]
    read_back = "memory that was written to {} is read back unverified"
    assert listed == [
        ("/srv", "ext4 from /dev/null, mounted over it" + gptauto.WHO),
        ("/home", "xfs from /dev/b, mounted over it"),
        ("/var/tmp", "ext4 from /dev/null, mounted over it" + gptauto.WHO),
        ("swap", read_back.format("/dev/null") + gptauto.WHO),
        ("swap", read_back.format("/dev/zero")),
    ]
    assert answer.status == 0


def test_soft_reboot(world: World, said: Callable[..., Said]) -> None:
    world.soft_reboots = 2
    answer = said("short").json
    assert answer["soft_reboots"] == 2
    assert "2 times" in answer["status"]["not_covered"][-1]["why"]
    world.soft_reboots = None
    assert "soft_reboots" not in said("short").json
    assert "soft reboot" in said().err


# --- less to see


def test_ordinary_user(world: World, said: Callable[..., Said]) -> None:
    world.keys(uid=1000)
    world.measured(raising(13))
    found = said()
    assert found.status == 0
    assert found.err.count("only root may look") == 2
    checks = said("short").json["status"]["checks"]
    assert {c["name"] for c in checks if c["state"] == "unknown"} == {"image", "keyring"}
    assert {c["name"] for c in checks if c["state"] == "same"} == {"boot", "root", "tree"}


def test_refusal_for_lack_of_permission_is_no_difference(world: World) -> None:
    def refused(*_: object) -> Digest:
        raise Refusal(verdicts.IO_ERROR, "cannot be opened", "x") from PermissionError(13, "")

    world.measured(refused)
    assert named(status.gather().checks, "image").state == "unknown"


def test_root_not_in_the_table(world: World, said: Callable[..., Said]) -> None:
    world.patch.setattr(drift, "mounts", lambda: drift.Mounts(None, []))
    found = said()
    assert found.status == 0
    assert "is not in the mount table" in found.err
    assert "block devices" in found.err


@pytest.mark.parametrize(
    "content",
    [
        None, "", "{", "[]", "{}", '{"version": 2, "verdict": "verified"}', '{"version": 1}', '{"version": 1, "verdict": []}',
        "\udcff", "[" * 100_000,
    ],
    ids=lambda content: str(content)[:40].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_no_record(content: str | None, world: World, said: Callable[..., Said]) -> None:
    path = world.run / "boot.json"
    path.unlink() if content is None else path.write_text(content, errors="surrogateescape")
    found = said()
    assert found.status == 66
    assert "Failed to read the record of this boot" in found.err
    assert ("there is none" in found.err) == (content is None)
    assert "not verified by bootseal" in found.out
    assert "Status  verified" in found.out, "what systemd still knows"
    assert "bootseal.service did run in this boot: somebody removed or changed the record" in found.err
    world.unit = world.unit._replace(active_state="inactive")
    assert "was this system booted with bootseal in its initrd?" in said().err
    assert (said("short").json["status"]["result"], errors(said("short").json)) == ("none", [])


def test_refused_boot(world: World, said: Callable[..., Said]) -> None:
    refusal = Refusal(verdicts.IMAGE_MISMATCH, "the image has another digest", "/sysroot/x")
    world.write(as_json(of(Trail(), Ending(refusal.verdict, str(refusal), refusal.hint))))
    found = said()
    assert found.status == 77
    assert "refused (image-mismatch): the image has another digest: /sysroot/x" in found.err
    assert refusal.hint in found.err
    assert said("short").json["status"]["result"] == "refused"
    assert errors(said("short").json) == []


def test_record_with_holes_makes_no_traceback(world: World, said: Callable[..., Said]) -> None:
    record = recorded()
    for key in record.keys() - {"version", "verdict"}:
        world.write({k: v for k, v in record.items() if k != key})
        said()
        world.write(record | {key: None})
        said()
        world.write(record | {key: "\x1b[2J"})
        found = said()
        assert "\x1b" not in found.out + found.err, key


@pytest.mark.parametrize("junk", ["\x1b[2J", "\ud800", "\0", [], {}, 1, True, None], ids=repr)
def test_record_with_junk_makes_no_traceback(junk: object, world: World, said: Callable[..., Said]) -> None:
    record = recorded()
    for key, member in record.items():
        for inner in member if isinstance(member, dict) else ():
            world.write(record | {key: member | {inner: junk}})
            found = said()
            assert "\x1b" not in found.out + found.err, (key, inner)


def test_closed_output(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # what Python makes of it
    assert cli.main(["status"]) == 0


def test_unit_that_is_not_installed(world: World, said: Callable[..., Said]) -> None:
    world.unit = world.unit._replace(load_state="not-found")
    assert "not-found: it is not installed in the booted system" in said().out


def test_nobody_answers(world: World, said: Callable[..., Said]) -> None:
    def no_bus() -> systemd.Answer:
        raise systemd.Unavailable("systemd gives no answer over D-Bus: no socket")

    def no_udev(_: MountInfo) -> tuple[list[blockdevices.Device], list[str]]:
        raise blockdevices.Unavailable("udev does not know the device of /sysroot: none")

    world.patch.setattr(systemd, "ask", no_bus)
    world.patch.setattr(blockdevices, "behind", no_udev)
    found = said()
    assert found.status == 0
    assert "no answer over D-Bus" in found.err
    assert "udev does not know" in found.err
    answer = said("short").json
    assert ("unit" in answer, answer["status"]["devices"]) == (False, [])
    assert errors(answer) == []


def test_which_mount_the_devices_are_looked_up_for(world: World) -> None:
    asked: list[str] = []

    def behind(mounted: MountInfo) -> tuple[list[blockdevices.Device], list[str]]:
        asked.append(mounted.target)
        return [], []

    world.patch.setattr(blockdevices, "behind", behind)
    status.gather()
    assert asked == ["/sysroot"]


# --- the schema, and the program as it is run


def test_schema_has_every_verdict() -> None:
    assert SCHEMA["properties"]["verdict"]["enum"] == [verdict.name for verdict in verdicts.VERDICTS]


@pytest.mark.parametrize("verdict", verdicts.VERDICTS, ids=lambda v: v.name)
def test_schema_takes_a_record_of_each_verdict(verdict: verdicts.Verdict) -> None:
    if verdict is not verdicts.VERIFIED:
        record = of(Trail(), Ending(verdict, f"refused ({verdict.name}): x: y", verdict.hint))
        assert errors(json.loads(json.dumps(as_json(record)))) == []
    assert errors(recorded()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"verdict": "fine"},
        {"boot_id": "x"},
        {"other": 1},
        {"not_covered": "/etc"},
        {"not_covered": [1]},
        {"mount": {}},
        {"deployment": recorded()["deployment"] | {"stateroot": "a b"}},
        {"image": recorded()["image"] | {"id": "a b"}},
        {"image": recorded()["image"] | {"version": "x" * 65}},
        {"keyring": {"certificates": 0, "skipped": []}},
        {"milliseconds": {"x": -1}},
        {"image": {"path": "x"}},
    ],
    ids=str,
)
def test_schema_refuses(change: dict[str, Any]) -> None:
    assert errors(recorded() | change)


@pytest.mark.parametrize(
    "member", ["deployment", "image", "signature", "enrollment", "keyring", "mount", "not_covered", "message"]
)
def test_schema_asks_for_all_of_a_verified_boot(member: str) -> None:
    record = recorded()
    del record[member]
    assert errors(record)


@pytest.mark.parametrize("mode", ["off", "short"])
def test_program_on_a_machine_without_bootseal(mode: str) -> None:
    if os.path.exists(report.PATH):
        pytest.skip("this machine was booted by bootseal")
    code = (
        "import argparse, sys\nfrom bootseal.host.commands import status\n"
        f"sys.exit(status.run(argparse.Namespace(json={mode!r}), []))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SERVICE), "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 66, done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("bootseal: ") for line in done.stderr.splitlines())
    if mode == "short":
        assert errors(json.loads(done.stdout)) == []


def test_manual_page_has_every_member_of_the_schema() -> None:
    page = (TREE / "packaging/man/bootseal.json.5").read_text().replace("\\-", "-")

    def members(schema: Any) -> Iterator[str]:
        for name, member in schema.get("properties", {}).items():
            yield name
            yield from member.get("enum", ()) if name not in ("verdict", "name") else ()
            yield from members(member)
            yield from members(member.get("items", {}))

    words = set(re.findall(r"[\w.-]+", page))
    assert set(members(SCHEMA)) - words == set()
