"""Operations that are sent again while it is not known what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from skyring.clock import ManualClock, SystemClock
from skyring.errors import Unavailable, Uncertain
from skyring.ring.messages import (
    ALONE,
    OperationsAnswer,
    OperationsQuestion,
    decode_question,
    encode,
)
from skyring.ring.router import ALONE_TRIES, Router, RouterLimits
from skyring.settings import DeliverySettings, RetrySettings
from skyring.storage.base import Storage
from skyring.storage.log import MemoryLog
from skyring.storage.memory import MemoryStorage
from skyring.storage.replicated import ReplicatedStorage, ReplicationLimits
from skyring.testing import Recorder
from skyring.timers.pages import TimerPages
from skyring.timers.recent import RecentIds
from skyring.timers.record import (
    DUE_PREFIX,
    TIMER_PREFIX,
    decode_record,
    due_key,
    timer_key,
)
from skyring.timers.request import TimerRequest
from skyring.timers.schedule import DUE_STOP
from skyring.timers.service import NewTimer, TimerService
from skyring.timers.state import TimerState
from skyring.transports.base import Callback

SLOTS = 4
END = b"\xff" * 40
FAR_MS = 3_600_000
TURNS = 50
"""More turns of the event loop than anything here takes that does not wait for the log."""


class SlowLog(MemoryLog):
    """Appends when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_append = asyncio.Event()
        self.may_append.set()
        self.asked = asyncio.Event()

    async def append(self, slot: int, data: bytes, expected: int) -> int:
        self.asked.set()
        await self.may_append.wait()
        return await super().append(slot, data, expected)


class Holder:
    """A node that holds all slots, as those see it that send it operations."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.clock = ManualClock()
        gone = RecentIds(20.0, 1_000)
        self.state = TimerState(storage, self.clock, SLOTS, 1_000, gone=gone)
        self.service = TimerService(
            self.state, {"recorder": Recorder()}, DeliverySettings(), RetrySettings()
        )
        self.pages = TimerPages(self.state, 4_096)

    async def stored(self, slot: int) -> tuple[list[bytes], list[bytes]]:
        """Keys of records, and of the due index."""
        found = [key for key, _ in await self.storage.scan(slot, b"", END, 1_000)]
        return (
            [key for key in found if key.startswith(TIMER_PREFIX)],
            [key for key in found if DUE_PREFIX <= key < DUE_STOP],
        )


@asynccontextmanager
async def holding(log: SlowLog) -> AsyncIterator[Holder]:
    numbers = iter(range(1_000))
    storage = ReplicatedStorage(
        MemoryStorage(),
        log,
        "a",
        lambda: b"%d" % next(numbers),
        lambda: True,
        lambda: True,
        lambda slot: None,
        ReplicationLimits(),
    )
    await storage.open()
    await storage.verify()
    await storage.acquire(range(SLOTS))
    holder = Holder(storage)
    holder.state.serve(range(SLOTS))
    try:
        yield holder
    finally:
        log.may_append.set()
        await storage.close()


def request() -> TimerRequest:
    return TimerRequest(Callback("recorder", "give", "here"), FAR_MS)


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def later(timer: NewTimer) -> NewTimer:
    """As it is when it is sent again: due at another time, for it has waited on its way."""
    due_ms = timer.record.due_ms + 1
    return timer._replace(record=replace(timer.record, due_ms=due_ms, next_ms=due_ms))


async def add(holder: Holder, timer: NewTimer, *, repeated: bool) -> Any:
    return await holder.service.add(timer, repeated=repeated)


async def add_many(holder: Holder, timer: NewTimer, *, repeated: bool) -> Any:
    (result,) = await holder.service.add_many([timer], repeated=repeated)
    return result


Add = Callable[..., Coroutine[Any, Any, Any]]


@pytest.mark.parametrize("how", [add, add_many])
@pytest.mark.parametrize("timer_id", [None, "mine"], ids=["unnamed", "named"])
async def test_a_create_that_is_sent_again_while_it_is_stored_leaves_one_timer(
    how: Add, timer_id: str | None
) -> None:
    log = SlowLog()
    async with holding(log) as holder:
        timer = holder.service.wanted(request(), timer_id)
        timer = timer._replace(record=replace(timer.record, mark=7))  # as what travels has one
        slot = holder.service.slot(timer.id)
        log.may_append.clear()
        log.asked.clear()
        first = asyncio.create_task(how(holder, timer, repeated=False))
        await log.asked.wait()
        second = asyncio.create_task(how(holder, later(timer), repeated=True))
        await turns()
        assert not first.done() | second.done()
        log.may_append.set()
        assert [each.id for each in await asyncio.gather(first, second)] == [timer.id] * 2
        records, dues = await holder.stored(slot)
        assert records == [timer_key(timer.id)]
        value = await holder.storage.get(slot, timer_key(timer.id))
        assert value is not None
        assert dues == [due_key(decode_record(value).next_ms, timer.id)]


# An answer that does not fit into a message with others


class Bus:
    """To another node, which has to be asked some times before it answers."""

    is_up = True
    payload_bytes_max = 1 << 20

    def __init__(self, alone: int, silent: int = 0) -> None:
        self.alone = alone
        self.silent = silent
        self.asked: list[bytes] = []
        self.given_up: list[list[int]] = []

    async def ask(self, node: str, question: bytes, timeout_ms: int) -> bytes:
        decoded = decode_question(question)
        assert isinstance(decoded, OperationsQuestion)
        (operation,) = decoded.operations
        self.asked.append(operation)
        self.given_up.append(decoded.given_up)
        if len(self.asked) <= self.silent:
            raise Uncertain("no answer")
        is_alone = len(self.asked) <= self.alone
        return encode(OperationsAnswer([ALONE if is_alone else b"answer"]))


class Table:
    def holder(self, slot: int) -> str:
        return "b"


class Operation:
    def encode(self, waited_ms: int, repeated: bool) -> bytes:
        return b"repeated" if repeated else b"first"


@asynccontextmanager
async def routing(bus: Bus) -> AsyncIterator[Router]:
    async with asyncio.TaskGroup() as group:

        def spawn(work: Any) -> bool:
            group.create_task(work)
            return True

        async def execute(operation: bytes) -> bytes:
            raise AssertionError("no slot is here")

        yield Router(
            "a",
            bus,  # type: ignore[arg-type]
            Table(),  # type: ignore[arg-type]
            lambda slot: False,
            execute,
            spawn,
            SystemClock(),
            RouterLimits(),
            lambda: 1,
        )


async def test_what_had_no_answer_is_named_until_there_is_one() -> None:
    bus = Bus(0, silent=2)
    async with routing(bus) as router:
        for _ in range(2):
            assert await router.run(1, Operation()) == b"answer"
    assert bus.asked == [b"first", b"repeated", b"repeated", b"first"]
    assert bus.given_up == [[], [1], [1, 2], []]


@pytest.mark.parametrize("alone", [1, 2])
async def test_what_was_done_and_not_answered_is_asked_for_as_such(alone: int) -> None:
    bus = Bus(alone)
    async with routing(bus) as router:
        assert await router.run(1, Operation()) == b"answer"
    assert bus.asked == [b"first", *[b"repeated"] * alone]


async def test_what_only_reads_is_asked_for_again_as_it_was() -> None:
    bus = Bus(2)
    async with routing(bus) as router:
        assert await router.run_at("b", Operation()) == b"answer"
    assert bus.asked == [b"first"] * 3


async def test_a_read_that_is_never_answered_is_given_up() -> None:
    bus = Bus(ALONE_TRIES)
    async with routing(bus) as router:
        with pytest.raises(Unavailable, match="does not fit"):
            await router.run_at("b", Operation())
    assert len(bus.asked) == ALONE_TRIES
