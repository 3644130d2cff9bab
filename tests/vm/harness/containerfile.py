# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a Containerfile, as far as the examples use one, into calls of the functions of guest/example.sh."""

from __future__ import annotations

import re
import shlex

from .cache import GuestError


def steps(text: str) -> str:
    """Make a shell script of all instructions. FROM of an image begins with the same base tree for every image.

    Raises GuestError at an instruction that no example has.
    """
    calls, stages = [], 0
    for line in _lines(text):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            stages += 1
            base, _, name = rest.partition(" AS ")
            calls.append(["stage", name or f"stage-{stages}", base])
        elif instruction == "COPY":
            calls.append(_copy(rest.split()))
        elif instruction == "RUN":
            options, command = _options(rest)
            calls.append(["run", command, *map(_mount, options)])
        else:
            raise GuestError(f"an example has an unknown instruction: {line}")
    return "".join(shlex.join(call) + "\n" for call in calls)


def _lines(text: str) -> list[str]:
    """Join continued lines, and drop comments."""
    kept = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    return [re.sub(r"\s+", " ", line) for line in kept.replace("\\\n", "").splitlines()]


def _options(rest: str) -> tuple[list[str], str]:
    options = []
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        options.append(option)
    return options, rest


def _copy(words: list[str]) -> list[str]:
    source = ""
    if words[0].startswith("--from="):
        source = "@" + words.pop(0).removeprefix("--from=")
    return ["copy", source, words[-1], *words[:-1]]


def _mount(option: str) -> str:
    given = dict(part.split("=", 1) for part in option.removeprefix("--mount=").split(","))
    return f"={given['target']}" if given["type"] == "secret" else f"{given['from']}:{given['target']}"
