"""Clients of a simulated service: they make timers, change and cancel them, and write it down."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from random import Random
from typing import Any

import msgspec

from skyring.errors import SkyringError
from skyring.node import Node
from skyring.testing.proof.history import History, Operation, OperationKind
from skyring.testing.simulation.answers import NobodyListens, answer_of
from skyring.testing.simulation.clock import EPOCH_MS
from skyring.testing.simulation.loop import SimulatedLoop
from skyring.testing.simulation.machine import Machine
from skyring.testing.simulation.payload import ENVELOPE_BYTES, content_of, payload_of
from skyring.testing.simulation.plan import BULK_MAX, DAY_MS, SeedPlan
from skyring.timers.record import timer_slot
from skyring.timers.request import BulkEntry
from skyring.timers.service import Created
from skyring.transports.base import Callback

__all__ = ["CLIENT_TIMEOUT_S", "Clients"]

CLIENT_TIMEOUT_S = 30.0
"""Then a client gives up."""
REPEATS_MAX = 4
DESTINATIONS = ("a", "b", "c")


class Clients:
    """All clients of a simulation.

    Args:
        plan: how much they ask for.
        loop: whose time it is.
        random: what they ask for.
        machines: whom they ask.
        history: where they write it down.
    """

    def __init__(
        self,
        plan: SeedPlan,
        loop: SimulatedLoop,
        random: Random,
        machines: Sequence[Machine],
        history: History,
    ) -> None:
        self._plan = plan
        self._loop = loop
        self._random = random
        self._machines = machines
        self._history = history
        self.unheard: set[int] = set()
        """Operations that no node has heard of: whoever was asked did not run."""
        self._made = 0
        self._relative: list[tuple[Operation, int]] = []
        """Operations with a relative time-out, milliseconds."""

    async def run(self) -> None:
        """Make all timers of the plan, and see them through to what is asked about them."""
        random, plan = self._random, self._plan
        stories: list[Coroutine[Any, Any, None]] = []
        count = 0
        while count < plan.timers:
            begin_s = random.uniform(0, plan.load_s)
            if random.random() < 0.1:
                size = random.randint(2, BULK_MAX)
                count += size
                stories.append(self._later(begin_s, self._bulk, size))
            else:
                count += 1
                stories.append(self._later(begin_s, self._story))
        async with asyncio.TaskGroup() as group:
            for story in stories:
                group.create_task(story)

    async def probe(self, machine: Machine, timeout_s_max: float) -> None:
        """When all is well, this must simply work."""
        operation = self._new("create", "", machine)
        timeout_ms = self._random.randint(1, int(1000 * timeout_s_max))
        await self._create(operation, None, timeout_ms, machine)
        if operation.answer != "done" and not operation.is_large:
            why = f"a create at {machine.name} was answered {operation.answer!r} when all was well"
            self._history.failures.append((self._loop.time(), why))

    def set_due(self) -> None:
        """Work out when timers with a relative time-out are due, at the earliest and the latest.

        By the clock of whoever carried the operation out, which was one of them. While it has no
        answer the ring repeats it, even when what it has made is delivered already.
        """
        began: dict[str, list[float]] = {}
        for item in self._history.deliveries:
            began.setdefault(item.content, []).append(item.began_s)
        writers = self._writers()
        for operation, timeout_ms in self._relative:
            after = [each for each in began.get(operation.content, ()) if each >= operation.sent_s]
            if not after:
                continue
            end_s = operation.answered_s or operation.sent_s + 2 * CLIENT_TIMEOUT_S
            until_s = max(min(after), end_s)  # it may have been made once more by then
            ahead_ms = min(
                machine.clock.offset_min_ms(operation.sent_s, until_s)
                for machine in self._carriers(writers, operation, until_s)
            )
            # A node tells the next one how long a request has waited, by its own monotonic clock.
            waited_ms = 1 + int(1000 * (until_s - operation.sent_s) * 0.000_2)
            sent_ms = math.floor(operation.sent_s * 1000)
            operation.due_ms = EPOCH_MS + sent_ms + ahead_ms + timeout_ms - waited_ms
            if operation.answered_s is not None:
                ahead_ms = max(
                    machine.clock.offset_max_ms(operation.sent_s, operation.answered_s)
                    for machine in self._carriers(writers, operation, operation.answered_s)
                )
                answered_ms = math.ceil(operation.answered_s * 1000)
                operation.due_latest_ms = EPOCH_MS + answered_ms + ahead_ms + timeout_ms

    def _writers(self) -> dict[int, list[tuple[float, str]]]:
        """When who has written to the log of each slot."""
        writers: dict[int, list[tuple[float, str]]] = {}
        for entry in self._history.entries:
            item = (entry.time_s, entry.writer.split("/")[0])
            writers.setdefault(entry.slot, []).append(item)
        return writers

    def _carriers(
        self, writers: dict[int, list[tuple[float, str]]], operation: Operation, until_s: float
    ) -> Sequence[Machine]:
        """Who may have carried out an operation: it must have written to the log then."""
        slot = timer_slot(operation.id, self._plan.settings.slots) if operation.id else -1
        names = {
            name for time_s, name in writers.get(slot, ()) if operation.sent_s <= time_s <= until_s
        }
        return [each for each in self._machines if each.name in names] or self._machines

    # Stories

    async def _later(
        self, delay_s: float, story: Callable[..., Awaitable[None]], *more: Any
    ) -> None:
        await asyncio.sleep(delay_s)
        await story(*more)

    async def _story(self) -> None:
        random = self._random
        named = random.random() < 0.5
        timer_id = f"timer-{self._made}" if named else None
        timeout_ms = self._timeout_ms()
        operation = self._new("create", timer_id or "")
        at_ms = self._at_ms(timeout_ms) if random.random() < 0.2 else None
        if await self._create(operation, timer_id, timeout_ms, at_ms=at_ms):
            timer_id = operation.id or timer_id
        elif named and random.random() < 0.8:
            for _ in range(random.randint(1, REPEATS_MAX)):
                await asyncio.sleep(random.uniform(0.05, 5.0))
                again = self._new("create", timer_id or "", content=operation.content)
                if await self._create(again, timer_id, timeout_ms, at_ms=at_ms):
                    break
        if timer_id:
            await self._follow_up(timer_id, timeout_ms)
        if timer_id and named and random.random() < 0.15:  # its id may be free again
            await asyncio.sleep(random.choice((0.1, 1.0, 1.3)) * self._wait_s(timeout_ms))
            again = self._new("create", timer_id)
            if await self._create(again, timer_id, timeout_ms):
                await self._follow_up(timer_id, timeout_ms)

    async def _follow_up(self, timer_id: str, timeout_ms: int) -> None:
        """Look at a timer, update it, cancel it."""
        random = self._random
        if random.random() < 0.3:  # everybody can see it now
            await asyncio.sleep(0.5 * random.random())
            await self._get(timer_id)
        wait_s = self._wait_s(timeout_ms)
        for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
            # Often in the last moment.
            await asyncio.sleep(random.choice((random.random(), 0.95, 1.0, 1.05)) * wait_s)
            kind = random.choice(("update", "update", "cancel", "cancel", "get"))
            if kind == "update":
                wait_s = await self._update(timer_id)
            elif kind == "cancel":
                await self._cancel(timer_id)
            if kind == "get" or random.random() < 0.3:
                await self._get(timer_id)

    async def _bulk(self, size: int) -> None:
        random = self._random
        operations, entries = [], []
        timeout_ms = self._timeout_ms()
        are_alike = random.random() < 0.5
        for _ in range(size):
            timer_id = f"timer-{self._made}" if random.random() < 0.3 else None
            operation = self._new("create", timer_id or "")
            if not are_alike:
                timeout_ms = self._timeout_ms()
            self._relative.append((operation, timeout_ms))
            operations.append(operation)
            entry = BulkEntry(
                self._callback(operation), timeout=timeout_ms, data=self._data(operation)
            )
            entries.append(
                entry if timer_id is None else msgspec.structs.replace(entry, id=timer_id)
            )
        machine = self._machine()
        for operation in operations:
            operation.node = machine.name
        found = await self._ask(machine, lambda node: node.service.create_many(entries))
        results = found if isinstance(found, list) else [found] * size
        for operation, result in zip(operations, results, strict=True):
            if isinstance(result, Created):
                operation.id = result.id
            self._end(operation, result)
        if are_alike:
            await self._change_all([each.id for each in operations if each.id], timeout_ms)

    async def _change_all(self, ids: Sequence[str], timeout_ms: int) -> None:
        """Cancel or update some of them at once, and the others later, shortly before they are due.

        Some are left alone.
        """
        moments = sorted(self._random.choices((0.5, 0.8, 0.9, 0.95, 1.0), k=2))
        size, passed = len(ids) // 3, 0.0
        for first, moment in enumerate(moments):
            await asyncio.sleep((moment - passed) * self._wait_s(timeout_ms))
            passed = moment
            change = self._random.choice((self._cancel, self._cancel, self._update))
            async with asyncio.TaskGroup() as group:
                for timer_id in ids[first * size : (first + 1) * size]:
                    group.create_task(change(timer_id))

    # Operations

    async def _create(
        self,
        operation: Operation,
        timer_id: str | None,
        timeout_ms: int,
        machine: Machine | None = None,
        at_ms: int | None = None,
    ) -> bool:
        if at_ms is None:
            request = BulkEntry(
                self._callback(operation), timeout=timeout_ms, data=self._data(operation)
            )
            self._relative.append((operation, timeout_ms))
        else:
            request = BulkEntry(self._callback(operation), at=at_ms, data=self._data(operation))
            operation.due_ms = operation.due_latest_ms = at_ms
        machine = machine or self._machine()
        operation.node = machine.name
        result = await self._ask(machine, lambda node: node.service.create(request, timer_id))
        if isinstance(result, Created):
            operation.id = result.id
        self._end(operation, result)
        return operation.answer == "done"

    async def _update(self, timer_id: str) -> float:
        operation = self._new("update", timer_id)
        timeout_ms = self._timeout_ms()
        request = BulkEntry(
            self._callback(operation), timeout=timeout_ms, data=self._data(operation)
        )
        self._relative.append((operation, timeout_ms))
        machine = self._machine()
        operation.node = machine.name
        result = await self._ask(machine, lambda node: node.service.update(timer_id, request))
        self._end(operation, result)
        return self._wait_s(timeout_ms)

    async def _cancel(self, timer_id: str) -> None:
        machine = self._machine()
        operation = self._new("cancel", timer_id, machine, content="")
        result = await self._ask(machine, lambda node: node.service.cancel(timer_id))
        self._end(operation, result)

    async def _get(self, timer_id: str) -> None:
        machine = self._machine()
        if machine.wire is not None and not machine.wire.is_up:
            return  # it may answer what is out of date then
        operation = self._new("get", timer_id, machine, content="")
        session = None if machine.wire is None else machine.wire.session
        result = await self._ask(machine, lambda node: node.service.get(timer_id))
        if machine.wire is not None and machine.wire.session != session:
            return  # it was without a connection meanwhile, and its answer may be out of date
        if isinstance(result, dict):
            operation.content = content_of(str(result.get("data")))
            result = None
        self._end(operation, result)

    def _new(
        self,
        kind: OperationKind,
        timer_id: str,
        machine: Machine | None = None,
        content: str | None = None,
    ) -> Operation:
        if content is None:
            content = f"v{self._made}"
            self._made += 1
        operation = Operation(kind, timer_id, self._loop.time(), content)
        operation.node = "" if machine is None else machine.name
        self._history.operations.append(operation)
        return operation

    def _end(self, operation: Operation, result: Any) -> None:
        operation.ended(answer_of(result), self._loop.time())
        if isinstance(result, NobodyListens):
            self.unheard.add(id(operation))
        if isinstance(result, Exception) and not isinstance(result, (SkyringError, TimeoutError)):
            why = f"{operation.node} answers {operation.kind} with {result!r}"
            self._history.failures.append((self._loop.time(), why))

    async def _ask(self, machine: Machine, work: Callable[[Node], Coroutine[Any, Any, Any]]) -> Any:
        """What a node answers; its error; TimeoutError if it does not."""
        node, process = machine.node, machine.process
        if not machine.is_serving or node is None or process is None:
            return NobodyListens("nobody listens")
        task = process.spawn(work(node))
        await asyncio.wait([task], timeout=CLIENT_TIMEOUT_S)
        if not task.done():
            task.add_done_callback(_forget)
            if self._random.random() < 0.5:  # the server notices that the client is gone
                process.call_soon(task.cancel)
            return TimeoutError()
        if task.cancelled():
            return TimeoutError()
        error = task.exception()
        return task.result() if error is None else error

    # Choices

    def _machine(self) -> Machine:
        """Mostly one that a load balancer would choose, or one that it should not have chosen."""
        random = self._random
        if random.random() < 0.3:
            now_s = self._loop.time()
            hit = {
                name
                for fault in self._history.faults
                if fault.start_s <= now_s <= fault.end_s
                for name in fault.nodes
            }
            in_trouble = [machine for machine in self._machines if machine.name in hit]
            if in_trouble:
                return random.choice(in_trouble)
        ready = [machine for machine in self._machines if machine.is_ready]
        if ready and random.random() < 0.8:
            return random.choice(ready)
        return random.choice(self._machines)

    def _timeout_ms(self) -> int:
        random = self._random
        if random.random() < 0.03:
            return random.randint(3_600_000, 20 * DAY_MS)
        return max(1, int(1000 * self._plan.timeout_s_max ** random.random() * random.random()))

    def _wait_s(self, timeout_ms: int) -> float:
        return min(timeout_ms / 1000, self._plan.timeout_s_max)

    def _at_ms(self, timeout_ms: int) -> int:
        return EPOCH_MS + int(self._loop.time() * 1000) + timeout_ms

    def _callback(self, operation: Operation) -> Callback:
        """The same for the same content: a repeated request is the same request."""
        random = Random(f"{self._plan.seed} {operation.content}")
        operation.may_die = random.random() < 0.02
        uri = "reject" if operation.may_die else random.choice(DESTINATIONS)
        return Callback(transport="sim", method="post", uri=uri)

    def _data(self, operation: Operation) -> msgspec.Raw:
        text = payload_of(self._plan.seed, operation.content, self._plan.payload_bytes_max)
        operation.is_large = len(text) > self._plan.payload_bytes_max - ENVELOPE_BYTES
        return msgspec.Raw(msgspec.json.encode(text))


def _forget(task: asyncio.Task[Any]) -> None:
    """Nobody wants to know any more."""
    if not task.cancelled():
        task.exception()
