# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal status: a good boot, a refused one, and missing information."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import bootseal
from bootseal import report, verdicts
from bootseal.digest import Digest
from bootseal.errors import Refusal
from bootseal.host import cli
from bootseal.host.commands import status
from bootseal.host.live import blockdevices, drift, systemd
from bootseal.linux.mountapi import MountInfo
from bootseal.record import Ending, Trail, as_json, of
from bootseal.values import Release
from unit.host.schema import errors
from unit.support import SERVICE, deployment, raising

from .running import DIGEST, Said, World, named, recorded


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
    assert found.status == 74
    assert "Failed to read the record of this boot" in found.err
    assert ("not found" in found.err) == (content is None)
    assert "not verified by bootseal" in found.out
    assert "Status  verified" in found.out, "what systemd still knows"
    assert "bootseal.service ran in this boot: the record was removed or tampered with" in found.err
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
    monkeypatch.setattr(sys, "stdout", None)  # as Python does
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
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("bootseal: ") for line in done.stderr.splitlines())
    if mode == "short":
        assert errors(json.loads(done.stdout)) == []
