# SPDX-License-Identifier: LGPL-2.1-or-later
"""linux/console.py: the console is a FIFO of the test."""

import os
import time
from pathlib import Path

import pytest

from bootseal.linux import console
from unit.support import descriptors


@pytest.fixture
def fifo(tmp_path: Path) -> tuple[str, int]:
    os.mkfifo(tmp_path / "console")
    return str(tmp_path / "console"), os.open(tmp_path / "console", os.O_RDONLY | os.O_NONBLOCK)


def test_write_leaves_no_descriptor(fifo: tuple[str, int]) -> None:
    before = descriptors()
    console.write(fifo[0], b"x")
    assert descriptors() == before


def test_slow_console_gets_the_rest_after_a_pause(fifo: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes three bytes at a time, and every other time nothing."""
    write, calls, pauses = os.write, list[bytes](), list[float]()

    def slow(fd: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) % 2:
            raise BlockingIOError
        return write(fd, data[:3])

    monkeypatch.setattr(os, "write", slow)
    monkeypatch.setattr(time, "sleep", pauses.append)
    console.write(fifo[0], b"a line")
    assert (os.read(fifo[1], 100), len(pauses)) == (b"a line", 3)
    console.write(fifo[0], b"a line that is longer than it takes within ten writes")
    assert len(calls) == 4 + 10


def test_console_without_a_reader_raises(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "nobody")
    with pytest.raises(OSError):
        console.write(str(tmp_path / "nobody"), b"text")


def test_every_existing_console_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ttyS7").touch()
    (tmp_path / "consoles").write_text(f"..{tmp_path}/none   -W- (EC p  )    4:1\n..{tmp_path}/ttyS7  -W-\n")
    monkeypatch.setattr(console, "CONSOLES", str(tmp_path / "consoles"))
    assert console.devices() == [f"/dev/..{tmp_path}/ttyS7"]


@pytest.mark.parametrize("text", [None, "", "ttyNONE -W-\n"], ids=["missing", "empty", "gone"])
def test_the_system_console_stands_in(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if text is not None:
        (tmp_path / "consoles").write_text(text)
    monkeypatch.setattr(console, "CONSOLES", str(tmp_path / "consoles"))
    monkeypatch.setattr(console, "CONSOLE", "/dev/console")
    assert console.devices() == ["/dev/console"]
