"""Slots that a node begins to serve, pauses and gives away: nothing is lost, nothing is delivered
that should not be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from skyring.clock import ManualClock
from skyring.errors import DeliveryInProgress, Fenced, NotFound, Unavailable
from skyring.settings import DeliverySettings, RetrySettings, TimerSettings
from skyring.storage.base import Write
from skyring.storage.memory import MemoryStorage
from skyring.testing import Delivered, Gate, Recorder, reject, take
from skyring.timers import delivery, reading
from skyring.timers.delivery import Delivery
from skyring.timers.pages import TimerPages
from skyring.timers.record import DUE_PREFIX, TIMER_PREFIX
from skyring.timers.request import TimerRequest
from skyring.timers.retry import RetryPolicy
from skyring.timers.service import TimerService
from skyring.timers.state import TimerState
from skyring.transports.base import Callback, Outcome

SLOTS = 8
FEW = DeliverySettings(in_flight_per_destination_max=10)
WAIT_S_MAX = 20


class Prompt(Recorder):
    """Called at once when the last check is made, and not in a task of its own."""

    name = "recorder"
    keeps_timeout = True


class Storage(MemoryStorage):
    """Fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lapsed = False
        """Nothing can be written, as when the lease has run out."""
        self.away: set[int] = set()
        """Slots that cannot be read."""
        self.refused = 0
        self.scans = 0

    def commit(self, slot: int, writes: Sequence[Write]) -> Any:
        if self.lapsed:
            self.refused += 1
            raise Fenced("the lease has run out")
        return super().commit(slot, writes)

    async def scan(
        self, slot: int, start: bytes, stop: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        self.scans += 1
        if slot in self.away:
            raise Unavailable("not now")
        return await super().scan(slot, start, stop, limit)


class Holder:
    """A node without HTTP: the timers of some slots, and their delivery."""

    def __init__(
        self,
        recorder: Recorder,
        clock: ManualClock,
        scheduled_max: int = 10_000,
        settings: DeliverySettings | None = None,
    ) -> None:
        self.storage = Storage()
        self.clock = clock
        self.lease = True
        self.asked = 0
        """How often the lease was asked for."""
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.state = TimerState(
            self.storage, clock, SLOTS, scheduled_max, self.may_deliver, self.note
        )
        transports = {"recorder": recorder}
        settings = DeliverySettings() if settings is None else settings
        self.service = TimerService(self.state, transports, settings, RetrySettings())
        self.pages = TimerPages(self.state, 1 << 20)
        timers = TimerSettings(scheduled_max=scheduled_max)
        policy = RetryPolicy(3, 1_000, 10_000)
        self.delivery = Delivery(self.state, transports, timers, settings, policy, lambda: 0.5)

    def may_deliver(self) -> bool:
        self.asked += 1
        return self.lease

    def note(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.events.append((kind, fields))

    async def claim(self, *slots: int) -> None:
        await self.storage.acquire(slots)
        self.state.serve(slots)

    async def lose(self, *slots: int) -> None:
        await self.storage.release(slots)
        self.state.drop(slots)

    async def create(self, timer_id: str, timeout: int = 1_000, data: str = "null") -> int:
        """Create a timer; its slot."""
        request = TimerRequest(Callback("recorder", "give", "here"), timeout)
        await self.service.create(request, timer_id)
        return self.state.slot(timer_id)

    async def create_in(
        self, slots: Sequence[int], count: int, timeout: int = 1_000, name: str = "timer"
    ) -> list[str]:
        """Create timers in some of the slots; their ids."""
        made: list[str] = []
        number = 0
        while len(made) < count:
            number += 1
            timer_id = f"{name}-{number}"
            if self.state.slot(timer_id) in slots:
                await self.create(timer_id, timeout)
                made.append(timer_id)
        return made

    async def is_gone(self, timer_id: str) -> bool:
        try:
            await self.service.get(timer_id)
        except NotFound:
            return True
        return False


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def holder(recorder: Recorder, clock: ManualClock) -> Holder:
    return Holder(recorder, clock)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests wait for events; what is tried again is tried soon."""
    monkeypatch.setattr(delivery, "STORAGE_PAUSE_S", 0.002)
    monkeypatch.setattr(delivery, "WAIT_S_MAX", 0.002)
    monkeypatch.setattr(reading, "STORAGE_PAUSE_S", 0.002)
    monkeypatch.setattr(reading, "PAUSE_S_MAX", 0.002)


@asynccontextmanager
async def running(holder: Holder) -> AsyncIterator[None]:
    await holder.storage.open()
    task = asyncio.create_task(holder.delivery.run())
    try:
        yield
    finally:
        holder.delivery.stop()
        done, _ = await asyncio.wait([task], timeout=WAIT_S_MAX)
        task.cancel()
        await asyncio.wait([task])
    assert done, "a delivery does not end"
    await task


async def until(reached: Callable[[], bool]) -> None:
    """Until it is true of what nobody tells; fails if it never is."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not reached():  # noqa: ASYNC110 – nobody is told
            await asyncio.sleep(0.001)


async def a_round(holder: Holder) -> None:
    """Until all has been looked at again that is looked at from time to time."""
    await holder.claim(SLOTS)  # a slot in which nothing ever is
    before = holder.storage.scans
    holder.clock.advance(60_000)
    await until(lambda: holder.storage.scans > before)
    await holder.lose(SLOTS)
    for _ in range(50):
        await asyncio.sleep(0)


# Serving


async def test_slots_are_read_at_once_when_they_come(
    holder: Holder, recorder: Recorder, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAUSE_S_MAX", 3_600.0)
    await holder.storage.open()
    await holder.storage.acquire(range(SLOTS))
    made = await holder.create_in(range(SLOTS), 100)
    clock.advance(1_000)
    async with running(holder):
        await holder.claim(0, 1, 2)
        first = {name for name in made if holder.state.slot(name) < 3}
        await recorder.wait_for(*first)
        assert set(recorder.ids) == first
        await holder.claim(*range(3, SLOTS))
        await recorder.wait_for(*made)
    assert sorted(recorder.ids) == sorted(made)


async def test_the_near_future_of_slots_that_come_goes_before_the_far_one_of_others(
    recorder: Recorder, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is full of what is due later."""
    monkeypatch.setattr(reading, "PAUSE_S_MAX", 3_600.0)
    holder = Holder(recorder, clock, scheduled_max=100)
    await holder.storage.open()
    await holder.storage.acquire(range(SLOTS))
    await holder.create_in(range(4), 400, timeout=20_000)
    made = await holder.create_in(range(4, SLOTS), 50, timeout=1)
    clock.advance(1)
    async with running(holder):
        await holder.claim(*range(4))
        await until(lambda: len(holder.state.schedule) >= 100)
        await holder.claim(*range(4, SLOTS))
        await recorder.wait_for(*made)
    assert sorted(recorder.ids) == sorted(made)


async def test_a_slot_that_cannot_be_read_does_not_hold_up_the_others(
    holder: Holder, recorder: Recorder, clock: ManualClock
) -> None:
    async with running(holder):
        await holder.claim(*range(SLOTS))
        made = await holder.create_in(range(SLOTS), 100, timeout=300_000)
        away = [name for name in made if holder.state.slot(name) == 0]
        holder.storage.away.add(0)
        clock.advance(300_000)
        await recorder.wait_for(*set(made).difference(away))
        assert not set(recorder.ids) & set(away)
        holder.storage.away.clear()
        await recorder.wait_for(*away)
    assert sorted(recorder.ids) == sorted(made)


# Pausing


async def test_nothing_is_delivered_in_a_paused_slot_and_nothing_is_lost(
    holder: Holder, recorder: Recorder, clock: ManualClock
) -> None:
    async with running(holder):
        await holder.claim(*range(SLOTS))
        made = await holder.create_in(range(SLOTS), 60)
        holder.state.pause({1, 2})
        paused = {name for name in made if holder.state.slot(name) in {1, 2}}
        changed = sorted(paused)[0]
        await holder.service.update(
            changed, TimerRequest(Callback("recorder", "give", "elsewhere"), 500)
        )
        await holder.service.cancel(sorted(paused)[1])
        more = await holder.create_in([1], 30, timeout=700, name="later")
        clock.advance(1_000)
        await recorder.wait_for(*set(made) - paused)
        await a_round(holder)
        assert set(recorder.ids) == set(made) - paused
        holder.state.resume([1, 2])
        await recorder.wait_for(*(paused | set(more)) - {sorted(paused)[1]})
    assert len(recorder.ids) == len(set(recorder.ids))
    assert recorder.begun[recorder.ids.index(changed)].callback.uri == "elsewhere"


async def test_what_waits_for_its_turn_when_its_slot_is_paused(
    recorder: Recorder, clock: ManualClock
) -> None:
    gate = Gate()
    recorder.script = gate
    holder = Holder(recorder, clock, settings=FEW)
    async with running(holder):
        await holder.claim(0)
        made = await holder.create_in([0], 100, timeout=1)
        clock.advance(1)
        most = FEW.in_flight_per_destination_max
        await recorder.wait(lambda: len(recorder.begun) == most)
        holder.state.pause([0])
        assert await holder.state.drained([0], 0.001) == set()
        draining = asyncio.create_task(holder.state.drained([0], WAIT_S_MAX))
        gate.open()
        assert await draining == {0}
        assert len(recorder.begun) == most
        await a_round(holder)
        assert len(recorder.begun) == most
        holder.state.resume([0])
        await recorder.wait_for(*made)
    assert len(recorder.ids) == len(made)


async def test_a_delivery_that_has_read_but_not_begun_when_its_slot_is_paused(
    holder: Holder, recorder: Recorder, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_read = asyncio.Event()
    is_reading = asyncio.Event()
    get = holder.storage.get

    async def slow_get(slot: int, key: bytes) -> bytes | None:
        value = await get(slot, key)
        is_reading.set()
        await may_read.wait()
        return value

    async with running(holder):
        await holder.claim(*range(SLOTS))
        slot = await holder.create("a", timeout=1)
        monkeypatch.setattr(holder.storage, "get", slow_get)
        clock.advance(1)
        await is_reading.wait()
        holder.state.pause([slot])
        draining = asyncio.create_task(holder.state.drained([slot], WAIT_S_MAX))
        await asyncio.sleep(0)
        assert not draining.done()
        may_read.set()
        assert await draining == {slot}
        assert recorder.begun == []
        holder.state.resume([slot])
        await recorder.wait_for("a")
    assert recorder.ids == ["a"]


# The lease


async def test_nothing_is_delivered_while_the_lease_has_lapsed(
    holder: Holder, recorder: Recorder, clock: ManualClock
) -> None:
    async with running(holder):
        await holder.claim(*range(SLOTS))
        made = await holder.create_in(range(SLOTS), 20)
        holder.lease = False
        clock.advance(1_000)
        await until(lambda: holder.asked > 100)
        assert recorder.begun == []
        await holder.lose(0)
        holder.lease = True
        await recorder.wait_for(*(name for name in made if holder.state.slot(name) != 0))
        assert all(holder.state.slot(name) != 0 for name in recorder.ids)
    assert all(delivery.info.attempt == 1 for delivery in recorder.begun)


async def test_an_outcome_waits_for_the_lease_and_the_timer_is_not_delivered_again(
    holder: Holder, recorder: Recorder, clock: ManualClock
) -> None:
    async def lapse(delivered: Delivered) -> Outcome:
        holder.storage.lapsed = True
        return Outcome.delivered()

    recorder.script = lapse
    async with running(holder):
        await holder.claim(*range(SLOTS))
        await holder.create("a", timeout=1)
        clock.advance(1)
        await until(lambda: holder.storage.refused > 3)
        assert holder.state.is_delivering("a")
        holder.storage.lapsed = False
        await until(lambda: not holder.state.is_delivering("a"))
        assert await holder.is_gone("a")
    assert recorder.ids == ["a"]


# Dropping


@pytest.mark.parametrize("script", [take, reject])
async def test_the_outcome_of_an_earlier_time_is_not_written(
    script: Callable[[Delivered], Any], holder: Holder, recorder: Recorder, clock: ManualClock
) -> None:
    """Another node has had the slot meanwhile, and its user has changed the timer there."""
    gate = Gate()

    async def wait(delivered: Delivered) -> Any:
        await gate(delivered)
        return await script(delivered)

    recorder.script = wait
    async with running(holder):
        await holder.claim(*range(SLOTS))
        slot = await holder.create("a", timeout=1)
        clock.advance(1)
        await recorder.wait_for("a")
        await holder.lose(slot)
        await holder.storage.acquire([slot])
        elsewhere = Holder(recorder, clock)
        elsewhere.storage = holder.storage
        elsewhere.state.storage = holder.storage
        await TimerService(
            elsewhere.state, {"recorder": recorder}, DeliverySettings(), RetrySettings()
        ).update("a", TimerRequest(Callback("recorder", "give", "there"), 5_000))
        holder.state.serve([slot])
        recorder.script = take
        gate.open()
        await until(lambda: not holder.state.is_delivering("a"))
        assert (await holder.service.get("a"))["callback"].uri == "there"
        assert (await holder.service.get("a"))["attempts"] == 0
        clock.advance(5_000)
        await recorder.wait(lambda: recorder.ids == ["a", "a"])
        assert recorder.begun[1].callback.uri == "there"
    assert "success" not in [kind for kind, _ in holder.events[:-1]]


async def test_a_delivery_of_an_earlier_time_is_made_again(
    holder: Holder, recorder: Recorder, clock: ManualClock
) -> None:
    gate = Gate()
    recorder.script = gate
    async with running(holder):
        await holder.claim(*range(SLOTS))
        slot = await holder.create("a", timeout=1)
        clock.advance(1)
        await recorder.wait_for("a")
        await holder.lose(slot)
        await holder.claim(slot)
        assert await holder.state.drained([slot], 0.001) == set()  # it is still under way
        recorder.script = take
        gate.open()
        await recorder.wait(lambda: recorder.ids == ["a", "a"])
        await until(lambda: not holder.state.is_delivering("a"))
        assert await holder.is_gone("a")
    assert [kind for kind, _ in holder.events] == ["create", "execute", "execute", "success"]


async def test_hints_of_dropped_slots_that_wait_for_their_turn_lead_nowhere(
    recorder: Recorder, clock: ManualClock
) -> None:
    gate = Gate()
    recorder.script = gate
    holder = Holder(recorder, clock, settings=FEW)
    async with running(holder):
        await holder.claim(*range(SLOTS))
        await holder.create_in([0, 1], 2_000, timeout=1)
        clock.advance(1)
        most = FEW.in_flight_per_destination_max
        await recorder.wait(lambda: len(recorder.begun) == most)
        await holder.lose(0, 1)
        recorder.script = take
        gate.open()
        (other,) = await holder.create_in([2], 1, timeout=1, name="other")
        clock.advance(1)
        await recorder.wait_for(other)
    assert len(recorder.begun) == most + 1


# All together


@pytest.mark.parametrize("seed", range(6))
async def test_slots_come_and_go_while_timers_are_made_changed_and_delivered(
    seed: int, clock: ManualClock
) -> None:
    """None begins in a slot that is paused or dropped, none after its cancel, none is lost."""
    chance = random.Random(seed)
    recorder = Prompt()
    holder = Holder(recorder, clock, scheduled_max=100)
    open_slots: set[int] = set()
    held: set[int] = set()
    wanted: set[str] = set()
    cancelled: set[str] = set()
    wrong: list[str] = []

    async def check(delivered: Delivered) -> Outcome:
        if holder.state.slot(delivered.id) not in open_slots or delivered.id in cancelled:
            wrong.append(delivered.id)
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        return Outcome.delivered() if chance.random() < 0.8 else Outcome.retry("once more", 0)

    recorder.script = check
    async with running(holder):
        for number in range(600):
            slots = set(chance.sample(range(SLOTS), 2))
            step = chance.randrange(10)
            if step == 0:
                await holder.claim(*slots)
                open_slots |= slots - held
                held |= slots
            elif step == 1:
                holder.state.pause(slots)
                open_slots -= slots
            elif step == 2:
                holder.state.resume(slots)
                open_slots |= slots & held
            elif step == 3:
                holder.state.pause(slots)
                open_slots -= slots
                drained = await holder.state.drained(slots, WAIT_S_MAX)
                assert drained == slots
                await holder.lose(*slots)
                held -= slots
            elif step == 4:
                open_slots -= slots
                held -= slots
                await holder.lose(*slots)
            elif step == 5 and wanted:
                timer_id = chance.choice(sorted(wanted))
                try:
                    await holder.service.cancel(timer_id)
                except (NotFound, Fenced, DeliveryInProgress):
                    pass
                else:
                    cancelled.add(timer_id)
            elif step == 6:
                clock.advance(chance.randrange(20))
                for _ in range(chance.randrange(20)):
                    await asyncio.sleep(0)
            else:
                try:
                    await holder.create(f"timer-{number}", chance.randrange(1, 200))
                except Fenced:
                    pass
                else:
                    wanted.add(f"timer-{number}")
        await holder.claim(*range(SLOTS))
        holder.state.resume(range(SLOTS))
        open_slots |= set(range(SLOTS))
        recorder.script = take
        due = wanted - cancelled
        async with asyncio.timeout(WAIT_S_MAX):
            while not due <= set(recorder.ids) or (await holder.pages.pending(1)).timers:
                clock.advance(1_000)
                await asyncio.sleep(0.002)
    assert wrong == []
    assert wanted - cancelled == set(recorder.ids) - cancelled
    for slot in range(SLOTS):
        for prefix in (DUE_PREFIX, TIMER_PREFIX):
            assert await holder.storage.scan(slot, prefix, prefix + b"\xff", 10) == []


# Events


async def test_what_becomes_of_a_timer_is_told(
    holder: Holder, recorder: Recorder, clock: ManualClock
) -> None:
    outcomes = [Outcome.retry("busy", 0), Outcome.delivered(), Outcome.rejected("no")]

    async def script(delivered: Delivered) -> Outcome:
        return outcomes.pop(0)

    recorder.script = script
    async with running(holder):
        await holder.claim(*range(SLOTS))
        await holder.create("a", timeout=1)
        due = (await holder.service.get("a"))["due"]
        clock.advance(1)
        await recorder.wait(lambda: len(recorder.begun) == 1)
        await until(lambda: not holder.state.is_delivering("a"))
        clock.advance(1_000)
        await recorder.wait(lambda: len(recorder.begun) == 2)
        await until(lambda: not holder.state.is_delivering("a"))
        await holder.create("b", timeout=1)
        clock.advance(1)
        await recorder.wait_for("b")
        await until(lambda: not holder.state.is_delivering("b"))
        await holder.pages.retry_dead_letter("b")
        outcomes.append(Outcome.rejected("never"))
        await recorder.wait(lambda: len(recorder.begun) == 4)
        await until(lambda: not holder.state.is_delivering("b"))
        await holder.pages.delete_dead_letter("b")
        await holder.create("c")
        await holder.service.update("c", TimerRequest(Callback("recorder", "give", "there"), 9))
        await holder.service.cancel("c")
    told = [(kind, fields["id"]) for kind, fields in holder.events]
    assert told == [
        ("create", "a"),
        ("execute", "a"),
        ("fail", "a"),
        ("execute", "a"),
        ("success", "a"),
        ("create", "b"),
        ("execute", "b"),
        ("fail", "b"),
        ("dead", "b"),
        ("retry", "b"),
        ("execute", "b"),
        ("fail", "b"),
        ("dead", "b"),
        ("delete", "b"),
        ("create", "c"),
        ("update", "c"),
        ("cancel", "c"),
    ]
    base = {"id": "a", "due": due, "transport": "recorder", "destination": "recorder:here"}
    assert holder.events[0][1] == base
    assert holder.events[1][1] == {**base, "attempt": 1}
    assert holder.events[2][1] == {**base, "attempt": 1, "error": "busy", "retry": True}
    assert holder.events[4][1] == {**base, "attempt": 2}
    assert holder.events[7][1]["retry"] is False
    assert holder.events[8][1]["error"] == "no"
