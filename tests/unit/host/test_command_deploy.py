# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal deploy, with fs-verity played by a recorder: order, refusals, the immutable flag, cuts. Guests have a real one."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootseal import digest, paths, verdicts
from bootseal.errors import Refusal
from bootseal.host import carriers, checker, deployments, gateunits, objects, placing
from bootseal.host.commands import deploy, gate
from bootseal.host.output import Failure
from bootseal.linux import files, fsverity
from bootseal.stages import writable

from .program import beside, certificate, key, signed
from .repositories import commit, repository, write_detached
from .roots import A, Root

pytestmark = pytest.mark.root  # a private copy of a mount, and the immutable flag


class Verity:
    """fs-verity of a filesystem that has it: by inode, with the real digest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.enabled: dict[int, tuple[int, bytes]] = {}
        self.calls: list[str] = []
        self.error = 0
        monkeypatch.setattr(fsverity, "enable", self.enable)
        monkeypatch.setattr(fsverity, "measure", self.measure)

    def enable(self, fd: int, algorithm: int, block_size: int, signature: bytes) -> None:
        assert (block_size, signature) == (4096, b"")
        self.calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if self.error:
            raise OSError(self.error, "injected")
        if os.fstat(fd).st_ino in self.enabled:
            raise FileExistsError(errno.EEXIST, "exists")
        content = os.pread(fd, 1 << 20, 0)
        self.enabled[os.fstat(fd).st_ino] = (algorithm, digest.of_bytes(content, fsverity.ALGORITHMS[algorithm]).value)

    def measure(self, fd: int) -> tuple[int, bytes]:
        try:
            return self.enabled[os.fstat(fd).st_ino]
        except KeyError:
            raise OSError(errno.ENODATA, "none") from None


class Target:
    """A root with one unsigned deployment whose directory is immutable, and a signature for it."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = Root(top / "root")
        self.directory = self.root.top / self.root.add(A, 1)
        self.object = self.root.top / f"ostree/repo/objects/ab/{'c' * 62}.file"
        self.object.parent.mkdir()
        self.object.write_bytes(b"object")
        self.image = self.directory / ".ostree.cfs"
        self.image.write_bytes(b"image naming /ab/" + b"c" * 62 + b".file\0" + b"/ab/" + b"d" * 62 + b".file")
        self.keys = top / "keys"
        self.keys.mkdir()
        (self.keys / "a.pem").write_bytes(certificate("p256").read_bytes())
        copy = top / "copy.cfs"
        copy.write_bytes(self.image.read_bytes())
        signed(copy, "--key", key("p256"), "--cert", certificate("p256"))
        self.pair = beside(copy)
        self.signature = Path(f"{copy}.sig")
        self.digest = Path(f"{copy}.digest")
        self.verity = Verity(monkeypatch)
        self.set_immutable(True)
        monkeypatch.setattr(checker, "judge", lambda *_: {"verdict": "verified", "exit_status": 0, "missing": [], "hint": ""})

    def set_immutable(self, immutable: bool) -> None:  # noqa: FBT001
        fd = os.open(self.directory, os.O_RDONLY)
        files.set_immutable(fd, immutable=immutable)
        os.close(fd)

    @property
    def immutable(self) -> bool:
        fd = os.open(self.directory, os.O_RDONLY)
        try:
            return files.is_immutable(fd)
        finally:
            os.close(fd)

    def run(self, **more: Any) -> int:
        options = {
            "deployment": None,
            "digest": None,
            "signature": str(self.signature),
            "objects": False,
            "all": False,
            "json": "short",
        }
        options |= {"sysroot": str(self.root.top), "initrd": None, "keys": str(self.keys), "system_keys": False}
        return deploy.run(Namespace(**(options | more)), [])

    def beside(self) -> set[str]:
        return {p.name for p in self.directory.iterdir() if ".ostree.cfs" in p.name} | {
            p.name for p in self.directory.parent.iterdir()
        }


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    made = Target(tmp_path, monkeypatch)
    yield made
    made.set_immutable(False)


NOTHING = {".ostree.cfs", f"{A}.0"}
BOTH = NOTHING | {".ostree.cfs.digest", ".ostree.cfs.sig"}


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
    with pytest.raises(Failure, match="Failed to open the image") as caught:
        target.run()
    assert caught.value.hint == verdicts.NO_IMAGE.hint


def test_an_image_sealed_with_another_algorithm(target: Target) -> None:
    target.verity.enabled[target.image.stat().st_ino] = (2, digest.of_bytes(target.image.read_bytes(), "sha512").value)
    with pytest.raises(Refusal, match="image-mismatch"):
        target.run()
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
    assert (target.immutable, deployments.find_marked(str(target.root.top))) == (True, [])
    assert pair_is_whole(target)
    assert target.run() == 0
    assert (beside(target.image), target.beside(), target.immutable) == (target.pair, BOTH, True)


def test_the_gate_completes_before_anything_else(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    (target.directory.parent / f".bootseal-{A}.0.immutable").touch()
    target.set_immutable(False)
    monkeypatch.setattr(deployments, "default_sysroot", lambda: str(target.root.top))
    monkeypatch.setattr(deployments, "find_staged", lambda: None)
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
    assert deployments.find_marked(str(target.root.top)) == []


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


# --- signatures that travel


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
    with pytest.raises(Refusal, match="no signature travels with the commit aaaaaaaaaaaa") as caught:
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
    assert ("a signature cannot be used: the commit's detached metadata: damaged" in said) == bool(content)
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
