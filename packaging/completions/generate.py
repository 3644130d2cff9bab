# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write the commands and options into the completions of bash, zsh and fish ('make completions').

They come from the program's own parser. All else in these files is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "service"))

from bootseal.host import cli  # noqa: E402

# The kind of a value, by its name in --help. Only a value with choices may be missing.
KINDS = {
    "FILE": "file",
    "IMAGE": "file",
    "DIR": "directory",
    "REPO": "directory",
    "SOURCE": "file",
    "DEPLOYMENT": "deployment",
    "TEXT": "text",
    "ALGORITHM:HEX": "text",
}
PROGRAM = "bootseal"  # for a command line without a command


class Value(NamedTuple):
    """The value of an option, or the argument of a command: a kind of KINDS, or one of the blank-separated words."""

    name: str
    kind: str
    words: str = ""


class Option(NamedTuple):
    names: tuple[str, ...]
    help: str
    value: Value | None
    excluded: tuple[str, ...]  # options that cannot be given beside it


class Command(NamedTuple):
    name: str
    help: str
    options: list[Option]
    argument: Value | None


def commands() -> list[Command]:
    """Return the program itself, whose argument is a command, and each of its commands."""
    parser = cli.make_parser()
    (sub,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in sub._get_subactions()}
    return [read_command(parser, PROGRAM, ""), *(read_command(found, name, helps[name]) for name, found in sub.choices.items())]


def read_command(parser: argparse.ArgumentParser, name: str, help_: str) -> Command:
    arguments = [read_value(action) for action in parser._actions if not action.option_strings]
    if len(arguments) > 1:
        raise ValueError(f"{name}: more than one argument")
    options = [read_option(parser, action) for action in parser._actions if action.option_strings]
    return Command(name, help_, options, arguments[0] if arguments else None)


def read_option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    excluded = {
        name
        for group in parser._mutually_exclusive_groups
        if action in group._group_actions
        for other in group._group_actions
        for name in other.option_strings
    }
    help_ = parser._get_formatter()._expand_help(action)
    taken = read_value(action) if action.nargs != 0 else None
    return Option(tuple(action.option_strings), help_, taken, tuple(sorted(excluded | set(action.option_strings))))


def read_value(action: argparse.Action) -> Value:
    name = str(action.metavar or action.dest.upper())
    if action.choices is not None:
        return Value(name, "words", " ".join(map(str, action.choices)))
    if name not in KINDS:
        raise ValueError(f"{name} has no entry in KINDS")
    return Value(name, KINDS[name])


# --- bash


def bash() -> Iterator[str]:
    """Yield the cases that set `options` and `kind`. They omit short options, whose names explain nothing."""
    yield "case $command in"
    for found in commands():
        long = " ".join(name for option in found.options for name in option.names if name.startswith("--"))
        yield f"    {found.name}) options='{long}' kind='{_bash_kind(found.argument)}' ;;"
    yield "    *) return ;;"
    yield "esac"
    kinds: dict[str, list[str]] = {}
    for found in commands():
        for option in found.options:
            if option.value:
                kinds.setdefault(_bash_kind(option.value), []).extend(f"'{found.name} {name}'" for name in option.names)
    yield 'case "$command $prev" in'
    for kind, options in kinds.items():
        yield from (f"    {name} | \\" for name in options[:-1])
        yield f"    {options[-1]}) options='' kind='{kind}' ;;"
    yield "esac"


def _bash_kind(found: Value | None) -> str:
    return f"{found.kind} {found.words}".rstrip() if found else ""


# --- zsh

ZSH_ACTIONS = {
    "file": "_files",
    "directory": "_files -/",
    "deployment": "_bootseal_deployments",
    "text": " ",
}


def zsh() -> Iterator[str]:
    """Yield the commands with their help, and the cases that set `specs`, which are arguments of _arguments."""
    yield "subcommands=("
    yield from (f"    {_zsh_quoted(f'{found.name}:{_zsh_escaped(found.help)}')}" for found in commands()[1:])
    yield ")"
    yield "case $command in"
    for found in commands():
        yield f"    {found.name})"
        yield "        specs=("
        yield from (f"            {_zsh_option(option)}" for option in found.options)
        if found.name == PROGRAM:
            yield "            ':COMMAND:{_describe command subcommands}'"
        elif found.argument:
            yield f"            {_zsh_quoted(_zsh_value(found.argument))}"
        yield "        )"
        yield "        ;;"
    yield "esac"


def _zsh_option(option: Option) -> str:
    excluded = f"({' '.join(option.excluded)})" if len(option.excluded) > 1 else ""
    rest = f"[{_zsh_escaped(option.help)}]{_zsh_value(option.value) if option.value else ''}"
    names = [name + "=" if option.value and name.startswith("--") else name for name in option.names]
    if len(names) == 1:
        return _zsh_quoted(f"{excluded}{names[0]}{rest}")
    return f"{_zsh_quoted(excluded)}{{{','.join(names)}}}{_zsh_quoted(rest)}"


def _zsh_value(found: Value) -> str:
    return f":{_zsh_escaped(found.name)}:{f'({found.words})' if found.words else ZSH_ACTIONS[found.kind]}"


def _zsh_escaped(text: str) -> str:
    return re.sub(r"([\\:\[\]])", r"\\\1", text)


def _zsh_quoted(text: str) -> str:
    """Quote in the way that reads best. A file has no history expansion."""
    if "'" not in text:
        return f"'{text}'"
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'


# --- fish

FISH_CANDIDATES = {
    "file": " -F",
    "directory": " -a '(__bootseal_directories)'",
    "deployment": " -a '(__bootseal_deployments)'",
    "text": "",
}


def fish() -> Iterator[str]:
    """Yield one call of `complete` for each command, argument and option."""
    for found in commands():
        given = f"complete -c {PROGRAM} -n '__bootseal_in {found.name}'"
        if found.name == PROGRAM:
            yield from (f"{given} -a {c.name} -d {_fish_quoted(c.help)}" for c in commands()[1:])
        elif found.argument:
            yield given + _fish_candidates(found.argument)
        yield from (f"{given}{_fish_option(option)} -d {_fish_quoted(option.help)}" for option in found.options)


def _fish_option(option: Option) -> str:
    names = "".join(f" -{'l' if name.startswith('--') else 's'} {name.lstrip('-')}" for name in option.names)
    if not option.value:
        return names
    return f"{names} {'-r' if option.value.kind == 'file' else '-x'}{_fish_candidates(option.value)}"


def _fish_candidates(found: Value) -> str:
    return f" -a '{found.words}'" if found.words else FISH_CANDIDATES[found.kind]


def _fish_quoted(text: str) -> str:
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"


# --- the files

SHELLS: dict[str, Callable[[], Iterator[str]]] = {"bootseal": bash, "_bootseal": zsh, "bootseal.fish": fish}


def written(text: str, lines: Iterator[str]) -> str:
    """Return the text of a completion with these lines between its marks."""
    match = re.search(r"(?ms)^( *)# generated: begin\n.*?^ *# generated: end\n", text)
    if not match:
        raise ValueError("no marks")
    body = "".join(f"{match[1]}{line}\n" for line in lines)
    marked = f"{match[1]}# generated: begin\n{body}{match[1]}# generated: end\n"
    return text[: match.start()] + marked + text[match.end() :]


if __name__ == "__main__":
    for name, lines in SHELLS.items():
        (HERE / name).write_text(written((HERE / name).read_text(), lines()))
