# SPDX-License-Identifier: LGPL-2.1-or-later
"""__main__.py: which command goes where."""

import os
import subprocess
import sys

import pytest

from bootseal import __main__, boot, checkinitrd, failure, reference
from unit.support import SERVICE


@pytest.mark.parametrize(
    ("command", "module", "function"),
    [
        ("boot", boot, "main"),
        ("cleanup", failure, "cleanup"),
        ("guard", failure, "guard"),
        ("changed", failure, "changed"),
        ("greeting", failure, "greeting"),
        ("check-initrd", checkinitrd, "check"),
    ],
)
def test_commands(command: str, module: object, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, function, lambda: 42)
    monkeypatch.setattr(sys, "argv", ["bootseal", command])
    assert __main__.main() == 42


def test_check_keyring_has_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "check_keyring", lambda *given: 42 if given == ("/x", "/tree") else 1)
    monkeypatch.setattr(sys, "argv", ["bootseal", "check-keyring", "/x", "/tree"])
    assert __main__.main() == 42


@pytest.mark.parametrize("arguments", [["boots"], ["BOOT"], ["--help"], ["status", "boot"]])
def test_everything_else_is_of_the_running_system(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("bootseal.host.cli")
    given: list[list[str]] = []

    def main(argv: list[str]) -> int:
        given.append(argv)
        return 7

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(boot, "main", lambda: pytest.fail("a boot"))
    monkeypatch.setattr(sys, "argv", ["bootseal", *arguments])
    assert __main__.main() == 7
    assert given == [arguments]


def test_the_exit_status_is_the_command_s() -> None:
    code = "import runpy, sys; sys.argv[1:] = ['nonsense']; runpy.run_module('bootseal', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(SERVICE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert done.returncode == 64
