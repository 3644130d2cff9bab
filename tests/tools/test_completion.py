# SPDX-License-Identifier: LGPL-2.1-or-later
"""The completion and the manual know every command and option that there is."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootseal.host import cli

from .program import TREE

COMPLETION = TREE / "packaging/completions/bootseal"
MANUAL = TREE / "packaging/man/bootseal.8"


def _replies(*words: str) -> list[str]:
    """What bash offers after these words; the last one is being typed."""
    array = " ".join(f"'{word}'" for word in ("bootseal", *words))
    script = f"compopt() {{ :; }}; . {COMPLETION}; COMP_WORDS=({array}); COMP_CWORD={len(words)}; _bootseal\n"
    script += "printf '%s\\n' \"${COMPREPLY[@]}\""
    output = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout
    return [line for line in output.split("\n") if line]


def _complete(*words: str) -> set[str]:
    return set(_replies(*words))


def _options(command: str) -> set[str]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    cli._module(command).add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_options_are_completed(command: str) -> None:
    assert _complete(command, "-") == _options(command)


def test_commands_are_completed() -> None:
    assert _complete("") == {*cli._COMMANDS, "--version", "--help"}
    assert _complete("si") == {"sign"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("sign", "--algorithm", ""), {"sha256", "sha512"}),
        (("sign", "--algorithm", "=", "sha5"), {"sha512"}),
        (("verify", "--json", "="), {"pretty", "short", "off"}),
        (("verify", "pend"), {"pending"}),
        (("deploy", "boo"), {"booted"}),
    ],
)
def test_values_are_completed(words: tuple[str, ...], expected: set[str]) -> None:
    assert _complete(*words) == expected


def test_a_name_with_blanks_is_one_reply(tmp_path: Path) -> None:
    (tmp_path / "a name").touch()
    assert _replies("sign", f"{tmp_path}/a") == [f"{tmp_path}/a name"]
    assert _replies("sign", "--ephemeral", "=", f"{tmp_path.parent}/") != []


def test_the_build_is_completed_as_a_command(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = ("sign", "--ephemeral", "keys", "image", "--")
    assert {"bash"} <= set(_replies(*words, "bas"))
    assert _replies(*words, "make", f"{tmp_path}/f") == [f"{tmp_path}/file"]
    assert "--key" not in _replies(*words, "make", "--")


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_the_manual_has_every_option(command: str) -> None:
    text = MANUAL.read_text().replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
    match = re.search(rf"^\.SH {command.upper()}\n(.*?)(?=^\.SH )", text, re.MULTILINE | re.DOTALL)
    assert match, f"no section {command.upper()}"
    missing = {option for option in _options(command) - {"--help", "--json"} if not re.search(rf"{option}\b", match[1])}
    assert not missing


@pytest.mark.skipif(not shutil.which("groff"), reason="the program groff is not installed")
def test_the_manual_is_good_roff() -> None:
    result = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", MANUAL], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
