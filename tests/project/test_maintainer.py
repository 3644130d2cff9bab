# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the maintainer scripts of packaging/deb. tests/vm/test_package.py tests what they leave on disk."""

import os
import subprocess
from pathlib import Path

import pytest

from unit.support import TREE

RELOAD = "systemctl --system daemon-reload"
PROGRAMS = ("systemctl", "deb-systemd-helper", "deb-systemd-invoke")


def said(directory: Path, script: str, *arguments: str, running: bool) -> list[str]:
    """Run a script of bootseal-tools, with or without systemd; return its commands, all of which fail."""
    log, run = directory / "log", directory / "run"
    log.touch()
    for name in PROGRAMS:
        (directory / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\nexit 1\n')
        (directory / name).chmod(0o755)
    if running:
        run.mkdir()
    text = (TREE / f"packaging/deb/bootseal-tools.{script}").read_text().replace("/run/systemd/system", str(run))
    environment = {"PATH": f"{directory}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", text, script, *arguments], env=environment, check=True)
    return log.read_text().splitlines()


@pytest.mark.parametrize(("script", "action"), [("postinst", "configure"), ("postrm", "remove")])
def test_systemd_reloads_its_units(script: str, action: str, tmp_path: Path) -> None:
    """Otherwise ostree-finalize-staged.service would run the removed program and not finalize."""
    assert said(tmp_path, script, action, running=True)[-1] == RELOAD


@pytest.mark.parametrize("script", ["postinst", "postrm", "prerm"])
@pytest.mark.parametrize("action", ["configure", "remove", "purge", "upgrade", "abort-upgrade"])
def test_systemctl_is_not_called_without_systemd(script: str, action: str, tmp_path: Path) -> None:
    commands = said(tmp_path, script, action, running=False)
    assert [line for line in commands if not line.startswith("deb-systemd-helper ")] == []


@pytest.mark.parametrize(("action", "stopped"), [("remove", True), ("upgrade", False)])
def test_only_a_removal_stops_the_gate(action: str, stopped: bool, tmp_path: Path) -> None:  # noqa: FBT001
    expected = ["deb-systemd-invoke stop bootseal-gate.path bootseal-deploy.path"] if stopped else []
    assert said(tmp_path, "prerm", action, running=True) == expected
