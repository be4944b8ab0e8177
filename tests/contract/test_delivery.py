"""Nothing early, nothing lost: clocks that jump, requests that are given up.

The clock stands still until a test moves it; deliveries are awaited as events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyring import Skyring
from skyring.clock import ManualClock
from skyring.errors import NotFound
from skyring.settings import DeliverySettings
from skyring.testing import Gate, Recorder, reject, take
from tests.contract.recording import dead_letter, is_gone, settings_for, to, until

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BOTH = pytest.mark.parametrize("backend", ["memory", "leveldb"])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def assert_none_early(recorder: Recorder) -> None:
    for delivery in recorder.begun:
        assert delivery.info.started_ms >= delivery.info.due_ms


# Clocks


@BOTH
async def test_a_clock_set_forward_by_days_fires_what_has_become_due(
    backend: str, tmp_path: Path, clock: ManualClock, recorder: Recorder
) -> None:
    async with Skyring(settings_for(backend, tmp_path), transports=[recorder], clock=clock) as sky:
        dues = {f"day-{day}": clock.now_ms() + day * DAY_MS for day in (1, 29, 30, 31, 60)}
        for timer_id, due_ms in dues.items():
            await sky.timers.create(at=due_ms, callback=to(), id=timer_id)
        await sky.timers.create(timeout=10_000, callback=to(), id="soon")
        clock.jump(30 * DAY_MS)
        await recorder.wait_for("soon", "day-1", "day-29", "day-30")
        clock.jump(40 * DAY_MS)
        await recorder.wait_for("day-31", "day-60")
    assert sorted(recorder.ids) == sorted([*dues, "soon"])
    assert_none_early(recorder)


async def test_a_clock_set_forward_by_less_than_has_been_read_ahead(
    tmp_path: Path, clock: ManualClock, recorder: Recorder
) -> None:
    """Nothing else wakes the node then: the alarm was set for half a minute later."""
    settings = settings_for("memory", tmp_path, slots=1)
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await warm_up(sky, clock, recorder)
        await sky.timers.create(timeout=28_000, callback=to(), id="soon")
        await warm_up(sky, clock, recorder)  # by now the node sleeps until then
        clock.jump(28_000)
        await recorder.wait_for("soon")


@BOTH
async def test_a_clock_set_back_fires_nothing_early(
    backend: str, tmp_path: Path, clock: ManualClock, recorder: Recorder
) -> None:
    async with Skyring(settings_for(backend, tmp_path), transports=[recorder], clock=clock) as sky:
        await sky.timers.create(timeout=1_000, callback=to(), id="before")
        clock.jump(-HOUR_MS)
        await sky.timers.create(timeout=1_000, callback=to(), id="after")
        clock.advance(1_000)
        await recorder.wait_for("after")
        clock.advance(HOUR_MS - 1)
        await sky.timers.create(timeout=1, callback=to(), id="mark")  # due one with "before"
        assert recorder.ids == ["after"]
        clock.advance(1)
        await recorder.wait_for("before", "mark")
    assert_none_early(recorder)


async def test_a_clock_set_back_while_a_due_timer_waits_for_its_turn(
    tmp_path: Path, clock: ManualClock
) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    limits = DeliverySettings(in_flight_max=1)
    settings = settings_for("memory", tmp_path, delivery=limits)
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await sky.timers.create(timeout=999, callback=to(), id="first")
        await sky.timers.create(timeout=1_000, callback=to(), id="waits")
        clock.advance(1_000)
        await recorder.wait_for("first")
        clock.jump(-10_000)
        gate.open()
        await sky.timers.create(timeout=1_000, callback=to(), id="mark")
        clock.advance(1_000)
        await recorder.wait_for("mark")
        assert recorder.ids == ["first", "mark"]
        clock.jump(10_000)
        await recorder.wait_for("waits")
    assert_none_early(recorder)


async def test_a_time_out_counts_from_after_the_request(tmp_path: Path, recorder: Recorder) -> None:
    class LateInTheMillisecond(ManualClock):
        def ceil_ms(self) -> int:
            return self.now_ms() + 1

    clock = LateInTheMillisecond()
    async with Skyring(settings_for("memory", tmp_path), transports=[recorder], clock=clock) as sky:
        timer_id = await sky.timers.create(timeout=1, callback=to())
        assert (await sky.timers.get(timer_id))["due"] == clock.now_ms() + 2


async def test_a_restart_with_another_clock_fires_what_is_due_by_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    settings = settings_for("leveldb", tmp_path)
    async with Skyring(settings, transports=[Recorder], clock=clock) as sky:
        for hour in range(1, 6):
            await sky.timers.create(timeout=hour * HOUR_MS, callback=to(), id=f"hour-{hour}")
    recorder = Recorder()
    clock.jump(3 * HOUR_MS)
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await recorder.wait_for("hour-1", "hour-2", "hour-3")
        assert [timer["id"] for timer in (await sky.timers.list()).timers][-2:] == [
            "hour-4",
            "hour-5",
        ]
    assert len(recorder.begun) == 3
    assert_none_early(recorder)


# Requests that are given up


TURNS = [*range(12), *range(12, 200, 4)]
"""Turns of the event loop after which requests are given up: before, while and after they write."""


async def give_up(work: Coroutine[Any, Any, Any], turns: int) -> None:
    """Cancel a request after some turns of the event loop, as when its client is gone."""
    task = asyncio.create_task(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def warm_up(sky: Skyring, clock: ManualClock, recorder: Recorder) -> None:
    """Until the one slot has been read ahead: what is not pushed from now on is lost."""
    await sky.timers.create(timeout=1, callback=to(), id="warm-up")
    clock.advance(1)
    await recorder.wait_for("warm-up")
    await until(sky, lambda: is_gone(sky, "warm-up"))
    recorder.begun.clear()


Change = Callable[[Skyring, str], Coroutine[Any, Any, Any]]


def create(sky: Skyring, timer_id: str) -> Coroutine[Any, Any, Any]:
    return sky.timers.create(timeout=1_000, callback=to(), data=timer_id)


def create_named(sky: Skyring, timer_id: str) -> Coroutine[Any, Any, Any]:
    return sky.timers.create(timeout=1_000, callback=to(), id=timer_id, data=timer_id)


def update(sky: Skyring, timer_id: str) -> Coroutine[Any, Any, Any]:
    return sky.timers.update(timer_id, timeout=1_000, callback=to(), data=timer_id)


@BOTH
@pytest.mark.parametrize("change", [create, create_named, update])
async def test_what_is_stored_fires_even_if_nobody_waited_for_the_answer(
    backend: str, change: Change, tmp_path: Path, clock: ManualClock, recorder: Recorder
) -> None:
    names = [f"turn-{turns}" for turns in TURNS]
    settings = settings_for(backend, tmp_path, slots=1)
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await warm_up(sky, clock, recorder)
        if change is update:
            for name in names:
                await sky.timers.create(timeout=HOUR_MS, callback=to(), id=name)
        for turns, name in zip(TURNS, names, strict=True):
            await give_up(change(sky, name), turns)
        await sky.timers.create(timeout=1_000, callback=to(), data="mark")
        # The mark is durable, and so is whatever was written before it.
        listed = (await sky.timers.list(limit=1_000)).timers
        stored = {timer["data"] for timer in listed if timer["timeout"] == 1_000}
        assert len(stored) > 1, "none was stored: this test tests nothing"
        clock.advance(1_000)
        try:
            await recorder.wait(lambda: stored <= {d.payload.decode() for d in recorder.begun})
        except TimeoutError:
            lost = stored - {delivery.payload.decode() for delivery in recorder.begun}
            pytest.fail(f"stored, but never fired: {sorted(lost)}")
    assert len(recorder.begun) == len(stored)


@BOTH
async def test_a_dead_letter_whose_retry_was_given_up_is_dead_or_fires(
    backend: str, tmp_path: Path, clock: ManualClock
) -> None:
    recorder = Recorder()
    names = [f"turn-{turns}" for turns in TURNS]
    settings = settings_for(backend, tmp_path, slots=1)
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await warm_up(sky, clock, recorder)
        recorder.script = reject
        for name in names:
            await sky.timers.create(timeout=1, callback=to(), id=name)
        clock.advance(1)
        for name in names:
            await dead_letter(sky, name)
        recorder.script = take
        recorder.begun.clear()
        asgi = httpx.ASGITransport(sky.asgi())
        async with httpx.AsyncClient(transport=asgi, base_url="http://x") as api:
            for turns, name in zip(TURNS, names, strict=True):
                await give_up(api.post(f"/dead-letters/{name}/retry"), turns)
        await sky.timers.create(timeout=HOUR_MS, callback=to(), id="mark")
        dead = {letter["id"] for letter in (await sky.timers.dead_letters()).timers}
        again = set(names) - dead
        assert dead, "none was given up before its commit: this test tests too little"
        assert again, "none was retried: this test tests nothing"
        try:
            await recorder.wait_for(*again)
        except TimeoutError:
            pytest.fail(f"pending, but never fired: {sorted(again - set(recorder.ids))}")


@BOTH
async def test_a_cancel_that_was_given_up_is_done_or_not_but_nothing_between(
    backend: str, tmp_path: Path, clock: ManualClock, recorder: Recorder
) -> None:
    async with Skyring(settings_for(backend, tmp_path), transports=[recorder], clock=clock) as sky:
        names = [f"turn-{turns}" for turns in TURNS]
        for turns, name in zip(TURNS, names, strict=True):
            await sky.timers.create(timeout=1_000, callback=to(), id=name)
            await give_up(sky.timers.cancel(name), turns)
        await sky.timers.create(timeout=1_000, callback=to(), id="mark")
        pending = {timer["id"] for timer in (await sky.timers.list()).timers}
        assert 1 < len(pending) <= len(names)
        for name in set(names) - pending:
            with pytest.raises(NotFound):
                await sky.timers.get(name)
        clock.advance(1_000)
        await recorder.wait_for(*pending)
    assert set(recorder.ids) == pending


async def test_a_record_that_comes_between_two_looks_is_no_damage(
    tmp_path: Path, clock: ManualClock, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Its key in the due index comes with it, and is found; the record was looked for before."""
    async with Skyring(settings_for("memory", tmp_path), transports=[recorder], clock=clock) as sky:
        await sky.timers.create(timeout=1_000, callback=to(), id="timer")
        state = sky._node._state
        read, looks = state.read, 0

        async def read_too_early(slot: int, key: bytes) -> bytes | None:
            nonlocal looks
            looks += 1
            return None if looks == 1 else await read(slot, key)

        state.read = read_too_early  # type: ignore[method-assign]
        clock.advance(1_000)
        await recorder.wait_for("timer")
    assert recorder.ids == ["timer"]
    assert "damaged" not in caplog.text
