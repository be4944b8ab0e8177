"""An event loop whose time passes only when there is nothing left to do.

Nobody sleeps in it: when nothing is ready, the clock is set to the next moment at which something
is. Everything that runs belongs to a `Process` or to nobody; what belongs to one that is stalled
waits, and what belongs to one that is killed never runs.

Whoever belongs where is told by a context variable, which asyncio hands on from a task to
everything that it begins. The order of all things is the same in each run: tasks, of which asyncio
makes sets, are hashed by their number and not by their address.
"""

from __future__ import annotations

import asyncio
from asyncio import Future, Handle, TimerHandle
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappush
from typing import Any

__all__ = ["Deadlock", "Process", "SimulatedLoop", "current_process"]

_process: ContextVar[Process | None] = ContextVar("skyring_simulated_process", default=None)


class Deadlock(RuntimeError):
    """Everybody waits for something that nobody will do."""


class Process:
    """Something that can be stalled and killed as a whole.

    Args:
        name: for people.
        loop: where it runs.
    """

    def __init__(self, name: str, loop: SimulatedLoop) -> None:
        self.name = name
        self.is_killed = False
        self.is_stalled = False
        self._loop = loop
        self._missed: list[Handle] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.context = copy_context()
        self.context.run(_process.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a part of it."""
        return self._loop.create_task(work, context=self.context)

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call something as a part of it."""
        self._loop.call_soon(call, *arguments, context=self.context)

    def call_later(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """The same, later."""
        self._loop.call_later(delay_s, call, *arguments, context=self.context)

    def stall(self) -> None:
        """Nothing of it runs until `resume`; what it has missed comes then, in order."""
        self.is_stalled = True

    def resume(self) -> None:
        """Let it run again."""
        self.is_stalled = False
        missed, self._missed = self._missed, []
        for handle in missed:
            self._loop.again(handle)

    def kill(self) -> None:
        """Nothing of it ever runs again."""
        self.is_killed = True
        self._missed.clear()

    def began(self, task: asyncio.Task[Any]) -> None:
        """A task is a part of it: those of a killed process never end, and must be kept.

        One that nobody refers to would be collected at any moment, and its last lines run then.
        """
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard, context=self._loop.nowhere)

    def forget(self) -> None:
        """The simulation is over: what has not ended ends without a word."""
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    def miss(self, handle: Handle) -> None:
        """It would have run now."""
        self._missed.append(handle)


def current_process() -> Process | None:
    """The process that runs now; None if it is nobody's code."""
    return _process.get()


def _may_run(handle: Handle) -> bool:
    process = handle._context.get(_process)  # type: ignore[attr-defined]
    if process is None or not (process.is_killed or process.is_stalled):
        return True
    if not process.is_killed:
        process.miss(handle)
    return False


class _SimulatedHandle(Handle):
    def _run(self) -> None:
        if _may_run(self):
            super()._run()  # type: ignore[misc]


class _SimulatedTimerHandle(TimerHandle):
    def _run(self) -> None:
        if _may_run(self):
            super()._run()  # type: ignore[misc]


class _SimulatedTask(asyncio.Task[Any]):
    """A task that is hashed by its number."""

    def __init__(self, work: Any, *, loop: SimulatedLoop, **more: Any) -> None:
        self._number = loop.next_number()
        super().__init__(work, loop=loop, **more)

    def __hash__(self) -> int:
        return self._number


class _NoSelector:
    """Takes the place of what waits for sockets: it lets time pass."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None or timeout_s > 0:
            self._loop.pass_time()
        return []


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the module. It is used like any event loop of asyncio."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._numbers = 0
        self._clock_resolution = 1e-9
        self._selector = _NoSelector(self)
        self.nowhere = Context()
        """For what belongs to no process."""
        self.errors: list[dict[str, Any]] = []
        """What nobody has caught."""
        self.set_exception_handler(lambda _, context: self.errors.append(context))
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Simulated seconds since the beginning."""
        return self._now_s

    def next_number(self) -> int:
        """Rises by one each time."""
        self._numbers += 1
        return self._numbers

    def pass_time(self) -> None:
        """Go on to the next moment at which there is something to do."""
        if not self._scheduled:
            raise Deadlock(f"at {self._now_s:.3f} s everybody waits, and nothing will happen")
        self._now_s = max(self._now_s, self._scheduled[0]._when)

    def later(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> TimerHandle:
        """Call something that belongs to no process."""
        return self.call_later(delay_s, call, *arguments, context=self.nowhere)

    def again(self, handle: Handle) -> None:
        """Run what could not run before."""
        if not handle.cancelled():
            self._ready.append(handle)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> TimerHandle:
        self._check_closed()
        timer = _SimulatedTimerHandle(when, callback, args, self, context)
        heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Handle:
        self._check_closed()
        handle = _SimulatedHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Future[Any]:
        """There are no threads in here: it is called at once."""
        future: Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def end(self) -> None:
        """It runs no more."""
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    def _check_closed(self) -> None:
        """What has not ended is collected later, and its last lines may still ask for something."""

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _make_task(loop: Any, work: Any, context: Context | None = None) -> _SimulatedTask:
    task = _SimulatedTask(work, loop=loop, context=context)
    process = (context or copy_context()).get(_process)
    if process is not None:
        process.began(task)
    return task
