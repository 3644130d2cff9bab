# SPDX-License-Identifier: LGPL-2.1-or-later
"""Key continuity in verify and in the gate: added and removed certificates, and the origin of the old list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bootseal import report
from bootseal.host import checker, cli, continuity, deployments, dryrun, gateunits
from bootseal.host.initrd import ukisignature
from bootseal.host.output import Failure
from bootseal.record import parse
from bootseal.stages import keyring

from .initrds import cpio_archive
from .program import certificate
from .roots import A, B, Root, make_initrd, run_gate, set_booted, stage

KEYS = [{"subject": f"CN={name}", "sha256": name * 64} for name in "abc"]
OTHER = {"etc/bootseal/keys.d/a.pem": certificate("p384").read_bytes()}


def _names(keys: list[dict[str, str]]) -> list[str]:
    return [key["subject"] for key in keys]


def test_compared() -> None:
    found = continuity.compare(KEYS[:2], KEYS[1:], "record")
    assert (_names(found["added"]), _names(found["removed"]), found["against"]) == (["CN=c"], ["CN=a"], "record")


def test_a_renewed_certificate_is_another_one() -> None:
    found = continuity.compare([KEYS[0]], [KEYS[0] | {"sha256": "f" * 64}], "record")
    assert (_names(found["added"]), _names(found["removed"])) == (["CN=a"], ["CN=a"])


def test_lines() -> None:
    assert continuity.describe({}) == []
    assert continuity.describe({"key_changes": continuity.compare(KEYS, KEYS, "record")}) == []
    changes = continuity.compare(KEYS[:1], KEYS[1:2], "record")
    assert continuity.describe({"key_changes": changes}) == [
        ("key added", f"CN=b, SHA-256 {'b' * 16}"),
        ("key removed", f"CN=a, SHA-256 {'a' * 16}"),
    ]
    assert "may have changed" in continuity.describe({"key_changes": changes | {"against": "initrd"}})[0][1]


def test_not_too_many_lines() -> None:
    many = [{"subject": "CN=" + "x" * 70_000, "sha256": f"{number:064}"} for number in range(100)]
    lines = continuity.describe({"key_changes": continuity.compare([], many, "record")})
    assert len(lines) == 9
    assert lines[-1] == ("key added", "and 92 more")
    assert max(len(text) for _, text in lines) < 300


GOOD = {"version": 1, "verdict": "verified", "keyring": {"trusted": KEYS}}
RECORDS: dict[str, tuple[dict[str, Any], Any]] = {
    "good": (GOOD, KEYS),
    "refused": (GOOD | {"verdict": "no-keys"}, None),
    "older": (GOOD | {"keyring": {"certificates": 1, "skipped": []}}, None),
    "none": ({}, None),
    "no-keyring": (GOOD | {"keyring": 1}, None),
    "no-list": (GOOD | {"keyring": {"trusted": {}}}, None),
    "no-object": (GOOD | {"keyring": {"trusted": [1]}}, None),
    "no-text": (GOOD | {"keyring": {"trusted": [{"subject": "a", "sha256": 1}]}}, None),
}


@pytest.mark.parametrize(("record", "expected"), RECORDS.values(), ids=RECORDS)
def test_what_the_record_says(record: dict[str, Any], expected: Any) -> None:
    assert continuity.read_verified_keys(parse(record)) == expected


class World:
    """A booted deployment A, whose initrd has the key p256, and a staged B."""

    def __init__(self, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, monkeypatch
        self.record = root.top.parent / "boot.json"
        monkeypatch.setattr(report, "PATH", str(self.record))
        set_booted(root, root.add(A, 1, initrd="/initrd.img"))
        root.set_initrd(make_initrd())
        self.path = root.top / root.add(B, etc=False) / "usr/lib/modules/6.12/initramfs.img"
        self.path.write_bytes(make_initrd(**OTHER))
        stage(root, B)
        set_booted(root, f"ostree/deploy/os/deploy/{A}.0")
        monkeypatch.setattr(ukisignature, "look", lambda _: None)

    def remember(self, *names: str) -> None:
        keys = [{"subject": f"CN=test {name}", "sha256": self.sha256(name)} for name in names]
        self.record.write_text(json.dumps(GOOD | {"keyring": {"trusted": keys}}))

    @staticmethod
    def sha256(name: str) -> str:
        return keyring.load_file(str(certificate(name)))[0].sha256

    def verify(self, *options: str) -> dict[str, Any]:
        judging = checker.Checker(str(self.root.top), checker.KeySource())
        deployed = deployments.choose(str(self.root.top), options[0] if options else None)
        return judging.check(deployed)


@pytest.fixture
def world(root: Root, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(root, monkeypatch)


def test_against_the_record(world: World) -> None:
    world.remember("p256", "p521")
    changes = world.verify()["key_changes"]
    assert changes["against"] == "record"
    assert changes["added"] == [{"subject": "CN=test p384", "sha256": world.sha256("p384")}]
    assert _names(changes["removed"]) == ["CN=test p256", "CN=test p521"]
    assert world.verify("booted")["key_changes"]["removed"][0]["subject"] == "CN=test p521"


def test_against_the_booted_deployments_initrd(world: World) -> None:
    changes = world.verify()["key_changes"]
    assert (changes["against"], _names(changes["added"])) == ("initrd", ["CN=test p384"])
    assert _names(changes["removed"]) == ["CN=test p256"]


def test_not_known(world: World) -> None:
    world.root.set_initrd(cpio_archive({"etc/x": b""}))
    assert "key_changes" not in world.verify()


def test_not_where_nothing_is_trusted(world: World) -> None:
    world.remember("p256")
    world.path.write_bytes(make_initrd(**{"etc/bootseal/keys.d/a.pem": b""}))
    assert "key_changes" not in world.verify()


def test_not_for_another_root(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.remember("p256")
    monkeypatch.setattr(deployments, "default_sysroot", lambda: "/elsewhere")
    assert "key_changes" not in world.verify(B)


def test_nor_with_keys_of_somebody_else(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world.remember("p256")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/a.pem").write_bytes(certificate("p384").read_bytes())
    cli.main(["verify", f"--sysroot={world.root.top}", f"--keys={tmp_path}/keys", "--json=short"])
    assert "key_changes" not in capsys.readouterr().out


def test_verify_prints_them(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.remember("p256")
    cli.main(["verify", f"--sysroot={world.root.top}"])
    text = capsys.readouterr().out
    assert f"  key added    CN=test p384, SHA-256 {world.sha256('p384')[:16]}\n" in text
    assert f"  key removed  CN=test p256, SHA-256 {world.sha256('p256')[:16]}\n" in text


SEALED = {"verdict": "verified", "exit_status": 0, "image": {"algorithm": "sha256", "digest": "00" * 32}}


def _judged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the staged deployment count as sealed, because this machine may lack fs-verity."""
    monkeypatch.setattr(checker, "judge", lambda *a: dryrun.judge(*a) | SEALED)
    monkeypatch.setattr(checker.Checker, "_check_objects", lambda *_: [])


def test_the_gate_warns_and_lets_pass(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.remember("p256")
    _judged(world, monkeypatch)
    assert run_gate(monkeypatch, "enabled") == 0
    errors = capsys.readouterr().err
    assert f"bootseal: warning: key added in the initrd of os/{B[:12]}.0: CN=test p384, SHA-256 " in errors
    assert f"bootseal: warning: key removed in the initrd of os/{B[:12]}.0: CN=test p256, SHA-256 " in errors


# --- a unified kernel image's own signature


@pytest.mark.parametrize("state", ["trusted", "untrusted", "unknown"])
def test_the_gate_holds_what_the_firmware_would_not_start(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    """Hold only deployments that the firmware would not start. If the answer is unknown, let them pass."""
    world.remember("p384")
    _judged(world, monkeypatch)
    monkeypatch.setattr(ukisignature, "look", lambda file: ukisignature.Signature(state, f"why: {Path(file.path).name}"))
    if state == "untrusted":
        with pytest.raises(
            Failure, match=r"firmware would not start the staged deployment's kernel image: why: initramfs\.img"
        ) as caught:
            run_gate(monkeypatch, "enabled")
        assert caught.value.status == 77
        assert gateunits.SWITCH in caught.value.hint
        return
    assert run_gate(monkeypatch, "enabled") == 0
    errors = capsys.readouterr().err
    assert ("missing: not known whether the firmware would start" in errors) is (state == "unknown")
    # The tests' image is a text.
    assert all("is not an EROFS image" in line for line in errors.splitlines() if "warning" in line)


@pytest.mark.parametrize("state", ["trusted", "untrusted", "unknown"])
def test_verify_says_it_and_keeps_the_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    world.remember("p384")
    _judged(world, monkeypatch)
    monkeypatch.setattr(ukisignature, "look", lambda _: ukisignature.Signature(state, "why"))
    assert cli.main(["verify", f"--sysroot={world.root.top}"]) == 0
    said = capsys.readouterr()
    assert f"{state}: why" in said.out
    assert ("warning: the firmware would not start" in said.err) is (state == "untrusted")
    assert cli.main(["verify", f"--sysroot={world.root.top}", "--json=short"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["uki_signature"] == {"state": state, "text": "why"}
    assert len(record["missing"]) == (2 if state == "unknown" else 1)  # the other: this kernel's configuration
