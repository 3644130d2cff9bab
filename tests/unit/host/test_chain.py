# SPDX-License-Identifier: LGPL-2.1-or-later
"""host/live/chain.py: who vouches for what, and what is not covered."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal.host.live import chain, drift, gptauto
from bootseal.linux import efi
from bootseal.record import parse
from bootseal.stages import origin
from unit.host.schema import errors

from .running import INITRD, LINE, Said, World, recorded, table


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
