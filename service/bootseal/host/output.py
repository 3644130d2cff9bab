# SPDX-License-Identifier: LGPL-2.1-or-later
"""Print data to stdout, and everything else to stderr. Colours and progress appear only on a terminal."""

import io
import json
import os
import sys
import time
from typing import Any

from ..errors import printable, reason

# An input that cannot be read is IO_ERROR, one that cannot be understood DATA. 66 is left to the verdicts.
USAGE, DATA, UNAVAILABLE, OS_ERROR, CANNOT_CREATE, IO_ERROR, NO_PERMISSION = 64, 65, 69, 71, 73, 74, 77
_BAR = 30
_CODES = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}


class Failure(Exception):
    """A command cannot go on.

    `what` is "Failed to VERB OBJECT: reason" in one line; `status` is as in sysexits(3).
    """

    def __init__(self, status: int, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.status, self.what, self.hint = status, printable(what), printable(hint)


def os_failure(status: int, what: str, error: OSError, hint: str = "") -> Failure:
    """Make the Failure of a system call; `what` is "Failed to VERB OBJECT"."""
    return Failure(status, f"{what}: {reason(error)}", hint)


def error(what: str, hint: str = "") -> None:
    """Report an error, and what to do about it."""
    _line("bootseal: ", what, "red")
    if hint:
        _line("bootseal: hint: ", hint, "")


def note(text: str) -> None:
    """Report a fact."""
    _line("bootseal: ", text, "")


def warning(text: str) -> None:
    """Report what needs attention, but did not fail."""
    _line("bootseal: warning: ", text, "yellow")


def _line(prefix: str, text: str, colour: str) -> None:
    _write(prefix + painted(printable(text), colour, 2) + "\n")


def _write(text: str) -> None:
    """Write to stderr. A failure changes no outcome: the terminal may be closed, or the journal stopped."""
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        _discard(2)


def _discard(fd: int) -> None:
    """Redirect to /dev/null, because Python tries to write the rest at exit, and would report an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def open_streams() -> None:
    """Open descriptors 0, 1 and 2 where they are closed, so that no image becomes one of them.

    stdout prints names as they are, also if they are not text in the locale.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # gets the lowest free number; writing to it still fails
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def painted(text: str, colour: str, fd: int = 1) -> str:
    """Colour the text, unless the descriptor is not a terminal, or NO_COLOR or TERM=dumb forbids it."""
    plain = not colour or not os.isatty(fd) or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{_CODES[colour]}m{text}\033[0m"


def emit(value: Any, mode: str, text: str) -> None:
    """Print `value` as JSON, or `text` if JSON is off. Raises Failure."""
    if mode == "pretty":
        text = json.dumps(value, indent=2)
    elif mode == "short":
        text = json.dumps(value, separators=(",", ":"))
    if text:
        _print(text + "\n")


def flush() -> None:
    """Flush stdout. Raises Failure."""
    _print("")


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # the reader has seen enough; the verdict stands
        _discard(1)
    except OSError as failed:
        _discard(1)
        raise os_failure(CANNOT_CREATE, "Failed to write to the standard output", failed) from failed


def table(rows: list[list[str]], colours: dict[str, str]) -> str:
    """Format left-aligned columns.

    A cell that is a key of `colours` gets that colour; cells may be names from the disk.
    """
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
    """A bar on a terminal, and nothing elsewhere.

    It appears after 0.3 seconds, and moves ten times a second at most.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = printable(label), total, 0
        self._shown, self._next = False, time.monotonic() + 0.3
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            _write("\r\033[K")

    def add(self, amount: int) -> None:
        """Count what was done, and draw the bar if it is time."""
        self._done += amount
        if self._terminal and time.monotonic() >= self._next:
            self._draw()

    def _draw(self) -> None:
        self._shown, self._next = True, time.monotonic() + 0.1
        part = min(1.0, self._done / self._total) if self._total else 1.0
        bar = "#" * round(part * _BAR)
        _write(f"\r\033[K{self._label} [{bar:<{_BAR}}] {part:4.0%}")
