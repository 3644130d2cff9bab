# SPDX-License-Identifier: LGPL-2.1-or-later
"""What commands say: data on stdout, everything else on stderr; colours and progress only on a terminal."""

import io
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
    _tell(prefix + painted(printable(text), colour, 2) + "\n")


def _tell(text: str) -> None:
    """To stderr. The outcome is the same when nobody can be told: a terminal is gone, the journal was stopped."""
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        _discard(2)


def _discard(fd: int) -> None:
    """Python tries once more at exit what it could not write, and would complain of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def open_streams() -> None:
    """Opens 0, 1 and 2 where they are closed: else an image would become one of them, and print() take stdout for stderr.

    A name that is no text in the locale is printed as it is.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free; writing to it still fails
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


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
    if text:
        _print(text + "\n")


def flush() -> None:
    """Writes out what others printed to stdout. Raises Failure."""
    _print("")


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # whoever reads has seen enough; the verdict stands
        _discard(1)
    except OSError as failed:
        _discard(1)
        raise os_failure(CANNOT_CREATE, "Failed to write to the standard output", failed) from failed


def table(rows: list[list[str]], colours: dict[str, str]) -> str:
    """Left-aligned columns under a heading; a cell that is a key of `colours` is painted. Cells may have names of the disk."""
    rows = [[printable(cell) for cell in row] for row in rows]
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
            _tell("\r\033[K")

    def add(self, amount: int) -> None:
        self._done += amount
        if self._terminal and time.monotonic() >= self._next:
            self._draw()

    def _draw(self) -> None:
        self._shown, self._next = True, time.monotonic() + 0.1
        part = min(1.0, self._done / self._total) if self._total else 1.0
        bar = "#" * round(part * _BAR)
        _tell(f"\r\033[K{self._label} [{bar:<{_BAR}}] {part:4.0%}")
