# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run boots in the background, two at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from . import qemu

T = TypeVar("T")


class Job(Generic[T]):
    """Work for the two background threads. One that is the value of a test's parameter starts with the first test of a guest.

    `boots` tells how many follow one another in it; a job with more of them starts before others, see start_all(). `idle`
    says that it mostly sleeps: it starts early, while unit tests have use for a processor.
    """

    _pool = ThreadPoolExecutor(max_workers=qemu.SLOTS)

    def __init__(self, work: Callable[[], T], *, boots: int = 1, idle: bool = False) -> None:
        self._work = work
        self.boots = boots
        self.idle = idle
        self._future: Future[T] | None = None

    def start(self) -> None:
        """Queue it, once."""
        if self._future is None:
            self._future = self._pool.submit(self._work)

    def result(self) -> T:
        """Wait for it; raise an exception of the work here."""
        self.start()
        assert self._future is not None
        return self._future.result()

    @staticmethod
    def start_all(jobs: Iterable[Job[Any]]) -> None:
        """Queue them, the longest first, because a long one at the end leaves the other thread without work.

        Idle ones follow the very longest: one thread works while the other sleeps.
        """
        ordered = sorted(jobs, key=lambda job: (not job.idle, -job.boots))
        idle = sum(job.idle for job in ordered)
        for job in (*ordered[idle : idle + 1], *ordered[:idle], *ordered[idle + 1 :]):
            job.start()

    @classmethod
    def cancel_all(cls) -> None:
        """Start no more; running work continues to its end."""
        cls._pool.shutdown(wait=False, cancel_futures=True)
