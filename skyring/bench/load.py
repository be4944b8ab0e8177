"""The load generator: plain asyncio protocols, prebuilt requests, one in flight per connection.

`closed_loop` sends as fast as the server answers, `paced` at a rate that does not depend on the
server. Both report how much CPU the generator itself took: near 1.0 it was the limit, not the
server.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, cast

from skyring.bench.errors import BenchError
from skyring.bench.wire import Framer, header, status_of

__all__ = ["LoadResult", "PacedResult", "Planned", "closed_loop", "constant", "paced"]

ANSWER_TIMEOUT_S = 30.0
TICK_S = 0.001


@dataclass
class LoadResult:
    """What came of a load."""

    seconds: float = 0.0
    """From the first request to the last answer."""
    cpu_s: float = 0.0
    """CPU time of this process meanwhile."""
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    broken: int = 0
    """Connections that the server closed, or that stood without an answer at the end."""
    refusal: str | None = None
    """The first answer that was not a success: status and reason."""

    @property
    def generator_cpu(self) -> float:
        """Share of one core that the generator took: 1.0 means that it was the limit."""
        return self.cpu_s / self.seconds if self.seconds > 0 else 0.0


@dataclass
class PacedResult(LoadResult):
    """What came of a paced load."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    """By key, the earliest time at which the timer may fire: sent + time-out, epoch ms."""
    behind_max: int = 0
    """Most requests that were due to be sent while no connection was free."""


@dataclass(frozen=True)
class Planned:
    """One timer of a paced load."""

    key: str
    timeout_ms: int
    request: bytes


class _Owner(Protocol):
    def answered(self, connection: _Connection, status: int, head: bytes, body: bytes) -> None: ...

    def lost(self, connection: _Connection) -> None: ...


class _Connection(asyncio.Protocol):
    """One kept-alive connection; tells its owner of each answer."""

    def __init__(self, owner: _Owner) -> None:
        self._owner = owner
        self._framer = Framer()
        self._transport: asyncio.WriteTransport | None = None
        self.sent_s = 0.0
        self.waiting = False
        self.timer: tuple[str, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self.waiting = True
        self.sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            for head, body in self._framer.feed(data):
                if not self.waiting:
                    self.close()  # nothing was asked: the server ends an idle connection like this
                    return
                status = status_of(head)
                self.waiting = False
                self._owner.answered(self, status, head, body)
        except BenchError:
            self.close()  # the owner hears of it in `lost`

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Closed:
    """Each connection sends the next request when it has the answer to the last."""

    def __init__(
        self,
        source: Callable[[], bytes | None],
        on_answer: Callable[[int, bytes], None] | None,
    ) -> None:
        self._source = source
        self._on_answer = on_answer
        self._end_s = 0.0
        self._active = 0
        self.idle = asyncio.Event()
        self.result = LoadResult()

    def begin(self, connections: Sequence[_Connection], seconds: float) -> None:
        self._end_s = time.perf_counter() + seconds
        self._active = len(connections)
        for connection in connections:
            self._next(connection)

    def answered(self, connection: _Connection, status: int, head: bytes, body: bytes) -> None:
        now_s = time.perf_counter()
        result = self.result
        result.latencies_ms.append((now_s - connection.sent_s) * 1000)
        _count(result, status, head, body)
        if self._on_answer is not None:
            self._on_answer(status, body)
        if now_s < self._end_s:
            self._next(connection)
        else:
            self._leave()

    def lost(self, connection: _Connection) -> None:
        if connection.waiting:
            self.result.broken += 1
            self._leave()

    def _next(self, connection: _Connection) -> None:
        request = self._source()
        if request is None:
            self._leave()
        else:
            connection.send(request)

    def _leave(self) -> None:
        self._active -= 1
        if self._active == 0:
            self.idle.set()


class _Paced:
    """Requests leave at their times; the ones that find no free connection wait for one."""

    def __init__(self) -> None:
        self._free: deque[_Connection] = deque()
        self._queue: deque[Planned] = deque()
        self._open = 0
        self._waiting = 0
        self.changed = asyncio.Event()
        self.result = PacedResult()

    @property
    def alive(self) -> bool:
        return self._open > 0

    @property
    def settled(self) -> bool:
        return not self.alive or (self._waiting == 0 and not self._queue)

    def begin(self, connections: Sequence[_Connection]) -> None:
        self._free.extend(connections)
        self._open = len(connections)

    def submit(self, planned: Planned) -> None:
        if self._free:
            self._send(self._free.popleft(), planned)
        else:
            self._queue.append(planned)
            self.result.behind_max = max(self.result.behind_max, len(self._queue))

    def drop_waiting(self) -> None:
        """What has not found a connection yet is not sent."""
        self._queue.clear()

    def _send(self, connection: _Connection, planned: Planned) -> None:
        # The stamp is taken before the bytes leave: no timer may fire before this plus its time.
        connection.timer = (planned.key, time.time_ns() / 1e6 + planned.timeout_ms)
        self._waiting += 1
        connection.send(planned.request)

    def answered(self, connection: _Connection, status: int, head: bytes, body: bytes) -> None:
        result = self.result
        result.latencies_ms.append((time.perf_counter() - connection.sent_s) * 1000)
        self._waiting -= 1
        _count(result, status, head, body)
        # 200 says that it is there already: a repeated try of the server's own may have made it.
        if status in (200, 201) and connection.timer is not None:
            key, earliest_ms = connection.timer
            result.acknowledged[key] = earliest_ms
        if self._queue:
            self._send(connection, self._queue.popleft())
        else:
            self._free.append(connection)
        self.changed.set()

    def lost(self, connection: _Connection) -> None:
        self._open -= 1
        if connection.waiting:
            self._waiting -= 1
        elif connection in self._free:
            self._free.remove(connection)
        self.result.broken += 1
        self.changed.set()


def _count(result: LoadResult, status: int, head: bytes, body: bytes) -> None:
    result.statuses[status] += 1
    if status >= 300 and result.refusal is None:
        reason = header(head, "x-skyring-reason") or body[:200].decode("utf-8", "replace")
        result.refusal = f"{status} {reason}".strip()


@asynccontextmanager
async def _connected(
    host: str, port: int, count: int, owner: _Owner
) -> AsyncIterator[list[_Connection]]:
    loop = asyncio.get_running_loop()
    connections: list[_Connection] = []
    try:
        for _ in range(count):
            try:
                _, connection = await loop.create_connection(lambda: _Connection(owner), host, port)
            except OSError as error:
                reason = error.strerror or str(error)
                raise BenchError(f"no server at {host}:{port}: {reason}") from error
            connections.append(connection)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def constant(request: bytes, count: int | None = None) -> Callable[[], bytes | None]:
    """A source that gives the same request ``count`` times, or for ever."""
    if count is None:
        return lambda: request
    requests: Iterator[bytes] = iter([request] * count)
    return lambda: next(requests, None)


async def closed_loop(
    host: str,
    port: int,
    connections: int,
    source: Callable[[], bytes | None],
    seconds: float,
    on_answer: Callable[[int, bytes], None] | None = None,
) -> LoadResult:
    """Send what ``source`` gives, one request in flight per connection.

    Args:
        source: the next request, or None when there are no more.
        seconds: no request begins after this time.
        on_answer: called with status and body of each answer.

    Raises:
        BenchError: nobody listens.
    """
    owner = _Closed(source, on_answer)
    async with _connected(host, port, connections, owner) as opened:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        owner.begin(opened, seconds)
        try:
            async with asyncio.timeout(seconds + ANSWER_TIMEOUT_S):
                await owner.idle.wait()
        except TimeoutError:
            owner.result.broken += sum(connection.waiting for connection in opened)
        owner.result.seconds = time.perf_counter() - began_s
        owner.result.cpu_s = time.process_time() - cpu_s
        result, owner.result = owner.result, LoadResult()
    return result


async def paced(
    host: str,
    port: int,
    connections: int,
    plan: Sequence[Planned],
    rate_per_s: float,
    stop: asyncio.Event | None = None,
) -> PacedResult:
    """Send ``plan`` at ``rate_per_s``, whatever the server does; ends early when it is gone.

    Args:
        stop: nothing more is sent when it is set; what was sent is waited for.

    Raises:
        BenchError: nobody listens.
    """
    owner = _Paced()
    async with _connected(host, port, connections, owner) as opened:
        owner.begin(opened)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        sent = 0
        while sent < len(plan) and owner.alive:
            if stop is not None and stop.is_set():
                owner.drop_waiting()
                break
            due = min(int((time.perf_counter() - began_s) * rate_per_s) + 1, len(plan))
            while sent < due:
                owner.submit(plan[sent])
                sent += 1
            await asyncio.sleep(TICK_S)
        await _settle(owner)
        owner.result.seconds = time.perf_counter() - began_s
        owner.result.cpu_s = time.process_time() - cpu_s
        owner.result.broken += sum(connection.waiting for connection in opened if owner.alive)
        result, owner.result = owner.result, PacedResult()
    return result


async def _settle(owner: _Paced) -> None:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while not owner.settled:
                owner.changed.clear()
                await owner.changed.wait()
    except TimeoutError:
        pass  # what is still unanswered is counted as broken
