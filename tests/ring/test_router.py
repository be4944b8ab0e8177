"""Requests that travel: large ones, slow ones, repeated ones, and those whose other node dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from skyring.clock import ManualClock
from skyring.errors import NotFound, RingError, SkyringError, TooLarge, Unavailable, Uncertain
from skyring.ring.messages import OperationsQuestion, decode_question
from skyring.testing.recording import Delivered
from skyring.timers.recent import RecentIds
from skyring.timers.record import decode_record, encode_record, timer_key
from skyring.timers.request import BulkEntry, TimerRequest
from skyring.timers.wire import (
    Added,
    Answer,
    Cancel,
    Create,
    CreateMany,
    DeleteDeadLetter,
    Done,
    Entry,
    Failed,
    Operation,
    Results,
    RetryDeadLetter,
    decode_answer,
    encode_operation,
)
from skyring.transports import Outcome
from skyring.transports.base import Callback, RetrySpec
from tests.contract.recording import to
from tests.contract.test_routed import Holder, name_in, request
from tests.ring.rings import RingNode, eventually, ring_of

FAR_MS = 3_600_000
SOON_S = 5
"""Far less than the time of a request."""

# How large a timer may be


def large(size: int, timeout: int = FAR_MS) -> TimerRequest:
    callback = Callback("recorder", "give", "here", retry=RetrySpec(attempts=2, backoff_ms=1))
    return TimerRequest(callback, timeout, data=msgspec.Raw(b'"' + b"x" * size + b'"'))


async def largest(takes: Callable[[int], Awaitable[Any]], bytes_max: int) -> int:
    """The size from which on all are refused with TooLarge."""
    low, high = bytes_max - 20_000, bytes_max
    while high - low > 1:
        middle = (low + high) // 2
        try:
            await takes(middle)
        except TooLarge:
            high = middle
        else:
            low = middle
    return low


@pytest.mark.parametrize("entry", ["here", "there"])
async def test_the_largest_timer_can_fail_and_one_that_is_larger_is_refused(entry: str) -> None:
    async with ring_of("a", "b") as ring:

        async def fail(delivery: Delivered) -> Outcome:
            return Outcome.retry("\N{SNOWMAN}" * 5_000)

        ring.recorder.script = fail
        a, b = ring.nodes.values()
        service = (a if entry == "here" else b).node.service
        timer_id = ring.id_in(a.held)
        await service.create(large(1), timer_id)
        size = await largest(
            lambda size: service.update(timer_id, large(size)), ring.log.message_bytes_max
        )
        assert size > ring.log.message_bytes_max - 12_000
        await service.update(timer_id, large(size, timeout=1))
        await eventually(lambda: is_dead(a, timer_id))
        assert ring.recorder.ids == [timer_id] * 2
        assert not any(node.has_failed() for node in ring.nodes.values())
        with pytest.raises(TooLarge):
            await service.create(large(size + 200), ring.id_in(a.held, "other"))
        too_large = large(size + 200)
        entries: list[BulkEntry | SkyringError] = [
            BulkEntry(too_large.callback, FAR_MS, data=too_large.data, id=each)
            for each in (ring.id_in(a.held, "x"), ring.id_in(b.held, "y"))
        ]
        results = await service.create_many(entries)
        assert [type(result) for result in results] == [TooLarge, TooLarge]
        assert all(node.held for node in ring.nodes.values())
        await b.timers.create(id=ring.id_in(a.held, "z"), timeout=FAR_MS, callback=to())


async def is_dead(node: RingNode, timer_id: str) -> bool:
    return bool((await node.timers.get(timer_id))["state"] == "dead")


# The other node dies, or this one ends


class Deaf:
    """Swallows the operations that come to a node."""

    def __init__(self, node: RingNode) -> None:
        self.count = 0
        self.heard = asyncio.Event()
        listener = node.bus._listener
        assert listener is not None
        asked = listener.asked

        def swallow(question: bytes, answer: Any) -> None:
            if isinstance(decode_question(question), OperationsQuestion):
                self.count += 1
                self.heard.set()
            else:
                asked(question, answer)

        listener.asked = swallow  # type: ignore[method-assign]


async def test_a_request_to_a_node_that_dies_is_answered_by_who_takes_its_slots() -> None:
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes["a"], ring.nodes.pop("b")
        deaf, there = Deaf(b), b.held
        timer_id = ring.id_in(there)
        creating = asyncio.create_task(a.timers.create(id=timer_id, timeout=FAR_MS, callback=to()))
        getting = asyncio.create_task(a.timers.get(ring.id_in(there, "nothing")))
        try:
            await deaf.heard.wait()
            b.cut()
            async with asyncio.timeout(SOON_S):
                assert await creating == timer_id
                with pytest.raises(NotFound):
                    await getting
            assert (await a.timers.get(timer_id))["state"] == "scheduled"
        finally:
            await b.node.stop()


async def test_an_update_that_comes_late_does_not_replace_a_later_one() -> None:
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        timer_id = await a.timers.create(id=ring.id_in(b.held), timeout=FAR_MS, callback=to("one"))
        listener = b.bus._listener
        assert listener is not None
        asked, held = listener.asked, asyncio.get_running_loop().create_future()

        def hold(question: bytes, answer: Any) -> None:
            if isinstance(decode_question(question), OperationsQuestion):
                held.set_result(question)
            else:
                asked(question, answer)

        listener.asked = hold  # type: ignore[method-assign]
        late = asyncio.create_task(a.timers.update(timer_id, timeout=FAR_MS, callback=to("two")))
        question = await held
        listener.asked = asked  # type: ignore[method-assign]
        a.bus.disconnect()
        with pytest.raises(Uncertain):
            await late
        a.bus.connect()
        await ring.settled()
        await a.timers.update(timer_id, timeout=FAR_MS, callback=to("three"))
        assert b.node._ring is not None
        with pytest.raises(Unavailable, match="came before"):
            await b.node._ring.member._answering.answer(question)
        assert (await a.timers.get(timer_id))["callback"].uri == "three"


async def test_a_node_that_has_not_joined_asks_nobody_to_do_anything() -> None:
    async with ring_of("a") as ring:
        swallowed = Deaf(ring.nodes["a"])
        waiting = RingNode(ring, "b", request_timeout_ms=500)
        waiting.log.is_cut = True  # so it cannot join
        try:
            await waiting.node.start()
            await ring.until(lambda: "a" in waiting.sees())
            with pytest.raises(Unavailable) as refused:
                await waiting.timers.create(timeout=FAR_MS, callback=to())
            assert not isinstance(refused.value, Uncertain)
            with pytest.raises(Unavailable):
                await waiting.timers.list()
            assert swallowed.count == 0
        finally:
            await waiting.node.stop()


async def test_requests_end_when_the_ring_has_ended() -> None:
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        deaf, there = Deaf(b), ring.id_in(b.held)
        asked = asyncio.create_task(a.timers.get(there))
        await deaf.heard.wait()
        assert a.node._ring is not None
        a.node._ring.member._fail(RingError("another node has its name"))
        async with asyncio.timeout(SOON_S):
            with pytest.raises(RingError):
                await a.node.wait()
            with pytest.raises(Unavailable):
                await asked
            for call in (a.timers.get(there), a.timers.cancel(there), a.timers.list()):
                with pytest.raises(Unavailable):
                    await call
            with pytest.raises(Unavailable):
                await a.timers.create(id=there, timeout=FAR_MS, callback=to())


async def test_a_node_that_lives_and_is_slow_is_not_asked_twice() -> None:
    """Whoever is asked again while it is slow becomes slower."""
    async with ring_of("a", "b", request_timeout_ms=3_000) as ring:
        a, b = ring.nodes.values()
        deaf = Deaf(b)
        with pytest.raises(Uncertain):
            await a.timers.create(id=ring.id_in(b.held), timeout=FAR_MS, callback=to())
        assert deaf.count == 1
        assert a.sees()["b"] == "alive"


# One that is slow, and those that travel with it


def slow_slot(node: RingNode) -> tuple[int, asyncio.Event]:
    """One of its slots, whose log answers when the event is set."""
    slow, may_append = min(node.held), asyncio.Event()
    append = node.log.append

    async def append_slowly(slot: int, data: bytes, expected: int) -> int:
        if slot == slow:
            await may_append.wait()
        return await append(slot, data, expected)

    node.log.append = append_slowly  # type: ignore[method-assign]
    return slow, may_append


async def test_a_slow_operation_does_not_hold_up_those_that_travel_with_it() -> None:
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        slow, may_append = slow_slot(b)
        others = sorted(b.held - {slow})
        late, *ids = [ring.id_in([slot], f"of-{slot}") for slot in (slow, *others)]
        tasks = [
            asyncio.create_task(a.timers.create(id=each, timeout=FAR_MS, callback=to()))
            for each in (late, *ids)
        ]
        async with asyncio.timeout(SOON_S):
            assert await asyncio.gather(*tasks[1:]) == ids
        assert not tasks[0].done()
        may_append.set()
        assert await tasks[0] == late
        assert (await a.timers.get(late))["state"] == "scheduled"


async def test_what_is_slow_is_done_once_and_answered_as_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked for again and again while it is being done."""
    monkeypatch.setattr("skyring.ring.answering.LATE_S", 0.02)
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        slow, may_append = slow_slot(b)
        may_append.set()
        kept, cancelled = ring.id_in([slow], "kept"), ring.id_in([slow], "cancelled")
        await a.timers.create(id=cancelled, timeout=FAR_MS, callback=to())
        may_append.clear()
        others = sorted(b.held - {slow})
        tasks = [
            asyncio.create_task(each)
            for each in (
                a.timers.create(id=kept, timeout=1, callback=to()),
                a.timers.cancel(cancelled),
                a.timers.get(ring.id_in(others, "nothing")),
            )
        ]
        questions = count_questions(b)
        await ring.until(lambda: questions() >= 3)
        assert not tasks[0].done() | tasks[1].done()
        may_append.set()
        created, done, nothing = await asyncio.gather(*tasks, return_exceptions=True)
        assert (created, done) == (kept, None)
        assert isinstance(nothing, NotFound)
        await ring.recorder.wait_for(kept)
        await eventually(lambda: is_empty(b))
        assert ring.recorder.ids == [kept]


def count_questions(node: RingNode) -> Callable[[], int]:
    """How many messages with operations have come to a node."""
    listener, count = node.bus._listener, 0
    assert listener is not None
    asked = listener.asked

    def counted(question: bytes, answer: Any) -> None:
        nonlocal count
        count += isinstance(decode_question(question), OperationsQuestion)
        asked(question, answer)

    listener.asked = counted  # type: ignore[method-assign]
    return lambda: count


async def is_empty(node: RingNode) -> bool:
    return not (await node.timers.list()).timers


# What is asked for again, when it is done already


class Asked:
    """An operation that is sent for the first time, or was sent before."""

    def __init__(self, operation: Operation, is_repeated: bool) -> None:
        self._operation = operation
        self._is_repeated = is_repeated

    def encode(self, waited_ms: int, repeated: bool) -> bytes:
        return encode_operation(self._operation, waited_ms, self._is_repeated)


async def again(
    entry: RingNode, timer_id: str, operation: Operation, is_repeated: bool = True
) -> Answer:
    assert entry.node._ring is not None
    slot = entry.node._state.slot(timer_id)
    router = entry.node._ring.member.router
    return decode_answer(await router.run(slot, Asked(operation, is_repeated)))


@pytest.mark.parametrize("entry", ["a", "b"])
async def test_what_is_asked_for_again_after_the_delivery(entry: str) -> None:
    async with ring_of("a", "b") as ring:
        node, a = ring.nodes[entry], ring.nodes["a"]
        timer_id = ring.id_in(a.held)
        record = await a_record(a, mark=5)
        assert await again(node, timer_id, Create(timer_id, record, True), False) == Added(True)
        await ring.recorder.wait_for(timer_id)
        await eventually(lambda: is_empty(a))
        cancelled = await again(node, timer_id, Cancel(timer_id))
        assert isinstance(cancelled, Failed)
        assert isinstance(cancelled.error(), NotFound)
        deleted = await again(node, timer_id, DeleteDeadLetter(timer_id))
        assert isinstance(deleted, Failed)
        retried = await again(node, timer_id, RetryDeadLetter(timer_id))
        assert retried == Done(), "it was a dead letter, and is delivered now"
        for named in (True, False):
            created = await again(node, timer_id, Create(timer_id, record, named))
            assert created == Added(True)
        many = CreateMany([Entry(timer_id, record, True), Entry(timer_id, record, False)])
        assert await again(node, timer_id, many) == Results([Added(True), Added(True)])
        assert await is_empty(a)
        assert ring.recorder.ids == [timer_id]
        another = await a_record(a, mark=6)
        assert await again(node, timer_id, Create(timer_id, another, True)) == Added(True)
        await ring.recorder.wait(lambda: ring.recorder.ids == [timer_id] * 2)
        unknown = ring.id_in(a.held, "unknown")
        uncertain = await again(node, unknown, Cancel(unknown))
        assert isinstance(uncertain, Failed)
        assert isinstance(uncertain.error(), Uncertain)


async def a_record(node: RingNode, mark: int) -> bytes:
    """The record of a timer that is due soon, as it travels."""
    timer_id = await node.timers.create(timeout=FAR_MS, callback=to())
    assert node.node._ring is not None
    while node.node._state.slot(timer_id) not in node.held:
        await node.timers.cancel(timer_id)
        timer_id = await node.timers.create(timeout=FAR_MS, callback=to())
    slot = node.node._state.slot(timer_id)
    value = await node.node._ring.storage.get(slot, timer_key(timer_id))
    await node.timers.cancel(timer_id)
    assert value is not None
    return encode_record(replace(decode_record(value), timeout_ms=1, mark=mark))


@pytest.fixture
async def holder() -> Holder:
    made = Holder(ManualClock())
    made.state.gone = RecentIds(20.0, 1_000)
    await made.hold(0)
    return made


async def told(holder: Holder, operation: Operation, *, repeated: bool) -> str:
    """What comes of an operation, in a word."""
    answer = decode_answer(
        await holder.operations.execute(encode_operation(operation, 0, repeated))
    )
    return type(answer.error()).__name__ if isinstance(answer, Failed) else type(answer).__name__


REMOVALS: list[tuple[type[Any], bool]] = [
    (Cancel, False),
    (RetryDeadLetter, True),
    (DeleteDeadLetter, True),
]


@pytest.mark.parametrize(("kind", "of_dead"), REMOVALS)
async def test_what_is_removed_and_asked_for_again(
    kind: type[Any], of_dead: bool, holder: Holder
) -> None:
    timer_id = name_in(0)
    await holder.service.create(request(), timer_id)
    if of_dead:
        await holder.bury(timer_id)
    assert await told(holder, kind(timer_id), repeated=False) == "Done"
    assert await told(holder, kind(timer_id), repeated=True) == "Done"
    assert await told(holder, kind(timer_id), repeated=False) == "NotFound"
    unknown = name_in(0, "unknown")
    assert await told(holder, kind(unknown), repeated=False) == "NotFound"
    assert await told(holder, kind(unknown), repeated=True) == "Uncertain"
    for other, _ in REMOVALS:
        if other is not kind and not (other is Cancel and kind is RetryDeadLetter):
            assert await told(holder, other(timer_id), repeated=True) == "NotFound"
    if kind is RetryDeadLetter:
        assert await told(holder, Cancel(timer_id), repeated=True) == "Done", "it is pending"


async def test_a_timer_that_was_cancelled_is_not_created_again(holder: Holder) -> None:
    timer_id = name_in(0)
    record = encode_record(holder.service.prepare(request()))
    for named in (True, False):
        create = Create(timer_id, record, named)
        assert await told(holder, create, repeated=False) == "Added"
        await holder.service.cancel(timer_id)
        assert await told(holder, create, repeated=True) == "Added"
        with pytest.raises(NotFound):
            await holder.service.find(timer_id)


async def test_a_dead_letter_that_is_retried_and_created_again_is_there_once(
    holder: Holder,
) -> None:
    timer_id = name_in(0)
    create = Create(timer_id, encode_record(holder.service.prepare(request())), False)
    assert await told(holder, create, repeated=False) == "Added"
    await holder.bury(timer_id)
    await holder.pages.retry_dead_letter(timer_id)
    assert await told(holder, create, repeated=True) == "Added"
    assert (await holder.service.find(timer_id)).state == "scheduled"
