# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal deploy, with fs-verity played by a recorder: order, refusals, the immutable flag, cuts. Guests have a real one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootseal import digest, paths
from bootseal.errors import Refusal
from bootseal.host import checker, deployments, gateunits, objects, placing
from bootseal.host.commands import gate
from bootseal.host.layouts import ostree
from bootseal.host.output import Failure
from bootseal.linux import files, fsverity
from bootseal.stages import writable

from .program import TREE, beside, certificate, key, signed
from .roots import A, Root
from .targets import BOTH, NOTHING, Target

pytestmark = pytest.mark.root  # a private copy of a mount, and the immutable flag


def test_deployed(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    assert target.run() == 0
    assert (beside(target.image), target.beside(), target.immutable) == (target.pair, BOTH, True)
    assert target.verity.calls == [".ostree.cfs"]
    assert '"changed":true' in capsys.readouterr().out
    before = [(p.name, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(target.directory.iterdir())]
    assert target.run() == 0
    assert [(p.name, p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(target.directory.iterdir())] == before
    assert '"changed":false' in capsys.readouterr().out


def test_objects_only_when_asked(target: Target) -> None:
    target.run()
    assert target.object.name not in target.verity.calls
    target.run(objects=True)
    assert target.verity.calls[-1] == target.object.name


def _swap_keys(target: Target) -> None:
    (target.keys / "a.pem").write_bytes(certificate("p384").read_bytes())


def _other_image(target: Target) -> None:
    target.set_immutable(False)
    target.image.write_bytes(b"another image")
    target.set_immutable(True)


REFUSALS = {
    "untrusted": (_swap_keys, {}, "untrusted-signer"),
    "another-image": (_other_image, {}, "is not over the digest"),
    "digest-of-another-image": (_other_image, {"digest": True}, "has the digest"),
    "no-pkcs7": (lambda target: target.signature.write_bytes(b"junk"), {}, "bad-signature"),
    "too-large": (lambda target: target.signature.write_bytes(bytes(16129)), {}, "larger than"),
    "digest-of-33-bytes": (lambda target: target.digest.write_bytes(bytes(33)), {"digest": True}, "33 bytes"),
    "no-signature": (lambda target: target.signature.unlink(), {}, "No such file"),
    "no-fs-verity": (lambda target: setattr(target.verity, "error", errno.EOPNOTSUPP), {}, "Failed to enable fs-verity"),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_refused_before_anything_is_written(target: Target, case: tuple[Any, dict[str, Any], str]) -> None:
    change, options, text = case
    change(target)
    more = {"digest": str(target.digest)} if options else {}
    with pytest.raises((Refusal, Failure), match=text):
        target.run(**more)
    assert (target.beside(), target.immutable, target.verity.enabled) == (NOTHING, True, {})


def test_a_deployment_without_an_image(target: Target) -> None:
    target.set_immutable(False)
    target.image.unlink()
    with pytest.raises(Refusal, match=r"refused \(no-image\): missing: .*/\.ostree\.cfs"):
        target.run()


def test_an_image_sealed_with_another_algorithm(target: Target) -> None:
    target.verity.enabled[target.image.stat().st_ino] = (2, digest.of_bytes(target.image.read_bytes(), "sha512").value)
    with pytest.raises(Refusal, match="wrong-signature"):
        target.run()
    with pytest.raises(Refusal, match="image-mismatch"):
        target.run(digest=str(target.digest))
    assert target.beside() == NOTHING


def test_sha512_digest(target: Target, tmp_path: Path) -> None:
    copy = tmp_path / "copy.cfs"
    signed(copy, "--key", key("p256"), "--cert", certificate("p256"), "--algorithm", "sha512")
    target.run(digest=f"{copy}.digest", signature=f"{copy}.sig")
    assert len(beside(target.image)[0]) == 64
    assert next(iter(target.verity.enabled.values()))[0] == 2


def _steps(patch: pytest.MonkeyPatch, before: Callable[[], None]) -> None:
    """Call `before` ahead of each step that changes or syncs the disk."""

    def wrapped(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            before()
            return real(*arguments, **named)

        return call

    for name in ("rename", "unlink", "link", "fsync"):
        patch.setattr(os, name, wrapped(getattr(os, name)))
    for module, name in ((files, "set_immutable"), (placing, "sync"), (fsverity, "enable")):
        patch.setattr(module, name, wrapped(getattr(module, name)))


def _killed(target: Target, step: int) -> bool:
    """Run in a child that SIGKILL ends before this step. Return False if the run has fewer steps."""
    child = os.fork()
    if child == 0:
        count = iter(range(step, 0, -1))

        def kill() -> None:
            if next(count) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        with contextlib.suppress(BaseException):
            _steps(pytest.MonkeyPatch(), kill)
            status = target.run()
        os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


def _last_step(target: Target) -> str:
    """Return the last step of a whole run that changes the disk."""
    last = ""

    def step() -> None:
        nonlocal last
        last = "step"

    def sync(fd: int) -> None:
        nonlocal last
        assert os.path.samestat(os.fstat(fd), target.directory.stat())
        last = "sync"

    with pytest.MonkeyPatch.context() as patch:
        _steps(patch, step)
        patch.setattr(placing, "sync", sync)
        assert target.run() == 0
    return last


KILLS = pytest.mark.parametrize("step", range(1, 21))
BEFORE = pytest.mark.parametrize("before", [False, True], ids=["first", "another"])


@BEFORE
@KILLS
def test_killed_at_every_step_is_completed_by_the_next_run(target: Target, step: int, before: bool) -> None:  # noqa: FBT001
    """Kill a run at each step. The next run completes the work and brings all of it to the disk."""
    if before:
        _deploy_another(target)
    killed = _killed(target, step)
    assert killed or step > 17
    assert pair_is_whole(target)
    assert _last_step(target) == "sync"
    assert (beside(target.image), target.beside(), target.immutable) == (target.pair, BOTH, True)


@KILLS
def test_killed_at_every_step_is_completed_by_the_gate(target: Target, step: int) -> None:
    """The gate does not write the pair, but the directory is immutable again."""
    _deploy_another(target)
    _killed(target, step)
    gate._complete(str(target.root.top))
    assert (target.immutable, ostree.find_marked(str(target.root.top))) == (True, [])
    assert pair_is_whole(target)
    assert target.run() == 0
    assert (beside(target.image), target.beside(), target.immutable) == (target.pair, BOTH, True)


def test_the_gate_completes_before_anything_else(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    (target.directory.parent / f".bootseal-{A}.0.immutable").touch()
    target.set_immutable(False)
    monkeypatch.setattr(deployments, "default_sysroot", lambda: str(target.root.top))
    monkeypatch.setattr(deployments, "find_staged", lambda _: None)
    for switch, expected in (("disabled", False), ("enabled", True)):
        monkeypatch.setattr(subprocess, "run", lambda *_, switch=switch, **__: Namespace(stdout=switch))
        assert gate.run(Namespace(), []) == 0
        assert target.immutable is expected


def test_the_gate_takes_away_what_a_boot_left(target: Target) -> None:
    """The mark of enable.py is a second name of its new file."""
    path = os.path.relpath(target.directory, target.root.top)
    new, mark = paths.new_of(path), paths.mark_of(path)
    (target.directory.parent / new).write_bytes(b"digest")
    (target.directory.parent / mark).hardlink_to(target.directory.parent / new)
    target.set_immutable(False)
    gate._complete(str(target.root.top))
    assert (target.immutable, target.beside()) == (True, NOTHING)


@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "unopenable"])
def test_a_mark_of_any_kind_holds_nothing_up(target: Target, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    mark = target.directory.parent / f".bootseal-{A}.0.immutable"
    if kind == "fifo":
        os.mkfifo(mark)
    elif kind == "link":
        mark.symlink_to("/nowhere")
    elif kind == "directory":
        mark.mkdir()
    else:
        mark.touch(0)
    target.set_immutable(False)
    gate._complete(str(target.root.top))
    assert target.immutable
    assert ("warning: Failed to make the directory" in capsys.readouterr().err) is (kind == "directory")


@pytest.mark.parametrize("name", ["x.0", f"{A}.0x", f"{A[1:]}.0", f"{A}.", "..", f"{A}.0/x"])
def test_other_names_are_no_marks(target: Target, name: str) -> None:
    path = target.directory.parent / f".bootseal-{name}.immutable"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert ostree.find_marked(str(target.root.top)) == []


def test_a_link_for_a_deployment_is_not_followed(target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    other = "b" * 64
    (target.directory.parent / f"{other}.0").symlink_to(victim)
    (target.directory.parent / f".bootseal-{other}.0.immutable").touch()
    gate._complete(str(target.root.top))
    assert "warning: Failed" in capsys.readouterr().err
    (victim / "new").touch()


def test_a_run_at_work_is_left_alone(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """Leave the directory to a running 'bootseal deploy', in the gate and in another 'bootseal deploy'."""
    path = os.path.relpath(target.directory, target.root.top)
    with writable.opened_below(str(target.root.top), path) as where, writable.mutable(where, path):
        gate._complete(str(target.root.top))
        assert not target.immutable
        assert "at work" in capsys.readouterr().err
        with pytest.raises(Failure, match="at work"):
            target.run()
        assert not target.immutable
    assert target.immutable


def test_a_disk_that_fails_in_the_end_is_told(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(_: int) -> None:
        raise OSError(errno.EIO, "injected")

    target.run()
    monkeypatch.setattr(placing, "sync", sync)
    with pytest.raises(Failure, match="Input/output error"):
        target.run()


def test_sync_is_the_kernels() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        placing.sync(-1)


def _deploy_another(target: Target) -> None:
    """Deploy another pair first: another digest, which only the recorder accepts, and another signature."""
    target.run()
    target.set_immutable(False)
    for kind in (".digest", ".sig"):
        Path(f"{target.image}{kind}").write_bytes(b"another")
    target.set_immutable(True)


def pair_is_whole(target: Target) -> bool:
    """Accept both files, neither, or a signature without its digest, which the boot refuses by name."""
    present = {name for name in (".digest", ".sig") if Path(f"{target.image}{name}").exists()}
    return present in (set(), {".sig"}, {".digest", ".sig"})


def test_a_fresh_signature_for_the_same_image_is_one_rename(
    target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target.run()
    signed(tmp_path / "copy.cfs", "--key", key("p256"), "--cert", certificate("p256"))  # ECDSA: another one
    renamed, real = [], os.rename

    def rename(source: str, target: str, **named: int) -> None:
        renamed.append(target)
        real(source, target, **named)

    monkeypatch.setattr(os, "rename", rename)
    target.run()
    assert renamed == [".ostree.cfs.sig"]
    assert beside(target.image)[1] != target.pair[1]


def test_a_deployment_that_is_not_immutable_stays_so(target: Target) -> None:
    target.set_immutable(False)
    target.run()
    assert not target.immutable
    assert target.beside() == BOTH


@pytest.mark.parametrize(("state", "times"), [("staged", 1), ("pending", 0), ("booted", 0), ("", 0)])
def test_the_gate_looks_again_at_what_is_staged(
    target: Target, monkeypatch: pytest.MonkeyPatch, state: str, times: int
) -> None:
    real, looked = deployments.choose, []
    monkeypatch.setattr(deployments, "choose", lambda *arguments: real(*arguments)._replace(state=state))
    monkeypatch.setattr(gateunits, "look_again", lambda: looked.append(target.immutable))
    target.run()
    assert looked == [True] * times


def test_it_fails_when_it_would_not_boot(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"verdict": "unsupported", "exit_status": 69, "missing": [], "message": "refused (unsupported)", "hint": "h"}
    monkeypatch.setattr(checker, "judge", lambda *_: record)
    assert target.run() == 69
    said = capsys.readouterr()
    assert json.loads(said.out) == record | {"changed": True}
    assert "would not boot: refused (unsupported)\nbootseal: hint: h\n" in said.err


# --- without fs-verity


@pytest.mark.parametrize("verdict", ["incomplete", "image-unsealed", "image-mismatch"])
def test_offline_seals_nothing(
    target: Target, verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target.verity.error = errno.EOPNOTSUPP
    monkeypatch.setattr(writable, "opened_below", None)  # a container may not mount
    record = {"verdict": verdict, "exit_status": 75, "missing": ["a"], "message": "m", "hint": "seal it"}
    monkeypatch.setattr(checker, "judge", lambda *_: dict(record))
    assert target.run(offline=True) == (75 if verdict == "image-mismatch" else 0)
    assert (beside(target.image), target.beside(), target.immutable) == (target.pair, BOTH, True)
    assert target.verity.calls == []
    said = capsys.readouterr().err
    assert ("bootseal: the image must still be sealed: seal it\n" in said) is (verdict != "image-mismatch")


def test_offline_seals_no_objects(target: Target) -> None:
    with pytest.raises(Failure, match="--offline cannot be used with --objects"):
        target.run(offline=True, objects=True)


UNPRIVILEGED = ["setpriv", "--bounding-set=-sys_admin,-linux_immutable", "--inh-caps=-sys_admin,-linux_immutable"]


def test_root_of_a_container(signed_root: Root, tmp_path: Path) -> None:
    """It may neither mount nor set flags, and its kernel need not have fs-verity."""
    deployment = signed_root.top / signed_root.found()[0].path
    moved = [(deployment / f".ostree.cfs{suffix}").rename(tmp_path / f"a{suffix}") for suffix in (".digest", ".sig")]
    start = [*UNPRIVILEGED, sys.executable, "-I", str(TREE / "service")]
    options = [f"--sysroot={signed_root.top}", f"--signature={moved[1]}"]
    done = subprocess.run([*start, "deploy", "--offline", *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1]) in ((0, "incomplete"), (0, "image-unsealed")), done.stderr
    assert "must still be sealed" in done.stderr
    judged = subprocess.run([*start, "verify", options[0]], capture_output=True, text=True, check=False)
    assert judged.returncode in (75, 77), judged.stderr


def _outside(target: Target, name: str) -> Path:
    path = target.root.top.parent / name
    path.mkdir()
    return path


def test_objects_through_a_link_are_not_sealed(target: Target) -> None:
    foreign = _outside(target, "foreign") / target.object.name
    foreign.write_bytes(b"a file of somebody else")
    target.object.unlink()
    target.object.parent.rmdir()
    target.object.parent.symlink_to(foreign.parent)
    target.run(objects=True)
    assert target.verity.calls == [".ostree.cfs"]


def test_sealing_does_not_follow_a_link_either(target: Target) -> None:
    """Make the link after the search for objects, before the sealing."""
    foreign = _outside(target, "foreign") / target.object.name
    foreign.touch()
    directory = os.open(target.object.parents[1], os.O_RDONLY | os.O_DIRECTORY)
    target.object.unlink()
    target.object.parent.rmdir()
    target.object.parent.symlink_to(foreign.parent)
    with pytest.raises(Failure, match="Failed to enable fs-verity on the object"):
        objects.Store(directory).seal([f"ab/{target.object.name}"], directory)
    os.close(directory)
    assert target.verity.calls == []


def test_a_mark_that_is_a_link_is_not_followed(target: Target, tmp_path: Path) -> None:
    mark = target.directory.parent / paths.mark_of(target.directory.name)
    mark.symlink_to(tmp_path / "made")
    target.run()
    assert not (tmp_path / "made").exists()
    assert not mark.is_symlink()
    assert target.immutable


@pytest.mark.parametrize("kind", ["link", "fifo", "huge"])
def test_an_image_that_is_no_image(kind: str, target: Target, tmp_path: Path) -> None:
    target.set_immutable(False)
    content = target.image.read_bytes()
    target.image.unlink()
    (tmp_path / "elsewhere").write_bytes(content)
    if kind == "link":
        target.image.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(target.image)
    else:
        target.image.touch()
        os.truncate(target.image, 1 << 40)
    with pytest.raises(Failure, match="larger than" if kind == "huge" else "not a regular file"):
        target.run()
    assert target.verity.calls == []


def test_a_device_in_place_of_the_pair_is_replaced_unopened(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    target.set_immutable(False)
    os.mknod(f"{target.image}.digest", 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    real, opened = os.open, []

    def noting(*arguments: Any, **named: Any) -> int:
        fd = real(*arguments, **named)
        opened.append(stat.S_IFMT(os.fstat(fd).st_mode))
        return fd

    monkeypatch.setattr(os, "open", noting)
    target.run()
    assert stat.S_IFCHR not in opened
    assert beside(target.image) == target.pair


def _checked(target: Target) -> objects.Objects:
    fd = os.open(target.root.top / "ostree/repo/objects", os.O_PATH)
    try:
        with target.image.open("rb") as image:
            return objects.Store(fd).check(image.fileno())
    finally:
        os.close(fd)


def test_objects_are_found_in_the_image(target: Target) -> None:
    found = _checked(target)
    assert found == objects.Objects([f"ab/{'d' * 62}.file"], [f"ab/{'c' * 62}.file"])
    assert [line.split(",")[0] for line in objects.describe(found)] == ["1 object is missing", "1 object is without fs-verity"]
