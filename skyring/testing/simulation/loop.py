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
from asyncio import Future
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any

__all__ = ["Deadlock", "Process", "SimulatedLoop", "current_process"]

_process: ContextVar[Process | None] = ContextVar("skyring_simulated_process", default=None)


CALLS_AT_ONCE_MAX = 2_000_000


class Deadlock(RuntimeError):
    """Everybody waits for something that nobody will do, or somebody lets no time pass."""


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
        self._missed: list[_Call] = []
        self._tasks: list[asyncio.Task[Any]] = []
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
        self._loop.again(missed)

    def kill(self) -> None:
        """Nothing of it ever runs again."""
        self.is_killed = True
        self._missed.clear()

    def began(self, task: asyncio.Task[Any]) -> None:
        """A task is a part of it: those of a killed process never end, and must be kept.

        One that nobody refers to would be collected at any moment, and its last lines run then.
        """
        self._tasks.append(task)

    def unseen(self) -> list[BaseException]:
        """Errors of its tasks that nobody has asked for."""
        return [
            error
            for task in self._tasks
            if task.done() and not task.cancelled() and task._log_traceback
            for error in (task.exception(),)
            if error is not None
        ]

    def forget(self) -> None:
        """The simulation is over: what has not ended ends without a word."""
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    def misses(self, call: _Call) -> bool:
        """Can something of it not be called now?"""
        if self.is_stalled and not self.is_killed:
            self._missed.append(call)
        return self.is_stalled or self.is_killed


def current_process() -> Process | None:
    """The process that runs now; None if it is nobody's code."""
    return _process.get()


class _Call:
    """Something that is to be called, as asyncio's `Handle` and `TimerHandle`, only lighter."""

    __slots__ = ("arguments", "call", "context", "is_cancelled", "when_s")

    def __init__(
        self, call: Callable[..., Any], arguments: Any, context: Context | None, when_s: float
    ) -> None:
        self.call = call
        self.arguments = arguments
        self.context = copy_context() if context is None else context
        self.when_s = when_s
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.when_s


class _SimulatedTask(asyncio.Task[Any]):
    """A task that is hashed by its number."""

    def __init__(self, work: Any, *, loop: SimulatedLoop, **more: Any) -> None:
        self._number = loop.next_number()
        super().__init__(work, loop=loop, **more)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the module. It is used like any event loop of asyncio."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._calls_at_once = 0
        self._numbers = 0
        self._calls: deque[_Call] = deque()
        self._later: list[tuple[float, int, _Call]] = []
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

    def later(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call something that belongs to no process."""
        self.call_at(self._now_s + delay_s, call, *arguments, context=self.nowhere)

    def again(self, missed: list[_Call]) -> None:
        """Call what could not be called before."""
        self._calls.extend(missed)

    def end(self) -> None:
        """It runs no more."""
        self._calls.clear()
        self._later.clear()
        self.close()

    # What asyncio asks of a loop

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        call = _Call(callback, args, context, when)
        self._numbers = number = self._numbers + 1
        heappush(self._later, (when, number, call))
        return call

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        call = _Call(callback, args, context, 0.0)
        self._calls.append(call)
        return call

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        """There are no threads in here: it is called at once."""
        future: Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _run_once(self) -> None:
        """Call what is ready; if nothing is, go on to the next moment at which something is."""
        calls, later = self._calls, self._later
        if not calls:
            while later and later[0][2].is_cancelled:
                heappop(later)
            if not later:
                raise Deadlock(f"at {self._now_s:.3f} s everybody waits, and nothing will happen")
            if later[0][0] > self._now_s:
                self._now_s, self._calls_at_once = later[0][0], 0
        now_s = self._now_s
        while later and later[0][0] <= now_s:
            calls.append(heappop(later)[2])
        self._calls_at_once += len(calls)
        if self._calls_at_once > CALLS_AT_ONCE_MAX:
            raise Deadlock(f"at {now_s:.3f} s something is done for ever: {calls[0].call!r}")
        for _ in range(len(calls)):
            call = calls.popleft()
            if call.is_cancelled:
                continue
            process = call.context.get(_process)
            if process is not None and process.misses(call):
                continue
            try:
                call.context.run(call.call, *call.arguments)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                told = {"message": f"{call.call!r} has failed", "exception": error}
                self.call_exception_handler(told)

    def _check_closed(self) -> None:
        """What has not ended is collected later, and its last lines may still ask for something."""


def _make_task(loop: Any, work: Any, context: Context | None = None) -> _SimulatedTask:
    task = _SimulatedTask(work, loop=loop, context=context)
    process = _process.get() if context is None else context.get(_process)
    if process is not None:
        process.began(task)
    return task
