# SPDX-License-Identifier: LGPL-2.1-or-later
"""What commands say: data on stdout, everything else on stderr; colours and progress only on a terminal."""

import json
import os
import sys
import time
from typing import Any

from ..errors import printable, reason

USAGE, DATA, NO_INPUT, UNAVAILABLE, OS_ERROR, CANNOT_CREATE, IO_ERROR, NO_PERMISSION = 64, 65, 66, 69, 71, 73, 74, 77
_BAR = 30
_CODES = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


class Failure(Exception):
    """A command that cannot go on. `what` is "verb, object, reason" in one line; `status` as in sysexits(3)."""

    def __init__(self, status: int, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.status, self.what, self.hint = status, printable(what), printable(hint)


def os_failure(status: int, what: str, error: OSError, hint: str = "") -> Failure:
    """The Failure of a system call: `what` is "Failed to VERB OBJECT"."""
    return Failure(status, f"{what}: {reason(error)}", hint)


def error(what: str, hint: str = "") -> None:
    _line("bootseal: ", what, "red")
    if hint:
        _line("bootseal: hint: ", hint, "")


def note(text: str) -> None:
    _line("bootseal: ", text, "")


def warning(text: str) -> None:
    _line("bootseal: warning: ", text, "yellow")


def _line(prefix: str, text: str, colour: str) -> None:
    print(prefix + painted(printable(text), colour, 2), file=sys.stderr, flush=True)


def painted(text: str, colour: str, fd: int = 1) -> str:
    """The text in a colour, if that descriptor is a terminal that wants it (NO_COLOR, TERM=dumb)."""
    plain = not colour or not os.isatty(fd) or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{_CODES[colour]}m{text}\033[0m"


def emit(value: Any, mode: str, text: str) -> None:
    """Prints `value` as JSON, or `text` when JSON is off."""
    if mode == "pretty":
        text = json.dumps(value, indent=2)
    elif mode == "short":
        text = json.dumps(value, separators=(",", ":"))
    if not text:
        return
    try:
        print(text, flush=True)
    except OSError as failed:
        # Python must not complain of it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Whoever reads from a pipe and closes it has seen enough; the verdict stands.
        if not isinstance(failed, BrokenPipeError):
            raise os_failure(CANNOT_CREATE, "Failed to write the output", failed) from failed


def table(rows: list[list[str]], colours: dict[str, str]) -> str:
    """Left-aligned columns under a heading; a cell that is a key of `colours` is painted."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            painted(cell, colours.get(cell, "")) + " " * (width - len(cell)) for cell, width in zip(row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class Progress:
    """A bar on a terminal, nothing elsewhere. Drawn ten times a second at most, and not for what is over at once."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = printable(label), total, 0
        self._shown, self._next = False, time.monotonic() + 0.3
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def add(self, amount: int) -> None:
        self._done += amount
        if self._terminal and time.monotonic() >= self._next:
            self._draw()

    def _draw(self) -> None:
        self._shown, self._next = True, time.monotonic() + 0.1
        part = min(1.0, self._done / self._total) if self._total else 1.0
        bar = "#" * round(part * _BAR)
        print(f"\r\033[K{self._label} [{bar:<{_BAR}}] {part:4.0%}", end="", file=sys.stderr, flush=True)
