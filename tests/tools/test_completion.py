# SPDX-License-Identifier: LGPL-2.1-or-later
"""The completion and the manual know every command and option that there is."""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootseal.host import cli

from .program import TREE

COMPLETION = TREE / "packaging/completions/bootseal"
MANUAL = TREE / "packaging/man/bootseal.8"


def _replies(*words: str, sysroot: Path | None = None) -> list[str]:
    """What bash offers after these words; the last one is being typed."""
    array = " ".join(shlex.quote(word) for word in ("bootseal", *words))
    script = f"compopt() {{ :; }}; {_sourced(sysroot)}; COMP_WORDS=({array}); COMP_CWORD={len(words)}; _bootseal\n"
    script += "printf '%s\\0' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return [reply for reply in done.stdout.split("\0") if reply]


def _sourced(sysroot: Path | None) -> str:
    """The completion, looking for deployments below another physical root."""
    function = f"; _bootseal_sysroot() {{ echo {shlex.quote(str(sysroot))}; }}" if sysroot else ""
    return f". {COMPLETION}{function}"


def _complete(*words: str, sysroot: Path | None = None) -> set[str]:
    return set(_replies(*words, sysroot=sysroot))


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


# --- names that the disk chose

HEX = "0123456789abcdef" * 4
# Each would leave a file called "ran" in the current directory, if anything ever ran or expanded it.
HOSTILE = (
    "$(>ran)", "`>ran`", ";>ran;", "x|>ran", "x&>ran&", "\n>ran\n", "$'\\x60>ran\\x60'", "${x:=$(>ran)}", "<(>ran)",
    "a[$(>ran)]", "*",
    "?", "[a-z]*", "{a,b}", "~root", "!!", "-rf", "--help", "a b", "a\tb", "'", '"', "\\", "\\$(>ran)", "\x01",
    "\x1b[2J", "#",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A physical root with one good deployment and hostile names everywhere else."""
    sysroot = tmp_path_factory.mktemp("root")
    for stateroot in ("os", *HOSTILE):
        directory = sysroot / "ostree/deploy" / stateroot / "deploy"
        for name in HOSTILE:
            for form in (f"{name}.0", f"{HEX}.0{name}", f"{HEX}.{name}", f"{HEX[1:]}{name[:1].upper()}.0", f"{name}{HEX}.0"):
                (directory / form).mkdir(parents=True, exist_ok=True)
    (sysroot / f"ostree/deploy/os/deploy/{HEX}.0").mkdir()
    (sysroot / f"ostree/deploy/os/deploy/{HEX}.1").touch()  # no directory
    return sysroot


@pytest.fixture
def hostile(hostile_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That root, and a current directory in which nothing ever ran."""
    monkeypatch.chdir(tmp_path)
    yield hostile_root
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["verify", "deploy"])
@pytest.mark.parametrize("typed", ["", HEX[:4], "p", "$", "`", "$(>ran)", "`>ran`", "*", "[0-9]*", "-", "'", "\\"])
def test_only_names_of_a_deployments_form_are_offered(hostile: Path, command: str, typed: str) -> None:
    found = [reply for reply in _replies(command, typed, sysroot=hostile) if not reply.startswith("-")]
    assert set(found) == {name for name in (f"{HEX}.0", "pending", "booted") if name.startswith(typed)}


@pytest.mark.parametrize("typed", ["$(>ran)", "`>ran`", "a[$(>ran)]", "@", "*"])
@pytest.mark.parametrize("place", range(3))
def test_what_was_typed_is_not_run(hostile: Path, typed: str, place: int) -> None:
    words = ["verify", "--keys", ""]
    _replies(*words[:place], typed, *words[place:], sysroot=hostile)


def test_many_deployments(tmp_path: Path) -> None:
    directory = tmp_path / "ostree/deploy/os/deploy"
    directory.mkdir(parents=True)
    names = {f"{number:064x}.0" for number in range(10_000)}
    for name in names:
        (directory / name).mkdir()
    assert _complete("verify", "", sysroot=tmp_path) == names | {"pending", "booted"}
    assert _complete("verify", "0" * 62, sysroot=tmp_path) == {f"{number:064x}.0" for number in range(256)}


def test_without_deployments(tmp_path: Path) -> None:
    assert _complete("verify", "", sysroot=tmp_path) == {"pending", "booted"}


def test_no_list_of_words_is_expanded() -> None:
    """The options of compgen and complete that expand what they are given."""
    assert not re.search(r"(?m)^[^#\n]*\b(compgen|complete)\b[^\n]* -\w*[WCG]", COMPLETION.read_text())


def _typed(hostile: Path, *lines: str) -> str:
    """What an interactive bash shows for these keys. A line is erased before the next."""
    setup = [
        "bind 'set completion-query-items 0'", "bind 'set page-completions off'", "bind 'set enable-bracketed-paste off'",
        "bind 'set bell-style none'", "PS1=", _sourced(hostile),
    ]  # fmt: skip
    keys = "\n".join([*setup, *(f"{line}\x01\x0b" for line in lines), "cd /; echo $((40+2))-end; exit 0\n"])
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], os.environ | {"TERM": "dumb", "HISTFILE": "/dev/null"})
    return _conversation(pid, master, keys.encode())


def _conversation(pid: int, master: int, keys: bytes) -> str:
    shown = b""
    os.set_blocking(master, False)
    try:
        while True:
            select.select([master], [master] if keys else [], [])
            with contextlib.suppress(BlockingIOError):
                keys = keys[os.write(master, keys[:64]) :] if keys else keys
            with contextlib.suppress(BlockingIOError):
                shown += os.read(master, 1 << 16)
    except OSError:  # EIO: the shell has ended
        pass
    finally:
        os.close(master)
        os.waitpid(pid, 0)
    assert b"42-end" in shown
    return shown.decode(errors="replace")


def test_in_an_interactive_shell(hostile: Path, tmp_path: Path) -> None:
    """The whole way, with readline: TAB lists and inserts deployments and files, and nothing runs."""
    for name in HOSTILE:
        (tmp_path / f"f{name}").touch()
        (tmp_path / f"d{name}").mkdir()
    before = sorted(tmp_path.rglob("*"))
    lines = [f"bootseal {command} {typed}\t\t\t" for command in ("verify", "deploy", "sign") for typed in ("", "-", "f", "d")]
    lines += [
        f"bootseal sign {typed}\t\t"
        for typed in ("f\\$", "d\\$", "d\\`", "d\\;", "d'$", 'd"\\$', "d\\$\\(\\>ran\\)/", "d$(>ran)/")
    ]
    shown = _typed(hostile, "bootseal() { printf '<%s>' \"$@\"; }\n", *lines, f"bootseal verify {HEX[:5]}\t\n")
    assert f"<verify><{HEX}.0>" in shown
    assert sorted(tmp_path.rglob("*")) == before


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
