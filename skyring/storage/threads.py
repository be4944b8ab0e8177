"""A thread for blocking calls, made for many small ones.

An executor would do, but the two futures that it needs for a call cost more than all else that is
done for a group of writes or reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

__all__ = ["Done", "Worker"]

T = TypeVar("T")
Done = Callable[[Any, Exception | None], None]
"""Told on the event loop what a call returned or raised."""


class Worker:
    """Does one call after the other, in the order in which they were given.

    Args:
        loop: where results are told.
        name: of the thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._queue: SimpleQueue[tuple[Callable[[], Any], Done] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any], done: Done) -> None:
        """Have a call done; ``done`` is told of its end."""
        self._queue.put((call, done))

    async def run(self, call: Callable[[], T]) -> T:
        """The same, for those who have the time to await it. Raises what the call raises."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: T, error: Exception | None) -> None:
            if future.done():
                return  # nobody waits any more
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(call, done)
        return await future

    def close(self) -> None:
        """Wait for the thread to end, which it does when all calls are done."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            call, done = item
            result, error = None, None
            try:
                result = call()
            except Exception as failure:  # whoever gave the call knows what to do with it
                error = failure
            self._loop.call_soon_threadsafe(done, result, error)
