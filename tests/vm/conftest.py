# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start all boots that the chosen tests will wait for, two at a time, and show their progress."""

import os

import pytest

from vm.harness import cache, saved
from vm.harness.jobs import Job

pytest.register_assert_rewrite("vm.scenario", "vm.harness.parse", "vm.harness.units")


def pytest_runtestloop() -> None:
    # pytest captures output during tests only. Without this, a test would show the output that the threads write meanwhile.
    stderr = os.fdopen(os.dup(2), "w", buffering=1)
    cache.say = lambda line: print(line, file=stderr)


@pytest.fixture(scope="session", autouse=True)
def _boots(request: pytest.FixtureRequest) -> None:
    """Start them with the first test of a guest: tests before it may replace functions that the threads use."""
    specs = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    Job.start_all(value for spec in specs for value in spec.params.values() if isinstance(value, Job))


def pytest_sessionfinish() -> None:
    Job.cancel_all()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which boots could not be resumed from a saved state."""
    if saved.WHOLE:
        terminalreporter.section(f"{len(saved.WHOLE)} whole boots that should have been resumed")
        for reason in dict.fromkeys(saved.WHOLE):
            terminalreporter.line(reason)
