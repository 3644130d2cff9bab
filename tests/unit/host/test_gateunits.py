# SPDX-License-Identifier: LGPL-2.1-or-later
"""gateunits.py: the units of the gate, with systemctl played by a function."""

from __future__ import annotations

import subprocess
from argparse import Namespace

import pytest

from bootseal.host import gateunits


@pytest.mark.parametrize(("switch", "restarted"), [("enabled", True), ("disabled", False), ("not-found", False)])
def test_the_gate_looks_again_only_if_it_is_on(monkeypatch: pytest.MonkeyPatch, switch: str, restarted: bool) -> None:  # noqa: FBT001
    called = []

    def run(command: list[str], **_: object) -> Namespace:
        called.append(command[-2:])
        return Namespace(stdout=switch + "\n")

    monkeypatch.setattr(subprocess, "run", run)
    gateunits.look_again()
    assert called == [["is-enabled", "bootseal-gate.path"], ["restart", "bootseal-gate.service"]][: 1 + restarted]


def test_the_gate_is_not_needed_to_deploy(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> Namespace:
        raise FileNotFoundError("systemctl")

    monkeypatch.setattr(subprocess, "run", run)
    gateunits.look_again()
