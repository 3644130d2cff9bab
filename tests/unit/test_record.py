# SPDX-License-Identifier: LGPL-2.1-or-later
"""record.py: values seen -> record -> boot.json and back, as tables."""

import json
from typing import Any

import pytest

from bootseal import verdicts
from bootseal.errors import Refusal
from bootseal.record import STAGES, Ending, Machine, Record, Trail, as_json, of, parse, refusal, success
from bootseal.values import BootKeyring, Certificate, Gap, PhysicalRoot, Release
from unit.host import schema
from unit.support import (
    certificate,
    deployment,
    enrolled,
    kernel_keys,
    pinned,
    request,
    seen_boot,
    trusting,
    verified,
)


def verified_record(**changes: Any) -> dict[str, Any]:
    trail = seen_boot(**changes)
    return as_json(of(trail, success(trail)))


def test_whole_boot_has_every_member() -> None:
    record = verified_record()
    assert schema.errors(json.loads(json.dumps(record))) == []
    assert {"version", *Record._fields} - set(record) == {"hint", "notes", "details"}


def test_values_of_a_whole_boot() -> None:
    record, made = verified_record(), verified()
    certificate_ = made.signer.certificate
    assert record["deployment"] == {
        name: getattr(deployment(), name) for name in ("layout", "stateroot", "checksum", "serial", "path")
    }
    image = {"path": pinned().path, "algorithm": "sha256", "digest": made.digest.value.hex(), "size": 4096}
    assert record["image"] == image | {"id": "edge", "version": "41.3"}
    signature = record["signature"]
    assert (signature["certificate_sha256"], signature["serial"]) == (certificate_.sha256, certificate_.serial.hex())
    assert (signature["not_before"], signature["not_after"]) == (certificate_.not_before, certificate_.not_after)
    enrollment = {"method": "keyring", "kernel_checked": True, "first_boot": False, "missing": [], "bytes_written": 0}
    assert record["enrollment"] == enrollment
    assert record["keyring"]["certificates"] == len(record["keyring"]["trusted"]) == 2
    assert (record["keyring"]["sealed"], record["keyring"]["not_in_kernel"]) == (True, [])
    assert record["mount"] == {"options": "ro,verity=require"}
    assert record["not_covered"] == ["/etc", "/var", "/opt -> /var/opt", "initrd", "kernel command line"]
    assert list(record["milliseconds"]) == [name for name, _ in STAGES]
    assert all(figure >= 0 for figure in record["milliseconds"].values())


SEEN: list[Any] = [
    Machine("b", "k", "p"), trusting("p256"), kernel_keys(), request(), PhysicalRoot(5, sealed_before=True), deployment(),
    verified(), pinned(), enrolled(),
]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "members", "stage"),
    [
        (0, set(), "configuration"),
        (1, {"boot_id", "kernel", "bootseal", "milliseconds"}, "configuration"),
        (2, {"keyring"}, "keyring"),
        (3, {"keyring"}, "preparation"),
        (4, {"keyring"}, "wait"),
        (5, {"keyring"}, "locate"),
        (6, {"deployment"}, "verify"),
        (7, {"signature"}, "verify"),
        (8, {"image"}, "enroll"),
        (9, {"enrollment"}, "mount"),
    ],
)
def test_unseen_members_are_absent(count: int, members: set[str], stage: str) -> None:
    trail = Trail()
    for value in SEEN[:count]:
        trail(value)
    assert trail.stage() == stage
    record = as_json(of(trail, Ending(verdicts.INTERNAL, "x")))
    assert members <= record.keys()

    assert ("mount" in record, "not_covered" in record) == (False, False)
    if count:
        assert list(record["milliseconds"])[-1] == stage


@pytest.mark.parametrize(
    ("sealed", "before", "expected"), [(True, True, True), (True, False, False), (False, True, False), (True, None, None)]
)
def test_whether_it_was_sealed_before_the_mount(*, sealed: bool, before: bool | None, expected: bool | None) -> None:
    """Unknown while the disk is not there."""
    root = () if before is None else (PhysicalRoot(5, sealed_before=before),)
    keyring = of(Trail(trusting("p256"), kernel_keys()._replace(sealed=sealed), *root)).keyring
    assert keyring
    assert keyring.sealed_before_mount is expected


def test_keyring_before_the_kernel_has_it_is_not_known_to_be_sealed() -> None:
    trail = Trail()
    trail(trusting("p256"))
    keyring = of(trail).keyring
    assert keyring
    assert (keyring.sealed, keyring.not_in_kernel) == (None, None)


def test_unknown_bytes_are_absent() -> None:
    assert "bytes_written" not in verified_record(enrolled=enrolled(bytes_written=None))["enrollment"]


@pytest.mark.parametrize(
    ("release", "begins", "members"),
    [
        (Release("edge", "41.3"), "verified edge 41.3 sha256:", {"id": "edge", "version": "41.3"}),
        (Release("edge", ""), "verified edge sha256:", {"id": "edge"}),
        (Release("", "41.3"), "verified 41.3 sha256:", {"version": "41.3"}),
        (Release("", ""), "verified sha256:", {}),
    ],
    ids=["both", "no version", "no name", "neither"],
)
def test_image_names_what_its_os_release_has(release: Release, begins: str, members: dict[str, str]) -> None:
    record = verified_record(release=release)
    assert record["message"].startswith(begins)
    assert {name: value for name, value in record["image"].items() if name in ("id", "version")} == members


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "checked by the kernel, method keyring;"),
        ({"method": "fsverity", "first_boot": True}, "checked by the kernel, method fsverity, first boot;"),
        ({"method": "none", "kernel_checked": False}, "checked by userspace alone, method none;"),
        ({"gaps": (Gap("x", unsupported=True),)}, "checked by the kernel, method keyring, enrolling incomplete;"),
    ],
    ids=["keyring", "fsverity", "none", "incomplete"],
)
def test_message_says_how_it_was_checked(changes: dict[str, Any], words: str) -> None:
    assert words in verified_record(enrolled=enrolled(**changes))["message"]


# --- details of a refusal


def trusted(number: int) -> Certificate:
    return certificate("p256")._replace(subject_text=f"CN=trusted {number}")


def details(refused: Refusal, *values: Any) -> list[tuple[str, str]]:
    trail = Trail()
    for value in values:
        trail(value)
    return list(refusal(trail, refused).details)


def test_details_name_signer_and_trusted_keys_after_what_was_compared() -> None:
    compared = (("image has", "sha256:00"), ("signed is", "sha256:11"))
    refused = Refusal(verdicts.IMAGE_MISMATCH, "what", "/where", details=compared)
    found = details(refused, BootKeyring((trusted(1), trusted(2)), ()), verified())
    assert [name for name, _ in found] == ["image has", "signed is", "signer", "trusted", "trusted"]
    signer = verified().signer.certificate
    assert found[2][1] == f"{signer.subject_text}, serial {signer.serial.hex()}"
    assert found[3][1].startswith(f"CN=trusted 1, serial {certificate('p256').serial.hex()}, SHA-256 ")


def test_details_are_empty_where_nothing_was_compared() -> None:
    assert details(Refusal(verdicts.NO_DIGEST, "what", "/where"), BootKeyring((trusted(1),), ())) == []


@pytest.mark.parametrize(("count", "more"), [(8, 0), (9, 1), (10, 2)])
def test_details_name_eight_certificates(count: int, more: int) -> None:
    keyring = BootKeyring(tuple(trusted(number) for number in range(count)), ())
    found = details(Refusal(verdicts.UNTRUSTED_SIGNER, "what", "/where"), keyring)
    assert [name for name, _ in found] == ["trusted"] * (8 + bool(more))
    assert [text for _, text in found[8:]] == ([f"and {more} more"] if more else [])


# --- read back


def test_parse_reads_what_was_written() -> None:
    trail = seen_boot(skipped=("x.pem: why",), enrolled=enrolled((Gap("no ring", unsupported=False),)))
    for record in (of(trail, success(trail)), of(trail, refusal(trail, Refusal(verdicts.IMAGE_MISMATCH, "x", "y"))), Record()):
        assert parse(json.loads(json.dumps(as_json(record)))) == record


@pytest.mark.parametrize("junk", ["\x1b[2J", "\ud800", "\0", [], {}, [1], {"x": 1}, 1, 1.5, True, None], ids=repr)
def test_parse_takes_junk_anywhere(junk: Any) -> None:
    whole = verified_record()
    assert isinstance(parse(junk), Record)
    for name, member in whole.items():
        parsed = [parse(whole | {name: junk})]
        parsed += [parse(whole | {name: member | {inner: junk}}) for inner in (member if isinstance(member, dict) else ())]
        parsed += [parse(whole | {name: [junk]})]
        assert all(is_printable(one) for one in parsed)


def is_printable(value: object) -> bool:
    if isinstance(value, str):
        return all(" " <= character <= "~" for character in value)
    members = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return all(map(is_printable, members))


def test_parse_fills_holes_in_a_part() -> None:
    record = parse({"image": {}, "deployment": {"serial": "1"}, "keyring": {"certificates": 1}})
    assert record.image == ("", "", "", 0, None, None)
    assert record.deployment == ("", None, "", None, "")
    assert record.keyring == (1, None, (), None, None, None)
