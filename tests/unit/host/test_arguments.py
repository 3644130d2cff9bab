# SPDX-License-Identifier: LGPL-2.1-or-later
"""arguments.py: what several commands share."""

import argparse
from pathlib import Path

import pytest

from bootseal.host import arguments, deployments
from bootseal.host.checker import KeySource


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    arguments.add_source_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], KeySource()),
        (["--initrd=I", "abcd"], KeySource(initrd="I")),
        (["--keys=K"], KeySource(keys="K")),
        (["--system-keys"], KeySource(system_keys=True)),
    ],
    ids=["default", "initrd", "keys", "system-keys"],
)
def test_key_source(words: list[str], expected: KeySource) -> None:
    assert arguments.key_source(_parse(*words)) == expected


def test_keys_come_from_one_place() -> None:
    with pytest.raises(argparse.ArgumentError, match="not allowed with argument"):
        _parse("--initrd=I", "--system-keys")


def test_sysroot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "default_sysroot", lambda: "/default")
    monkeypatch.chdir(tmp_path)
    assert arguments.sysroot(_parse()) == "/default"
    assert arguments.sysroot(_parse("--sysroot=root/../other")) == f"{tmp_path}/other"
