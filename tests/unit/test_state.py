"""One change or one delivery at a time works on a timer, and nothing is forgotten over it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from skyring.clock import ManualClock
from skyring.errors import DeliveryInProgress, Fenced
from skyring.storage.memory import MemoryStorage
from skyring.timers.record import Hint, Record, due_key, timer_slot
from skyring.timers.state import TimerState
from skyring.transports.base import Callback

NOW_MS = 1_700_000_000_000
HINT = Hint(NOW_MS - 5, 0, "a", "somewhere")
OTHER = Hint(NOW_MS - 4, 0, "b", "somewhere")


@pytest.fixture
def state() -> TimerState:
    made = TimerState(MemoryStorage(), ManualClock(NOW_MS), slots=1, scheduled_max=100)
    made.schedule.serve([0])
    load = made.schedule.begin_load(0, NOW_MS + 1_000, 10)
    assert load is not None
    made.schedule.end_load(load, [])
    return made


def due(state: TimerState) -> list[Hint]:
    """What the schedule gives now, after which it is empty."""
    return state.schedule.pop_due(NOW_MS, 100)


@contextmanager
def delivering(state: TimerState, hint: Hint = HINT) -> Iterator[None]:
    assert state.begin_delivery(hint)
    yield
    state.end_delivery(hint.id)


async def test_a_delivery_keeps_changes_away(state: TimerState) -> None:
    with delivering(state):
        assert state.is_delivering("a")
        with pytest.raises(DeliveryInProgress):
            async with state.changing("a"):
                pytest.fail("a delivery is under way")
        assert state.is_delivering("a")
    assert not state.is_delivering("a")
    async with state.changing("a"):
        assert not state.is_delivering("a")


async def test_a_change_keeps_deliveries_away_and_gives_the_hint_back(state: TimerState) -> None:
    async with state.changing("a"):
        state.wake.clear()
        assert not state.begin_delivery(HINT)
        assert not state.is_delivering("a")
        assert due(state) == []
        assert not state.wake.is_set()
    assert due(state) == [HINT]
    assert state.wake.is_set()
    with delivering(state):
        assert state.is_delivering("a")


async def test_hints_come_back_whatever_becomes_of_the_change(state: TimerState) -> None:
    async def fail() -> None:
        async with state.changing("a"):
            assert not state.begin_delivery(HINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert due(state) == [HINT]
    with delivering(state):
        pass


async def test_all_hints_that_were_passed_over_come_back(state: TimerState) -> None:
    later = HINT._replace(due_ms=NOW_MS)
    async with state.changing("a"):
        assert not state.begin_delivery(HINT)
        assert not state.begin_delivery(later)
    assert due(state) == [HINT, later]


async def test_a_timer_is_delivered_once_at_a_time(state: TimerState) -> None:
    with delivering(state):
        assert not state.begin_delivery(HINT)
    assert due(state) == [HINT]  # stale by now, which the record will show


async def test_without_passed_over_hints_none_comes_back(state: TimerState) -> None:
    with delivering(state):
        pass
    async with state.changing("a"):
        pass
    assert due(state) == []


async def test_timers_do_not_wait_for_each_other(state: TimerState) -> None:
    with delivering(state):
        async with state.changing("b"):
            assert not state.begin_delivery(OTHER)
            async with asyncio.timeout(10), state.changing("c"):
                pass
    assert due(state) == [OTHER]


async def test_waiting_changes_run_one_after_the_other(state: TimerState) -> None:
    running: list[int] = []
    ended: list[int] = []

    async def change(number: int) -> None:
        async with state.changing("a"):
            running.append(number)
            for _ in range(5):
                await asyncio.sleep(0)
                assert running == [number]
                assert not state.begin_delivery(HINT)
            running.clear()
        ended.append(number)

    async with asyncio.timeout(10):
        await asyncio.gather(*(change(number) for number in range(20)))
    assert sorted(ended) == list(range(20))
    # Given back by each change to be passed over by the next, and not lost on the way.
    assert HINT in due(state)


async def test_a_delivery_may_come_between_two_changes(state: TimerState) -> None:
    first_began, first_may_end = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with state.changing("a"):
            first_began.set()
            await first_may_end.wait()
        assert state.begin_delivery(HINT)  # before the one that waits has its turn

    async def second() -> None:
        async with state.changing("a"):
            pytest.fail("a delivery is under way")

    one = asyncio.create_task(first())
    await first_began.wait()
    two = asyncio.create_task(second())
    await asyncio.sleep(0)
    first_may_end.set()
    await one
    with pytest.raises(DeliveryInProgress):
        await two
    state.end_delivery("a")


async def test_a_cancelled_change_lets_the_others_go_on(state: TimerState) -> None:
    began = asyncio.Event()

    async def hold() -> None:
        async with state.changing("a"):
            began.set()
            await asyncio.get_running_loop().create_future()

    async def wait() -> None:
        async with state.changing("a"):
            pass

    holder = asyncio.create_task(hold())
    await began.wait()
    impatient, patient = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    assert not patient.done()
    holder.cancel()
    async with asyncio.timeout(10):
        await patient
    with delivering(state):
        pass


async def test_idle_is_when_nobody_works_on_it(state: TimerState) -> None:
    async with asyncio.timeout(10):
        await state.idle("a")
    assert state.begin_delivery(HINT)
    waiting = asyncio.create_task(state.idle("a"))
    await asyncio.sleep(0)
    state.end_delivery("a")
    change = state.changing("a")
    await change.__aenter__()  # taken again before the one that waits has looked
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    await change.__aexit__(None, None, None)
    async with asyncio.timeout(10):
        await waiting


def record(next_ms: int) -> Record:
    callback = Callback("http", "post", "http://127.0.0.1/")
    return Record(NOW_MS, next_ms, next_ms, None, "none", b"", callback, "somewhere")


async def test_the_alarm_is_set_anew_only_for_what_is_first(state: TimerState) -> None:
    for due_ms, first in ((NOW_MS, True), (NOW_MS + 1, False), (NOW_MS - 1, True)):
        state.wake.clear()
        state.push(0, "a", record(due_ms))
        assert state.wake.is_set() == first
    assert [hint.due_ms for hint in due(state)] == [NOW_MS - 1, NOW_MS]


async def test_what_is_far_away_is_left_to_the_storage(state: TimerState) -> None:
    state.push(0, "a", record(NOW_MS + 5_000))
    assert state.schedule.next_due_ms() is None
    assert not state.wake.is_set()
    load = state.schedule.begin_load(0, NOW_MS + 6_000, 10)
    assert load is not None
    assert load.start <= due_key(NOW_MS + 5_000, "a") < load.stop


def test_the_slot_of_a_timer() -> None:
    state = TimerState(MemoryStorage(), ManualClock(), slots=7, scheduled_max=100)
    assert state.slot("order-17") == timer_slot("order-17", 7)


# Slots that come and go


async def test_no_delivery_begins_in_a_paused_slot_and_its_hint_comes_back(
    state: TimerState,
) -> None:
    state.unread.clear()
    state.pause([0])
    assert not state.begin_delivery(HINT)
    assert not state.is_delivering("a")
    async with state.changing("a"):
        pass  # changes go on
    assert not state.unread.is_set()
    assert due(state) == []
    state.wake.clear()
    state.resume([0])
    assert state.unread.is_set()
    assert state.wake.is_set()
    assert due(state) == [HINT]
    assert state.begin_delivery(HINT)


async def test_what_was_passed_over_in_a_slot_that_is_paused_by_then_comes_back_later(
    state: TimerState,
) -> None:
    async with state.changing("a"):
        assert not state.begin_delivery(HINT)
        state.pause([0])
    assert due(state) == []
    state.resume([0])
    assert due(state) == [HINT]


async def test_hints_of_a_dropped_slot_lead_nowhere(state: TimerState) -> None:
    state.schedule.push(HINT)
    state.drop([0])
    assert due(state) == []
    assert not state.begin_delivery(HINT)
    state.unread.clear()
    state.serve([0])
    assert state.unread.is_set()
    assert state.begin_delivery(HINT)  # the record decides what it is worth


async def test_slots_without_a_delivery_are_drained_at_once(state: TimerState) -> None:
    assert await state.drained([0], 0) == {0}
    async with state.changing("a"):
        assert await state.drained((0,), 0) == {0}


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_deliveries_are_waited_for(order: str, state: TimerState) -> None:
    assert state.begin_delivery(HINT)
    assert state.begin_delivery(OTHER)
    state.pause([0])
    waiting = asyncio.create_task(state.drained([0, 5], 60))
    for timer_id in order:
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        state.end_delivery(timer_id)
    async with asyncio.timeout(10):
        assert await waiting == {0, 5}


async def test_who_waits_in_vain_is_told_which_slots_are_drained() -> None:
    state = TimerState(MemoryStorage(), ManualClock(NOW_MS), slots=3, scheduled_max=100)
    state.serve(range(3))
    assert state.begin_delivery(HINT)
    assert state.begin_delivery(OTHER._replace(slot=2))
    assert await state.drained(range(2), 0.01) == {1}
    state.end_delivery("a")
    assert await state.drained(range(2), 0.01) == {0, 1}
    assert await state.drained({2}, 0) == set()


class SlowStorage(MemoryStorage):
    """Its answers are given when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()

    async def get(self, slot: int, key: bytes) -> bytes | None:
        value = await super().get(slot, key)
        await self.may_answer.wait()
        return value


async def test_what_was_read_of_a_slot_that_was_away_meanwhile_is_no_base_of_a_change() -> None:
    storage = SlowStorage()
    await storage.open()
    await storage.acquire([0])
    state = TimerState(storage, ManualClock(NOW_MS), slots=1, scheduled_max=100)
    state.serve([0])
    reading = asyncio.create_task(state.read(0, b"t/a"))
    await asyncio.sleep(0)
    state.drop([0])
    state.serve([0])
    storage.may_answer.set()
    with pytest.raises(Fenced):
        await reading
    assert await state.read(0, b"t/a") is None


def test_a_node_may_always_deliver_if_nobody_says_otherwise(state: TimerState) -> None:
    assert state.may_deliver()
    assert state.events is None
