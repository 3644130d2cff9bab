# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run boots in the background, two at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Generic, TypeVar

from . import qemu

T = TypeVar("T")


class Job(Generic[T]):
    """Work for the two background threads. One that is the value of a test's parameter starts with the first test of a guest.

    `boots` tells how many follow one another in it; a job with more of them starts before others, see start_all(). `idle`
    says that it mostly sleeps: only one such job runs at a time, while the other thread works.
    """

    _pool = ThreadPoolExecutor(max_workers=qemu.SLOTS)
    _lock = threading.Lock()
    _waiting: ClassVar[list[Job[Any]]] = []
    _idling = 0

    def __init__(self, work: Callable[[], T], *, boots: int = 1, idle: bool = False) -> None:
        self._work = work
        self.boots = boots
        self.idle = idle
        self._future: Future[T] | None = None

    def start(self) -> None:
        """Queue it, once."""
        if self._future is None:
            self._future = Future()
            self._waiting.append(self)
            self._pool.submit(self._run_next)

    def result(self) -> T:
        """Wait for it; raise an exception of the work here."""
        self.start()
        assert self._future is not None
        return self._future.result()

    def _run(self) -> None:
        assert self._future is not None
        try:
            self._future.set_result(self._work())
        except BaseException as error:  # result() raises it
            self._future.set_exception(error)

    @classmethod
    def _run_next(cls) -> None:
        """Run the first in the queue; if an idle one runs, the first other one."""
        with cls._lock:
            job = next((job for job in cls._waiting if not (job.idle and cls._idling)), cls._waiting[0])
            cls._waiting.remove(job)
            cls._idling += job.idle
        job._run()
        with cls._lock:
            cls._idling -= job.idle

    @staticmethod
    def start_all(jobs: Iterable[Job[Any]]) -> None:
        """Queue them, the longest first, because a long one at the end leaves the other thread without work.

        Idle ones follow the very longest: they need little of the processor that unit tests use at that time.
        """
        ordered = sorted(jobs, key=lambda job: (not job.idle, -job.boots))
        idle = sum(job.idle for job in ordered)
        for job in (*ordered[idle : idle + 1], *ordered[:idle], *ordered[idle + 1 :]):
            job.start()

    @classmethod
    def cancel_all(cls) -> None:
        """Start no more; running work continues to its end, and does not wait for a job that never starts."""
        cls._pool.shutdown(wait=False, cancel_futures=True)
        with cls._lock:
            for job in cls._waiting:
                assert job._future is not None
                job._future.cancel()
