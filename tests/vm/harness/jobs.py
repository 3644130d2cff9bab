# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run boots in the background, two at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from . import qemu

T = TypeVar("T")


class Job(Generic[T]):
    """Work for the two background threads. One that is the value of a test's parameter starts when the tests start."""

    _pool = ThreadPoolExecutor(max_workers=qemu.SLOTS)

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
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

    @classmethod
    def cancel_all(cls) -> None:
        """Start no more; running work continues to its end."""
        cls._pool.shutdown(wait=False, cancel_futures=True)
