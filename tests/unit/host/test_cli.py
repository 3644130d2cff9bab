# SPDX-License-Identifier: LGPL-2.1-or-later
"""cli.py: usage, help, and how errors end the program."""

from __future__ import annotations

import errno
import json
import keyword
import subprocess
import sys
from pathlib import Path

import pytest

from bootseal import __version__
from bootseal.errors import Refusal
from bootseal.host import cli
from bootseal.host.commands import verify
from bootseal.verdicts import NO_IMAGE

from .program import TREE, bootseal, certificate, image, key
from .roots import Root

LOADED = """
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv.pop(1))
from bootseal.host import cli
try:
    cli.main()
finally:
    print("loaded", *set(sys.modules) - before, file=sys.stderr)
"""
LIBRARIES = {"cryptography", "pydbus", "gi", "pyudev", "concurrent", "logging", "subprocess", "threading", "getpass"}


def test_version() -> None:
    assert bootseal("--version").stdout == f"bootseal {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["verify", "--nonsense"], ["verify", "--", "x"], ["sign"], ["verify", "--al"]]
)
def test_usage_errors_are_64_with_a_hint(arguments: list[str]) -> None:
    result = bootseal(*arguments)
    assert (result.returncode, result.stdout) == (64, "")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("bootseal: Failed to ")
    assert len(lines) <= 2


# Of the units' own commands those that do no harm where this fails: 'cleanup' would put a refusal in place of the record.
@pytest.mark.parametrize("command", ["greeting", "check-initrd"])
def test_the_program_has_none_of_the_units_commands(command: str, tmp_path: Path) -> None:
    program = tmp_path / "bootseal"
    program.write_text((TREE / "service/bootseal.in").read_text().replace("@LIBDIR@", str(TREE / "service")))
    result = subprocess.run([sys.executable, "-IB", program, command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (64, "")
    assert "invalid choice" in result.stderr


def test_the_wheel_has_the_same_program() -> None:
    assert '\nbootseal = "bootseal.host.cli:main"\n' in (TREE / "pyproject.toml").read_text()


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_help(command: str) -> None:
    result = bootseal(command, "--help")
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("command", "status", "what"),
    [
        (["verify", "--sysroot="], 64, "--sysroot= is empty"),
        (["verify", "--keys", ""], 64, "--keys= is empty"),
        (["verify", ""], 64, "DEPLOYMENT is empty"),
        (["sign", "x", "--key", "k", "--passphrase-file="], 64, "--passphrase-file= is empty"),
        (["deploy", "--signature=", "--sysroot=/"], 64, "--signature= is empty"),
        (["verify", "--sysroot=/nowhere"], 66, "neither ostree/deploy nor state/deploy below /nowhere"),
        (["verify", "--nonsense"], 64, "unrecognized arguments: --nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("json_", [["--json=short"], ["--json", "pretty"], ["--json=off"], []], ids=" ".join)
def test_a_failure_is_an_object_as_well(
    command: list[str], status: int, what: str, json_: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty value is a failure: the default that it would stand for is not what a script has meant."""
    assert cli.main([*command, *json_]) == status
    said = capsys.readouterr()
    assert what in said.err.splitlines()[0]
    if json_ in ([], ["--json=off"]):
        assert said.out == ""
    else:
        value = json.loads(said.out)
        assert (value["version"], value["exit_status"]) == (1, status)
        assert said.err.splitlines()[0] == f"bootseal: {value['message']}"


def test_a_refusal_names_its_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: list[str]) -> int:
        raise Refusal(NO_IMAGE, "missing", "/x")

    monkeypatch.setattr(cli, "_main", refuse)
    assert cli.main(["verify", "--json=short"]) == 66
    value = {"version": 1, "message": "refused (no-image): missing: /x", "exit_status": 66, "hint": NO_IMAGE.hint}
    assert json.loads(capsys.readouterr().out) == value | {"verdict": "no-image"}


def test_an_empty_command_line_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "run", lambda arguments, _: 7 if arguments.cmdline == "" else 1)
    assert cli.main(["verify", "--cmdline="]) == 7


def loaded(*arguments: str | Path) -> tuple[set[str], set[str]]:
    """Run a command that must work, and return the commands and LIBRARIES that it imports."""
    command = [sys.executable, "-I", "-c", LOADED, str(TREE / "service"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 74), result.stderr
    modules = set(result.stderr.splitlines()[-1].split())
    commands = {name.removeprefix("bootseal.host.commands.") for name in modules if name.startswith("bootseal.host.commands.")}
    return commands, {name.partition(".")[0] for name in modules} & LIBRARIES


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_the_program_imports_without_a_command(option: str) -> None:
    assert loaded(option) == (set(), set())


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_a_command_imports_no_other(command: str) -> None:
    assert loaded(command, "--help")[0] == {f"{command}_" if keyword.iskeyword(command) else command}


def test_help_lists_every_command() -> None:
    text = "".join(bootseal("--help").stdout.split())  # lines end anywhere
    for command, help_ in cli._COMMANDS.items():
        assert command + help_.replace(" ", "") in text


def test_what_sign_imports(tmp_path: Path) -> None:
    assert loaded("sign", "--help") == ({"sign"}, set())
    assert loaded("sign", image(tmp_path), "--to-be-signed", tmp_path / "tbs") == ({"sign"}, set())
    with_key = ("sign", image(tmp_path), "--key", key("p256"), "--cert", certificate("p256"))
    assert loaded(*with_key)[1] - {"threading"} == {"cryptography", "getpass"}


def test_what_status_imports() -> None:
    assert "cryptography" not in loaded("status")[1]


def test_what_verify_imports(root: Root, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    libraries = loaded("verify", "--all", f"--sysroot={root.top}", f"--keys={tmp_path}/none")[1]
    assert libraries == {"cryptography", "subprocess", "threading"}


def test_a_bug_is_one_line_and_70(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "_main", lambda _: 1 // 0)
    assert cli.main([]) == 70
    assert "Failed to go on: ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setenv("BOOTSEAL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main([])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.EIO, "", "/x"), 74, "Failed to go on: Input/output error (EIO): /x"),
        (OSError(errno.EMFILE, ""), 71, "Failed to go on: Too many open files (EMFILE)"),
        (OSError(errno.EBADF, ""), 70, "Failed to go on: OSError: "),
    ],
    ids=["disk", "exhausted", "bug"],
)
def test_a_failing_machine_is_no_bug(
    error: OSError, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_main", fail)
    assert cli.main([]) == status
    message = capsys.readouterr().err
    assert said in message
    assert ("report this bug" in message) == (status == 70)


def test_a_refusal_has_the_boots_own_words_and_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: list[str]) -> int:
        raise Refusal(NO_IMAGE, "missing", "/x\x1b[31m")

    monkeypatch.setattr(cli, "_main", refuse)
    assert cli.main([]) == 66
    lines = capsys.readouterr().err.splitlines()
    assert lines == [r"bootseal: refused (no-image): missing: /x\x1b[31m", f"bootseal: hint: {NO_IMAGE.hint}"]
