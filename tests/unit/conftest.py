# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fixture of several files; and tests that need root say so instead of failing."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootseal.linux import console
from unit.support import Sysroot


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root on this machine")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


def _too_long(*_: object) -> None:
    # No OSError, which the code under test may catch.
    pytest.fail("the test hangs")


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """A read that blocks (a FIFO in place of a file, say) is a failure, not a wait."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(900)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _no_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this machine are not for tests."""
    monkeypatch.setattr(console, "CONSOLES", "/proc/none")
    monkeypatch.setattr(console, "CONSOLE", "/proc/none")


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    """A physical root with one deployment."""
    return Sysroot(tmp_path / "sysroot")
