# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pytest plugin: starts all boots that the chosen tests will wait for, two at a time, and shows their progress.

Each module of guest tests names it in `pytest_plugins`. (No conftest.py: mypy takes two of that name for one module.)
"""

import os

import guest_cache
import pytest
from support import Job


def pytest_runtestloop(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    # Outside of a test nothing is captured; what the threads write later would be, as output of whatever test runs then.
    stderr = os.fdopen(os.dup(2), "w", buffering=1)
    guest_cache.say = lambda line: print(line, file=stderr)
    for item in session.items:
        callspec = getattr(item, "callspec", None)
        for value in callspec.params.values() if callspec else ():
            if isinstance(value, Job):
                value.start()


def pytest_sessionfinish() -> None:
    Job.cancel_all()
