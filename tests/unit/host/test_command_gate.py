# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal gate: which staged deployments pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootseal import verdicts
from bootseal.errors import Refusal
from bootseal.formats import gvariant
from bootseal.host import checker, dryrun, placing
from bootseal.host.deployed import Deployed
from bootseal.host.layouts import ostree
from bootseal.host.output import Failure

from .roots import (
    EVIL,
    A,
    B,
    Root,
    make_initrd,
    run_gate,
    stage,
)


@pytest.mark.parametrize("name", [EVIL, "..", "a/b", "\u0661"])
def test_a_staged_deployment_with_such_a_stateroot(root: Root, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Hold the deployment, and report the reason."""
    target = gvariant.write_vardict({"name": ("s", f"{B}.0\0".encode()), "osname": ("s", name.encode() + b"\0")})
    Path(ostree.STAGED).write_bytes(gvariant.write_vardict({"target": ("a{sv}", target)}))
    with pytest.raises(Failure, match=r"name of the stateroot|leads to no ostree/deploy/") as caught:
        run_gate(monkeypatch, "enabled")
    assert name not in caught.value.what.replace("...", "")


@pytest.mark.parametrize("switch", ["disabled", "masked", "not-found"])
def test_a_gate_that_is_off_lets_everything_pass(root: Root, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    stage(root, B)
    assert run_gate(monkeypatch, switch) == 0


@pytest.mark.parametrize("switch", ["enabled", "enabled-runtime", "static", "", "bad"])
def test_a_gate_that_is_on_holds_what_cannot_be_found(root: Root, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    root.add(A, 1)
    stage(root, B)
    with pytest.raises(Failure):
        run_gate(monkeypatch, switch)


def test_gate_without_a_staged_deployment(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_gate(monkeypatch, "enabled") == 0


@pytest.mark.parametrize(("verdict", "status"), [("verified", 0), ("no-signature", 66), ("untrusted-signer", 77)])
def test_gate_decides_by_the_verdict(
    root: Root, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: str, status: int
) -> None:
    root.add(A, 1)
    path = root.add(B, etc=False)
    (root.top / path / "usr/lib/modules/6.12/initramfs.img").write_bytes(make_initrd())
    stage(root, B)
    asked = []

    def judged(found: Deployed, _sysroot: str, source: dryrun.Source) -> dryrun.Judgement:
        asked.append((found.path, source.name))
        image = {"algorithm": "sha256", "digest": "ab" * 32, "id": "edge", "version": "41.3"}
        ending = {"verdict": verdict, "exit_status": status, "message": f"refused ({verdict})", "hint": "", "missing": []}
        return ending | ({"image": image} if status == 0 else {})

    monkeypatch.setattr(checker, "judge", judged)
    named = f"(the disk names it os/{B[:12]}.0)"
    if status == 0:
        assert run_gate(monkeypatch, "enabled") == 0
        assert f"the staged deployment would boot: edge 41.3 sha256:abababababab {named}\n" in capsys.readouterr().err
    else:
        with pytest.raises(Failure, match=verdict) as caught:
            run_gate(monkeypatch, "enabled")
        assert caught.value.status == status
        assert caught.value.what.endswith(named)
    assert asked == [(path, str(root.top / path / "usr/lib/modules/6.12/initramfs.img"))]


@pytest.mark.parametrize(
    ("problem", "status", "text"),
    [
        (Refusal(verdicts.UNTRUSTED_SIGNER, "a stranger's", "the commit"), 77, r"refused \(untrusted-signer\): a stranger's"),
        (Failure(73, "Failed to write", "make room"), 73, "Failed to write"),
    ],
)
@pytest.mark.parametrize("verdict", ["no-digest", "no-signature", "image-unsealed", "no-keys"])
def test_the_reason_is_why_nothing_was_put_in_place(
    root: Root, monkeypatch: pytest.MonkeyPatch, verdict: str, problem: Exception, status: int, text: str
) -> None:
    root.add(A, 1)
    root.add(B, etc=False)
    stage(root, B)
    ending = {"verdict": verdict, "exit_status": 66, "message": "m", "hint": "h", "missing": []}
    monkeypatch.setattr(checker.Checker, "check", lambda *_: dict(ending))
    monkeypatch.setattr(placing, "place", lambda *_: (_ for _ in ()).throw(problem))
    expected, number = ("m", 66) if verdict == "no-keys" else (text, status)
    with pytest.raises(Failure, match=f"^The staged deployment would not boot: {expected}") as caught:
        run_gate(monkeypatch, "enabled")
    assert caught.value.status == number
