# SPDX-License-Identifier: LGPL-2.1-or-later
"""Data on stdout, words on stderr, colours and bars on a terminal only; the command line's own errors."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from bootseal.host import cli, output

from .program import HANG, TREE, bootseal, certificate, image, key


def _on_terminal(*arguments: str | Path, **environment: str) -> str:
    """What the program writes to a terminal that is its stderr."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-I", str(TREE / "service"), *map(str, arguments)]
    variables = {**os.environ, "TERM": "xterm", **environment}
    variables = {name: value for name, value in variables.items() if name != "NO_COLOR" or "NO_COLOR" in environment}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=variables)
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # how the other end of a terminal says that it is closed
        while chunk := os.read(main, 4096):
            seen += chunk
    process.wait()
    os.close(main)
    return seen.decode()


def test_colours_on_a_terminal_only() -> None:
    assert "\033[31mFailed to" in _on_terminal("nonsense")
    assert "\033" not in _on_terminal("nonsense", NO_COLOR="1")
    assert "\033" not in _on_terminal("nonsense", TERM="dumb")
    assert "\033" not in bootseal("nonsense").stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _at_times(monkeypatch: pytest.MonkeyPatch, times: Iterable[float]) -> Terminal:
    """What stderr is from now on; the clock will show these times."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(time, "monotonic", iter(times).__next__)
    return terminal


# Seconds in which the digest of an image is computed, and whether that is long enough for a bar.
@pytest.mark.parametrize(("seconds", "bar"), [(0.2, False), (0.4, True)])
def test_a_bar_for_what_takes_its_time(tmp_path: Path, *, seconds: float, bar: bool) -> None:
    options = ("--key", str(key("p256")), "--cert", str(certificate("p256")))
    with pytest.MonkeyPatch.context() as patch:
        terminal = _at_times(patch, itertools.chain([0.0], itertools.repeat(seconds)))
        assert cli.main(["sign", str(image(tmp_path)), *options]) == 0
    assert ("\r\033[KComputing the digest of image.cfs [#" in terminal.getvalue()) == bar
    assert terminal.getvalue().endswith("\r\033[K") == ("\r" in terminal.getvalue()) == bar


def test_a_bar_is_drawn_ten_times_a_second_at_most() -> None:
    with pytest.MonkeyPatch.context() as patch:
        # The first is its beginning; where it is drawn, the clock is read once more.
        terminal = _at_times(patch, [0, 0.29, 0.3, 0.3, 0.39, 0.5, 0.5])
        with output.Progress("label", 100) as progress:
            for _ in range(4):
                progress.add(25)
    drawn = terminal.getvalue().split("\r\033[K")
    assert drawn == ["", f"label [{'#' * 15}{' ' * 15}]  50%", f"label [{'#' * 30}] 100%", ""]


def test_no_bar_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(time, "monotonic", iter(range(0, 1000, 10)).__next__)
    with output.Progress("label", 100) as progress:
        progress.add(50)
    assert capsys.readouterr() == ("", "")


def _in_shell(command: str) -> subprocess.CompletedProcess[str]:
    """A command of bash; `bootseal` is the program."""
    script = f'bootseal() {{ {sys.executable} -I {TREE / "service"} "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=HANG)


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        ("bootseal verify --help >/dev/full", 73, "Failed to write to the standard output: No space left on device (ENOSPC)"),
        ("bootseal verify --help | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("bootseal verify --help >&-", 0, ""),
        ("bootseal nonsense 2>/dev/full", 64, ""),
        ("bootseal nonsense 2>&-", 64, ""),
        ("bootseal nonsense <&- >&- 2>&-", 64, ""),
        ("bootseal gate <&- >&- 2>/dev/full", 0, ""),
        (
            "bootseal sign IMAGE OPTIONS >/dev/full",
            73,
            "Failed to write to the standard output: No space left on device (ENOSPC)",
        ),
        ("bootseal sign IMAGE OPTIONS | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("bootseal sign IMAGE OPTIONS >&-", 0, ""),
        ("bootseal sign IMAGE OPTIONS 2>&- >/dev/null", 0, ""),
        ("bootseal sign IMAGE OPTIONS <&- >&- 2>&-", 0, ""),
        ("bootseal sign IMAGE --to-be-signed=- >&-", 73, "Failed to write -: Bad file descriptor (EBADF)"),
    ],
)
def test_streams_that_are_closed_or_full(tmp_path: Path, command: str, status: int, text: str) -> None:
    path = image(tmp_path)
    before = path.read_bytes()
    options = f"--key {key('p256')} --cert {certificate('p256')}"
    result = _in_shell(command.replace("IMAGE", str(path)).replace("OPTIONS", options))
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr == (f"bootseal: {text}\n" if text else "")
    assert path.read_bytes() == before


def test_a_name_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    output.open_streams()
    output.emit({}, "off", "n\udcff.cfs")
    assert raw.getvalue() == b"n\xff.cfs\n"


def test_table_has_no_control_characters() -> None:
    assert output.table([["A"], ["x\n\033[31m\udcff"]], {}) == "A\nx\\n\\x1b[31m\\udcff"


def test_table() -> None:
    text = output.table([["A", "BB"], ["long", "x"]], {"x": "red"})
    assert text == "A     BB\nlong  x"


@pytest.mark.parametrize(("mode", "expected"), [("off", "text\n"), ("short", '{"a":1}\n'), ("pretty", '{\n  "a": 1\n}\n')])
def test_json_modes(mode: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.emit({"a": 1}, mode, "text")
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(("digest", "status"), [("sha256:" + "00" * 32, "0"), ("nonsense", "64")])
def test_a_reader_that_has_seen_enough_changes_no_status(tmp_path: Path, digest: str, status: str) -> None:
    program = f"{sys.executable} -I {TREE / 'service'} sign {tmp_path}/x --key {key('p256')} --cert {certificate('p256')}"
    command = f"{program} --digest {digest} | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout == f"{status}\n"
    assert "Broken" not in result.stderr
