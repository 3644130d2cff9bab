# SPDX-License-Identifier: LGPL-2.1-or-later
"""placing.py: the signature that a commit carries, and what is in place."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootseal import paths, verdicts
from bootseal.errors import Refusal
from bootseal.host import carriers, deployments, placing
from bootseal.host.output import Failure
from bootseal.linux import files
from bootseal.stages import writable

from .program import beside, certificate, key, signed
from .repositories import commit, repository, write_detached
from .roots import A
from .targets import BOTH, NOTHING, Target

pytestmark = pytest.mark.root  # a private copy of a mount, and the immutable flag


@pytest.fixture
def carried(target: Target, tmp_path: Path) -> Callable[..., Path]:
    """Make the deployment's commit, as ostree does, with signatures in its metadata and detached."""

    def make(*options: str, detached: bytes | str | None = None) -> Path:
        repo = target.root.top / "ostree/repo"
        made = commit(repository(tmp_path / "elsewhere"), *options)
        place = repo / f"objects/{A[:2]}/{A[2:]}.commit"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((tmp_path / f"elsewhere/objects/{made[:2]}/{made[2:]}.commit").read_bytes())
        if detached is not None:
            write_detached(repo, A, detached)
        return place.with_suffix(".commitmeta")

    return make


def _text(signature: bytes) -> str:
    return f"--add-metadata-string={carriers.KEY}={base64.b64encode(signature).decode()}"


def _strange(target: Target, tmp_path: Path) -> bytes:
    """Make a good signature by a key that is not in the boot keyring."""
    copy = tmp_path / "strange.cfs"
    copy.write_bytes(target.image.read_bytes())
    signed(copy, "--key", key("p384"), "--cert", certificate("p384"))
    return beside(copy)[1]


@pytest.mark.parametrize("where", ["detached", "metadata", "tree", "all"])
def test_the_signature_of_the_commit_is_found(target: Target, carried: Callable[..., Path], where: str) -> None:
    signature = target.pair[1]
    carried(*[_text(signature)] * (where in ("metadata", "all")), detached=signature if where in ("detached", "all") else None)
    if where in ("tree", "all"):
        target.set_immutable(False)
        (target.directory / "boot/bootseal").mkdir(parents=True)
        (target.directory / f"boot/bootseal/{target.pair[0].hex()}.sig").write_bytes(signature)
        target.set_immutable(True)
    assert target.run(signature=None) == 0
    assert beside(target.image) == target.pair
    assert target.immutable


def test_the_first_that_the_boot_accepts(
    target: Target, carried: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carried(_text(target.pair[1]), detached=_strange(target, tmp_path))
    assert target.run(signature=None) == 0
    assert beside(target.image) == target.pair


def test_none_that_the_boot_accepts(
    target: Target, carried: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _strange(target, tmp_path)
    carried(_text(other), detached=other)
    with pytest.raises(Refusal) as caught:
        target.run(signature=None)
    assert caught.value.verdict is verdicts.UNTRUSTED_SIGNER
    assert caught.value.path == "the commit's detached metadata"
    assert "bootseal: also tried: the commit's metadata: no certificate of the boot keyring made" in capsys.readouterr().err
    assert target.beside() == NOTHING


def test_none_travels(target: Target, carried: Callable[..., Path]) -> None:
    carried()
    with pytest.raises(Refusal, match="the commit aaaaaaaaaaaa carries no signature") as caught:
        target.run(signature=None)
    assert caught.value.verdict is verdicts.NO_SIGNATURE
    assert "bootseal sign --repo=" in caught.value.hint
    assert target.beside() == NOTHING


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 10_000_000], ids=["empty", "junk", "10 MB"])
def test_junk_that_travels(
    target: Target, carried: Callable[..., Path], capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    carried(detached=target.pair[1]).write_bytes(content)
    with pytest.raises(Refusal, match="no-signature"):
        target.run(signature=None)
    said = capsys.readouterr().err
    why = "damaged" if len(content) < 1000 else "larger than"
    assert (f"a signature cannot be used: the commit's detached metadata: {why}" in said) == bool(content)
    assert target.beside() == NOTHING


def test_a_signature_for_another_commit(target: Target, carried: Callable[..., Path], tmp_path: Path) -> None:
    other = tmp_path / "another.cfs"
    other.write_bytes(b"another image")
    signed(other, "--key", key("p256"), "--cert", certificate("p256"))
    carried(detached=beside(other)[1])
    with pytest.raises(Refusal) as caught:
        target.run(signature=None)
    assert (caught.value.verdict, caught.value.path) == (verdicts.WRONG_SIGNATURE, "the commit's detached metadata")
    assert target.beside() == NOTHING


def test_what_is_in_place_stays_where_nothing_travels(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    target.run()
    capsys.readouterr()
    assert target.run(signature=None) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is False


def test_all_that_boot_and_lack_it(target: Target, carried: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    carried(detached=target.pair[1])
    target.root.add("c" * 64, 2)  # it has no image
    target.root.add("d" * 64)  # no boot entry names it
    assert target.run(all=True, signature=None) == 66
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["exit_status"]) == ("os/cccccccccccc.0", 66)
    assert (second["name"], second["exit_status"]) == ("os/aaaaaaaaaaaa.0", 0)
    assert beside(target.image) == target.pair


@pytest.mark.parametrize("more", [{"deployment": A}, {"digest": "x"}, {"signature": "x"}], ids=str)
def test_all_is_all(target: Target, more: dict[str, str]) -> None:
    with pytest.raises(Failure, match="--all cannot be used with"):
        target.run(**({"all": True, "signature": None} | more))


def test_what_is_in_place_is_not_read_again(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    target.run()
    capsys.readouterr()
    assert target.run(all=True, signature=None, json="off") == 0
    assert capsys.readouterr().out == "nothing to change\n"
    assert placing.is_placed(str(target.root.top), deployments.list_all(str(target.root.top))[0])


def test_offline_where_there_are_no_flags(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    target.set_immutable(False)
    with monkeypatch.context() as without:
        without.setattr(files, "_read_flags", lambda _: (_ for _ in ()).throw(OSError(errno.ENOTTY, "none")))
        assert target.run(offline=True) == 0
    assert beside(target.image) == target.pair


# --- after a killed run


def test_what_a_killed_run_left_is_completed_by_all(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """It was killed after the renames, and before it removed its mark."""
    target.run()
    target.set_immutable(False)
    mark = target.directory.parent / paths.mark_of(target.directory.name)
    mark.touch()
    old = mark.with_name(paths.work_prefix(target.directory.name) + ".sig.old")
    old.touch()
    assert target.run(all=True, signature=None) == 0
    assert (target.beside(), target.immutable) == (BOTH, True)
    capsys.readouterr()
    assert target.run(all=True, signature=None, json="off") == 0
    assert capsys.readouterr().out == "nothing to change\n"


def test_nothing_is_left_of_a_deployment_that_is_gone(target: Target) -> None:
    target.run()
    directory = target.directory.parent
    orphans = [directory / f"{paths.work_prefix('b' * 64 + '.0')}{end}" for end in (".immutable", ".digest.new", ".sig.old")]
    mine = directory / paths.mark_of(target.directory.name)
    for path in (*orphans, mine):
        path.touch()
    placing.remove_orphans(str(target.root.top))
    assert [path.exists() for path in (*orphans, mine)] == [False, False, False, True]
    target.run()


def test_two_do_not_place_at_once(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    os.makedirs(paths.RUN, exist_ok=True)
    with open(f"{paths.RUN}/lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Failure, match="another 'bootseal deploy' is at work") as caught:
            target.run()
    assert (caught.value.status, len(waited)) == (73, placing._PATIENCE)
    assert target.beside() == NOTHING
    os.unlink(f"{paths.RUN}/lock")
    target.run()
    assert stat.S_IMODE(os.stat(f"{paths.RUN}/lock").st_mode) == 0o600


def test_all_seals_objects_of_what_is_in_place(target: Target) -> None:
    target.run()
    assert target.run(all=True, signature=None, objects=True) == 0
    assert target.verity.calls[-1] == target.object.name


def test_all_looks_again_after_a_change(target: Target, carried: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd's path units miss a change while the service runs."""
    carried(detached=target.pair[1])
    real, rounds = placing.place, []

    def place(*arguments: Any) -> bool:
        rounds.append(arguments)
        os.utime(target.root.top / "ostree/deploy", ns=(0, len(rounds)))
        return real(*arguments) if len(rounds) > 1 else False

    monkeypatch.setattr(placing, "place", place)
    assert target.run(all=True, signature=None) == 0
    assert len(rounds) == 2
    assert beside(target.image) == target.pair


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EXDEV, errno.EROFS])
def test_one_that_cannot_be_opened_hinders_no_other(
    target: Target,
    carried: Callable[..., Path],
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    carried(detached=target.pair[1])

    def fail(*_: object) -> contextlib.AbstractContextManager[None]:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writable, "opened_below", fail)
    assert target.run(all=True, signature=None) == 73
    assert "Failed to write below" in json.loads(capsys.readouterr().out)[0]["message"]
