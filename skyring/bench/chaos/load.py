"""Clients of the chaos suite: they create, update, cancel, look, and write down what they hear."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from skyring.bench.errors import BenchError
from skyring.bench.process import ServerProcess
from skyring.bench.wire import Framer, build_request, header, status_of
from skyring.testing.proof.history import Answer, History, Operation, OperationKind

__all__ = ["Load", "LoadShape", "Told", "answer_of"]

CONNECT_S_MAX = 2.0
ANSWER_S_MAX = 8.0
"""More than the nodes allow a request (`scenarios.NODE_ARGUMENTS`), so most are answered."""
READ_BYTES = 64 << 10
IN_FLIGHT_MAX = 1_500
KNOWN_MAX = 2_000
"""Timers that can be updated and cancelled; further ones take the place of the oldest."""
PADDING_MAX = 400
CANCELS_MAX = 20
CANCEL_PAUSE_S = 1.0
"""Before a cancel is repeated: with `CANCELS_MAX` longer than any fault lasts."""
RETRY = {"attempts": 1000, "backoff_ms": 200, "max_ms": 1_500}
"""Of each timer: however long its receiver is away, it does not become a dead letter."""
DELIVERY_TIMEOUT_MS = 4_000
TICK_S = 0.01
KINDS: dict[OperationKind, int] = {"create": 60, "update": 15, "cancel": 15, "get": 10}
"""Of a hundred."""


class Told(NamedTuple):
    """What was answered. ``status`` 0: nothing, after the request was sent; -1: it was not sent."""

    status: int
    head: bytes = b""
    body: bytes = b""


class LoadShape(NamedTuple):
    """What a load is like."""

    rate_per_s: float = 150.0
    timeouts_ms: tuple[int, int] = (1_000, 20_000)


def answer_of(status: int, code: str) -> Answer:
    """What an answer means; ``code`` is that of the problem document."""
    if status in (200, 201, 202):
        return "done"
    if status == -1:
        return "refused"
    if status == 404:
        return "missing"
    if status == 409:
        return "busy" if code == "delivering" else "conflict"
    if status == 503:
        return "unknown" if code == "uncertain" else "refused"
    return "unknown"


class _Connections:
    """Kept-alive connections to one node."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Told:
        """Send one request."""
        while self._idle:
            reader, writer = self._idle.popleft()
            if not reader.at_eof() and not writer.is_closing():
                break
            writer.transport.abort()
        else:
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    reader, writer = await asyncio.open_connection(*self._address)
            except OSError:  # a time-out is one as well
                return Told(-1)
        request = build_request(method, "{}:{}".format(*self._address), path, body, headers=headers)
        told = Told(0)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                writer.write(request)
                told = await _read(reader)
        except (OSError, BenchError):
            pass  # no answer: it may be done or not
        finally:
            if told.status > 0:
                self._idle.append((reader, writer))
            else:
                writer.transport.abort()
        return told

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()


async def _read(reader: asyncio.StreamReader) -> Told:
    framer = Framer()
    while data := await reader.read(READ_BYTES):
        for head, body in framer.feed(data):
            return Told(status_of(head), head, body)
    return Told(0)


class _Known(NamedTuple):
    id: str
    due_s: float


class Load:
    """Clients of several nodes. What they do and hear is added to a history.

        async with Load(servers, uri, history, shape, seed):
            ... inject faults ...

    Args:
        servers: the nodes by name, also those that do not run now.
        uri: of the receiver.
        tag: what the ids that are the clients' own begin with.
        seed: of what is random.
    """

    def __init__(
        self,
        servers: Mapping[str, ServerProcess],
        uri: str,
        history: History,
        shape: LoadShape,
        tag: str,
        seed: int,
    ) -> None:
        self._nodes = {
            name: _Connections(server.host, server.port) for name, server in servers.items()
        }
        self._names = list(servers)
        self._uri = uri
        self._history = history
        self._shape = shape
        self._tag = tag
        self._chance = random.Random(seed)
        self._known: deque[_Known] = deque(maxlen=KNOWN_MAX)
        self._number = 0
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.statuses: Counter[str] = Counter()
        """Answers by kind and meaning."""
        self.skipped = 0
        """Operations that were not sent, because too many were under way."""

    async def __aenter__(self) -> Load:
        self._task = asyncio.create_task(self._run(), name="load")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None
        if not self._stop.is_set():
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for connections in self._nodes.values():
            connections.close()

    async def stop(self) -> None:
        """Send nothing more, and wait for the answers that are under way."""
        assert self._task is not None
        self._stop.set()
        await self._task

    def shorten(self, timeouts_ms: tuple[int, int]) -> None:
        """Other time-outs from now on."""
        self._shape = self._shape._replace(timeouts_ms=timeouts_ms)

    async def _run(self) -> None:
        under_way: set[asyncio.Task[None]] = set()
        began_s, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self._stop.is_set():
                due = int((time.monotonic() - began_s) * self._shape.rate_per_s)
                for _ in range(due - sent):
                    if len(under_way) >= IN_FLIGHT_MAX:
                        self.skipped += 1
                        continue
                    task = group.create_task(self._operation())
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                sent = due
                await asyncio.sleep(TICK_S)

    async def _operation(self) -> None:
        chance = self._chance
        [kind] = chance.choices(list(KINDS), list(KINDS.values()))
        known = self._take()
        if kind == "create" or known is None:
            await self._create()
        elif kind == "update":
            await self._update(known)
        elif kind == "cancel":
            await self._cancel(known)
        else:
            operation, told = await self._ask("get", "GET", known.id)
            if operation.answer == "done":
                operation.content = str(json.loads(told.body).get("data", ""))
            self._known.append(known)

    def _take(self) -> _Known | None:
        """A timer that is pending, or will be due in an instant: one operation at a time on each.

        Of those that are due soon only some are taken, for most would come too late.
        """
        now_s = time.monotonic()
        for _ in range(min(len(self._known), 10)):
            at = self._chance.randrange(len(self._known))
            known = self._known[at]
            del self._known[at]
            if known.due_s > now_s + self._chance.choice((0.0, 1.0, 1.0)):
                return known
        return None

    async def _create(self) -> None:
        is_named = self._chance.random() < 0.5
        content, timeout_ms = self._content(), self._timeout()
        timer_id = f"{self._tag}-{self._number}" if is_named else ""
        due_ms = time.time_ns() // 1_000_000 + timeout_ms
        body = self._body(content, timeout_ms)
        # With an id of one's own a create without an answer may be repeated safely.
        for _ in range(1 + (is_named and self._chance.random() < 0.5)):
            headers = {"x-timer-id": timer_id} if is_named else {}
            operation, told = await self._ask(
                "create", "POST", timer_id, content, due_ms, body, headers
            )
            if operation.answer == "done":
                location = header(told.head, "location") or ""
                operation.id = location.rpartition("/")[2] or timer_id
                self._known.append(_Known(operation.id, time.monotonic() + timeout_ms / 1000))
            if operation.answer != "unknown":
                return

    async def _update(self, known: _Known) -> None:
        content, timeout_ms = self._content(), self._timeout()
        due_ms = time.time_ns() // 1_000_000 + timeout_ms
        body = self._body(content, timeout_ms)
        operation, _ = await self._ask("update", "PUT", known.id, content, due_ms, body)
        if operation.answer == "done":
            self._known.append(_Known(known.id, time.monotonic() + timeout_ms / 1000))

    async def _cancel(self, known: _Known) -> None:
        """Until it is known what became of it: a cancel without an answer would excuse a loss.

        Each request is an operation of its own. A refusal says nothing of the one before it.
        """
        is_unknown = False
        for _ in range(CANCELS_MAX):
            operation, _ = await self._ask("cancel", "DELETE", known.id)
            is_unknown = is_unknown or operation.answer == "unknown"
            if not is_unknown or operation.answer in ("done", "missing"):
                return
            await asyncio.sleep(CANCEL_PAUSE_S)

    async def _ask(
        self,
        kind: OperationKind,
        method: str,
        timer_id: str,
        content: str = "",
        due_ms: int = 0,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Operation, Told]:
        node = self._chance.choice(self._names)
        path = "/timer" if kind == "create" else f"/timer/{timer_id}"
        operation = Operation(kind, timer_id, time.monotonic(), content, due_ms, node)
        self._history.operations.append(operation)
        told = await self._nodes[node].ask(method, path, body, headers or {})
        answer = answer_of(told.status, _code(told))
        operation.ended(answer, time.monotonic())
        self.statuses[f"{kind} {answer}"] += 1
        if told.status >= 400 and told.status not in (404, 409, 503):
            self._history.failures.append(
                (time.monotonic(), f"{node} answered {told.status} to {method}: {told.body!r}")
            )
        return operation, told

    def _content(self) -> str:
        """Different for each version of each timer."""
        self._number += 1
        return f"{self._tag}/{self._number}/{'x' * self._chance.randrange(PADDING_MAX)}"

    def _timeout(self) -> int:
        return self._chance.randint(*self._shape.timeouts_ms)

    def _body(self, content: str, timeout_ms: int) -> bytes:
        callback = {
            "transport": "http",
            "method": "post",
            "uri": self._uri,
            "retry": RETRY,
            "timeout_ms": DELIVERY_TIMEOUT_MS,
        }
        document = {"timeout": timeout_ms, "data": content, "callback": callback}
        return json.dumps(document, separators=(",", ":")).encode()


def _code(told: Told) -> str:
    if told.status < 400:
        return ""
    try:
        return str(json.loads(told.body).get("code", ""))
    except (ValueError, AttributeError):
        return ""
