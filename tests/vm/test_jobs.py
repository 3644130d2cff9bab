# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of the jobs in the queue runs next. No guest is booted."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from vm.harness.jobs import Job


class OwnJob(Job[Any]):
    """Work for two threads that boot no guests."""

    _pool = ThreadPoolExecutor(max_workers=2)
    _waiting: ClassVar[list[Job[Any]]] = []
    _idling = 0


def test_idle_job_leaves_a_thread_to_one_that_works() -> None:
    done: list[str] = []
    worked = threading.Event()

    def work() -> None:
        done.append("work")
        worked.set()

    jobs = [OwnJob(worked.wait, idle=True), OwnJob(lambda: done.append("idle"), idle=True), OwnJob(work)]
    with OwnJob._lock:  # all are queued before a thread takes the first
        for job in jobs:
            job.start()
    for job in jobs:
        job.result()
    assert done == ["work", "idle"]


def test_idle_jobs_follow_the_longest() -> None:
    started: list[str] = []

    class NotedJob(OwnJob):
        def start(self) -> None:
            started.append(self._work())

    NotedJob.start_all([NotedJob(lambda: "short"), NotedJob(lambda: "idle", idle=True), NotedJob(lambda: "long", boots=3)])
    assert started == ["long", "idle", "short"]


def test_error_is_raised_where_the_result_is_read() -> None:
    job = OwnJob(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.result()


def test_result_of_a_cancelled_job_is_an_error() -> None:
    class EndedJob(OwnJob):
        _pool = ThreadPoolExecutor(max_workers=1)
        _waiting: ClassVar[list[Job[Any]]] = []

    started, release = threading.Event(), threading.Event()

    def work() -> bool:
        started.set()
        return release.wait()

    running, waiting = EndedJob(work), EndedJob(lambda: None)
    running.start()
    waiting.start()
    started.wait()
    EndedJob.cancel_all()
    assert waiting._future is not None
    assert waiting._future.cancelled()
    release.set()
    assert running.result()
    with pytest.raises(CancelledError):
        waiting.result()
