# SPDX-License-Identifier: LGPL-2.1-or-later
"""The completions of bash, zsh and fish and the manual know every command and option that there is."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import runpy
import select
import shlex
import shutil
import subprocess
import tempfile
import termios
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bootseal.host import cli
from unit.host.program import TREE, bootseal

COMPLETIONS = TREE / "packaging/completions"
FILES = {"bash": COMPLETIONS / "bootseal", "zsh": COMPLETIONS / "_bootseal", "fish": COMPLETIONS / "bootseal.fish"}
GENERATE = runpy.run_path(str(COMPLETIONS / "generate.py"))
MANUAL = TREE / "packaging/man/bootseal.8"
in_each_shell = pytest.mark.parametrize("shell", FILES)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: empty, and below another one than the shells' own files."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def _offered(shell: str, *lines: str, sysroot: Path | str = "/none") -> list[set[str]]:
    """Return what a shell offers in place of the last word of each line, which "bootseal" precedes."""
    if not shutil.which(shell):
        pytest.skip(f"the program {shell} is not installed")
    ask = {"bash": _ask_bash, "zsh": _ask_zsh, "fish": _ask_fish}[shell]
    with tempfile.TemporaryDirectory() as home:
        answers = [{_value(word) for word in words} for words in ask(lines, str(sysroot), home)]
    assert len(answers) == len(lines)
    return answers


def _value(offer: str) -> str:
    """Return an offer as bash makes it: without "--option=" before it, "=" after an option, or "/" after a directory."""
    return re.sub(r"^--[a-z-]+=(?=.)", "", offer).removesuffix("=").removesuffix("/")


def _environment(home: str) -> dict[str, str]:
    own = {"HOME": home, "ZDOTDIR": home, "XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home}
    return os.environ | own | {"LC_ALL": "C.UTF-8", "TERM": "dumb", "HISTFILE": "/dev/null"}


def _output(*command: str, home: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, env=_environment(home))
    assert done.stderr == b""
    return os.fsdecode(done.stdout)


def _ask_bash(lines: tuple[str, ...], sysroot: str, home: str) -> list[list[str]]:
    script = f"compopt() {{ :; }}; {_sourced('bash', sysroot)}\n"
    for line in lines:
        # As readline does it: "=" is a word of its own.
        words = [part for word in line.split(" ")[:-1] for part in re.split("(=)", word) if part]
        words += [part for part in re.split("(=)", line.split(" ")[-1]) if part] or [""]
        script += f"COMP_WORDS=({shlex.join(['bootseal', *words])}) COMP_CWORD={len(words)}; _bootseal\n"
        script += "printf '%s\\0' \"${COMPREPLY[@]}\" ''\n"
    return _records(_output("bash", "-c", script, home=home))


def _records(text: str) -> list[list[str]]:
    """Split at NUL; an empty string ends a record."""
    records: list[list[str]] = [[]]
    for item in text.split("\0")[:-1]:
        if item:
            records[-1].append(item)
        else:
            records.append([])
    return records[:-1]


def _sourced(shell: str, sysroot: Path | str) -> str:
    """Return commands that load a completion, which then looks for deployments below another physical root.

    A command "build" has a completion that runs something.
    """
    root = shlex.quote(str(sysroot))
    if shell == "bash":
        return f". {FILES[shell]}; _bootseal_sysroot() {{ echo {root}; }}; _build() {{ : >ran; }}; complete -F _build build"
    if shell == "fish":
        function = f"function __bootseal_sysroot; echo {root}; end"
        return f"source {FILES[shell]}; {function}; complete -c build -a '(touch ran)'"
    load = f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit && compinit -u -D"
    return f"_bootseal_sysroot() {{ print -r -- {root}; }}; {load}; _build() {{ : >ran }}; compdef _build build"


# TAB inserts every match at once, as arguments; ^T tells the words and clears the line without running it; ^B ends.
ZSH = """
every() { _main_complete; compstate[insert]=all }
report() { print -rN -- "${(@Q)${(z)BUFFER}}" '' >>$ZDOTDIR/report; BUFFER= }
quit() { BUFFER=exit; zle accept-line }
zle -C every complete-word every
zle -N report
zle -N quit
bindkey '^I' every
bindkey '^T' report
bindkey '^B' quit
"""


def _ask_zsh(lines: tuple[str, ...], sysroot: str, home: str) -> list[list[str]]:
    """Ask an interactive zsh, because only interactive shells complete."""
    (Path(home) / ".zshrc").write_text(f"bindkey -e; PS1=\n{_sourced('zsh', sysroot)}\n{ZSH}")
    _conversation(["zsh", "-d", "-i"], "".join(f"bootseal {line}\t\x14" for line in lines) + "\x02", home)
    found = _records(os.fsdecode((Path(home) / "report").read_bytes()))
    # Without a match, the last word is still what was typed.
    return [
        [word for word in words[len(line.split(" ")) :] if word != line.split(" ")[-1]]
        for line, words in zip(lines, found, strict=True)
    ]


def _ask_fish(lines: tuple[str, ...], sysroot: str, home: str) -> list[list[str]]:
    script = f"{_sourced('fish', sysroot)}; for line in $argv; complete -C \"bootseal $line\"; printf '\\0'; end"
    answers = _output("fish", "-N", "-c", script, "--", *lines, home=home).split("\0")[:-1]
    return [[line.partition("\t")[0] for line in answer.splitlines()] for answer in answers]


def _conversation(command: list[str], keys: str, home: str) -> str:
    """Return what an interactive shell shows for these keys, the last of which end it."""
    assert max(map(len, keys.split("\n"))) < 4096  # a terminal drops more, until the shell has changed its mode
    pid, master = pty.fork()
    if pid == 0:
        termios.tcsetwinsize(0, (1000, 200))  # no shell asks whether a list is too long
        os.execvpe(command[0], command, _environment(home))
    left, shown = os.fsencode(keys), b""
    os.set_blocking(master, False)
    waiting = select.poll()
    try:
        while True:
            waiting.register(master, select.POLLIN | (select.POLLOUT if left else 0))
            waiting.poll()
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(master, left[:64]) :] if left else left
            with contextlib.suppress(BlockingIOError):
                shown += os.read(master, 1 << 16)
    except OSError:  # EIO: the shell has ended
        pass
    finally:
        os.close(master)
        os.waitpid(pid, 0)
    assert not left
    return shown.decode(errors="replace")


# --- the program's own options


@cache
def _help(command: str) -> dict[str, str]:
    """Return {option: its value} of --help: a name, {a,b}, or nothing. The command "" is the program itself."""
    text = bootseal(*([command] if command else []), "--help").stdout
    columns = re.findall(r"(?m)^  (-.*?)(?:  |$)", text)
    pairs = [re.fullmatch(r"(--?[\w-]+)(?: (\S+))?", part) for column in columns for part in column.split(", ")]
    found = {pair[1]: pair[2] or "" for pair in pairs if pair}
    assert len(found) == len(pairs) >= 2
    return found


@in_each_shell
def test_options_are_those_of_help(shell: str) -> None:
    commands = ["", *cli._COMMANDS]
    offers = _offered(shell, *(f"{command} -".lstrip() for command in commands))
    for command, offered in zip(commands, offers, strict=True):
        assert offered == {name for name in _help(command) if shell != "bash" or name.startswith("--")}


@in_each_shell
def test_values_are_those_of_help(shell: str, here: Path) -> None:
    (here / "file").touch()
    (here / "directory").mkdir()
    folder = {"directory"}
    by_name = {"FILE": {"file", *folder}, "DIR": folder, "REPO": folder, "TEXT": set[str](), "ALGORITHM:HEX": set[str]()}
    asked = [(command, option, name) for command in cli._COMMANDS for option, name in _help(command).items() if name]
    expected = [set(name[1:-1].split(",")) if name[0] == "{" else by_name[name] for _, _, name in asked]
    assert _offered(shell, *(f"{command} {option} " for command, option, _ in asked)) == expected
    assert _offered(shell, *(f"{command} {option}=" for command, option, _ in asked)) == expected


@in_each_shell
def test_commands_and_arguments(shell: str, here: Path) -> None:
    (here / "file").touch()
    expected = {
        "": set(cli._COMMANDS),
        "si": {"sign"},
        "--version si": {"sign"},
        "sign f": {"file"},
        "import f": {"file"},
        "sign --key verify f": {"file"},
        "sign --key=x --json short fi": {"file"},
        "sign --algorithm=sha5": {"sha512"},
        "verify pend": {"pending"},
        "verify -v boo": {"booted"},
        "deploy --objects ": {"pending", "booted"},
        "status ": set[str](),
        "gate ": set[str](),
        "nonsense ": set[str](),
        "nonsense -": set[str](),
    }
    # Where there is nothing else, zsh offers options.
    offers = [{word for word in offered if word[0] != "-"} for offered in _offered(shell, *expected)]
    assert dict(zip(expected, offers, strict=True)) == expected


@in_each_shell
def test_the_build_is_completed_as_a_command(shell: str, here: Path) -> None:
    """Never ask that command's own completion, which may run something. That of make expands the Makefile."""
    (here / "file").touch()
    words = "sign --ephemeral keys image --"
    command, file, options, _ = _offered(shell, f"{words} bas", f"{words} build fil", f"{words} build --", f"{words} build ")
    assert "bash" in command
    assert "file" in file
    assert "--key" not in options
    assert not (here / "ran").exists()


@pytest.mark.parametrize("name", GENERATE["SHELLS"])
def test_the_files_are_what_the_parser_makes(name: str) -> None:
    text = (COMPLETIONS / name).read_text()
    assert GENERATE["written"](text, GENERATE["SHELLS"][name]()) == text, "run 'make completions'"


@pytest.mark.parametrize(("arguments", "error"), [(["--x=Y"], "Y has no entry"), (["FILE", "DIR"], "more than one argument")])
def test_an_option_of_an_unknown_kind_is_an_error(arguments: list[str], error: str) -> None:
    parser = cli.make_parser()
    for argument in arguments:
        name, _, taken = argument.partition("=")
        parser.add_argument(name, metavar=taken or name, help="x")
    with pytest.raises(ValueError, match=error):
        GENERATE["read_command"](parser, "x", "")


def test_help_is_quoted_for_each_shell(here: Path) -> None:
    """Quote all text so that the shell reads it as text."""
    text = "a'b\"c$(>ran)`>ran`\\d[e]:f"
    for shell, quoted in (("zsh", "_zsh_quoted"), ("fish", "_fish_quoted")):
        if shutil.which(shell):
            command = [shell, "-c", f"printf %s {GENERATE[quoted](text)}"]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == text
    assert list(here.iterdir()) == []
    assert GENERATE["_zsh_escaped"](text) == "a'b\"c$(>ran)`>ran`\\\\d\\[e\\]\\:f"


def test_make_installs_them(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "-C", TREE, "install", f"DESTDIR={tmp_path}", "PREFIX=/usr"], check=True, capture_output=True)
    share = tmp_path / "usr/share"
    places = {
        "bash": "bash-completion/completions/bootseal",
        "zsh": "zsh/site-functions/_bootseal",
        "fish": "fish/vendor_completions.d/bootseal.fish",
    }
    for shell, place in places.items():
        assert (share / place).read_bytes() == FILES[shell].read_bytes()


# --- names that the disk chose

HEX = "0123456789abcdef" * 4
# Each would leave a file called "ran" in the current directory, if anything ever ran or expanded it.
HOSTILE = (
    "$(>ran)", "`>ran`", ";>ran;", "x|>ran", "x&>ran&", "\n>ran\n", "$'\\x60>ran\\x60'", "${x:=$(>ran)}", "<(>ran)",
    "a[$(>ran)]", "*",
    "?", "[a-z]*", "{a,b}", "~root", "!!", "-rf", "--help", "a b", "a\tb", "'", '"', "\\", "\\$(>ran)", "\x01",
    "\x1b[2J", "#", "\udcff", "\u0663", "$(touch ran)", "(touch ran)", ";touch ran;", "\ntouch ran\n",
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
def hostile(hostile_root: Path, here: Path) -> Iterator[Path]:
    """That root, and a current directory in which nothing ever ran."""
    yield hostile_root
    assert not (here / "ran").exists()


@in_each_shell
@pytest.mark.parametrize("command", ["verify", "deploy"])
def test_only_names_of_a_deployments_form_are_offered(hostile: Path, shell: str, command: str) -> None:
    typed = ["", HEX[:4], "p"]
    if shell == "bash":  # others complete a variable or a command there
        typed += ["$", "`", "$(>ran)", "`>ran`", "*", "[0-9]*", "'", "\\"]
    offers = _offered(shell, *(f"{command} {word}" for word in typed), sysroot=hostile)
    for word, offered in zip(typed, offers, strict=True):
        assert offered == {name for name in (f"{HEX}.0", "pending", "booted") if name.startswith(word)}


@in_each_shell
def test_what_was_typed_is_not_run(hostile: Path, shell: str) -> None:
    """No word has a "/": where zsh completes a file, it runs a substitution before a "/" itself, for every program."""
    words = ["verify", "--keys", ""]
    typed = ["$(>ran)", "`>ran`", "a[$(>ran)]", "@", "*", *(["(touch\tran)", "$(touch\tran)"] if shell == "fish" else [])]
    _offered(shell, *(" ".join([*words[:n], word, *words[n:]]) for word in typed for n in range(3)), sysroot=hostile)


@in_each_shell
def test_many_deployments(tmp_path: Path, shell: str) -> None:
    directory = tmp_path / "ostree/deploy/os/deploy"
    directory.mkdir(parents=True)
    for number in range(10_000):
        (directory / f"{number:064x}.0").mkdir()
    (offered,) = _offered(shell, "verify " + "0" * 62, sysroot=tmp_path)
    assert offered == {f"{number:064x}.0" for number in range(256)}


def test_no_list_of_words_is_expanded() -> None:
    """The options of compgen and complete that expand what they are given."""
    assert not re.search(r"(?m)^[^#\n]*\b(compgen|complete)\b[^\n]* -\w*[WCG]", FILES["bash"].read_text())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_nothing_is_evaluated(shell: str) -> None:
    by_hand = re.sub(r"(?s)# generated: begin.*# generated: end", "", FILES[shell].read_text())
    assert not re.search(r"(?m)^[^#\n]*(\b(eval|source)\b|\(e\))", by_hand)


# A shell function replaces the program and shows its arguments.
INTERACTIVE = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set completion-query-items 0'; bind 'set page-completions off'; bind 'set enable-bracketed-paste off'; PS1=",
        "bootseal() { printf '<%s>' \"$@\"; }",
    ),
    "zsh": (["zsh", "-d", "-f", "-i"], "PS1=; bindkey -e; LISTMAX=0", "bootseal() { printf '<%s>' \"$@\"; }"),
    "fish": (["fish", "-N", "-i"], "function fish_prompt; end", "function bootseal; printf '<%s>' $argv; end"),
}


@in_each_shell
def test_in_an_interactive_shell(shell: str, hostile: Path, here: Path, tmp_path: Path) -> None:
    """Type at a terminal: TAB lists and inserts deployments and files, and runs nothing."""
    if not shutil.which(shell):
        pytest.skip(f"the program {shell} is not installed")
    for name in HOSTILE:
        (here / f"f{name}").touch()
        (here / f"d{name}").mkdir()
    before = sorted(here.rglob("*"))
    lines = [f"bootseal {command} {typed}\t\t\t" for command in ("verify", "deploy", "sign") for typed in ("", "-", "f", "d")]
    names = ["f\\$", "d\\$", "d\\`", "d\\;", "d'$", 'd"\\$', "d\\$\\(\\>ran\\)/"]
    lines += [f"bootseal sign {name}\t\t" for name in names]
    lines += [f"bootseal verify --keys {name}\t\t" for name in names]
    lines += [] if shell == "zsh" else ["bootseal sign d$(>ran)/\t\t"]  # as above
    command, setup, function = INTERACTIVE[shell]
    # A line is erased before the next.
    keys = [setup, _sourced(shell, hostile), function, *(f"{line}\x01\x0b" for line in lines)]
    entered = {f"verify {HEX[:5]}": f"<verify><{HEX}.0>"}
    beginnings = {"\\`": "`>ran`", "\\;\\>": ";>ran;", "\\<": "<(>ran)", "\\*": "*"}
    entered |= {f"sign f{beginning}": f"<sign><f{name}>" for beginning, name in beginnings.items()}
    keys += [f"bootseal {line}\t" for line in entered]
    shown = _conversation(command, "\n".join([*keys, "exit", ""]), str(tmp_path))
    assert [word for word in entered.values() if word not in shown] == []
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_the_manual_has_every_option(command: str) -> None:
    text = MANUAL.read_text().replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
    match = re.search(rf"^\.SH {command.upper()}\n(.*?)(?=^\.SH )", text, re.MULTILINE | re.DOTALL)
    assert match, f"no section {command.upper()}"
    missing = {option for option in set(_help(command)) - {"-h", "--help", "--json"} if not re.search(rf"{option}\b", match[1])}
    assert not missing


@pytest.mark.skipif(not shutil.which("groff"), reason="the program groff is not installed")
def test_the_manual_is_good_roff() -> None:
    result = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", MANUAL], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
