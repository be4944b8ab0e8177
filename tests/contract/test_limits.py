"""Memory and deliveries at once are bounded, and nothing is lost for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from skyring import Skyring
from skyring.clock import ManualClock
from skyring.settings import DeliverySettings, TimerSettings
from skyring.testing import Gate, Recorder
from tests.contract.recording import nothing_pending, settings_for, to, until

HOUR_MS = 3_600_000
START_MS = ManualClock().now_ms()
BOTH = pytest.mark.parametrize("backend", ["memory", "leveldb"])


async def create_many(sky: Skyring, count: int, *, timeout: int = 1, spread_ms: int = 0) -> None:
    await asyncio.gather(
        *(
            sky.timers.create(
                timeout=timeout + index * spread_ms // count, callback=to(), id=f"timer-{index}"
            )
            for index in range(count)
        )
    )


@BOTH
async def test_deliveries_at_once_to_one_destination(backend: str, tmp_path: Path) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    limits = DeliverySettings(in_flight_per_destination_max=3)
    settings = settings_for(backend, tmp_path, delivery=limits)
    async with Skyring(settings, transports=[recorder]) as sky:
        for index in range(20):
            for uri in ("a", "b"):
                await sky.timers.create(timeout=1, callback=to(uri), id=f"{uri}-{index}")
        await recorder.wait(lambda: recorder.under_way == {"a": 3, "b": 3})
        await sky.timers.create(timeout=1, callback=to("c"), id="c")
        await recorder.wait_for("c")  # a full destination does not hold up the others
        assert recorder.under_way == {"a": 3, "b": 3, "c": 1}
        gate.open()
        await until(sky, lambda: nothing_pending(sky))
    assert (recorder.under_way_max["a"], recorder.under_way_max["b"]) == (3, 3)
    assert len(recorder.ids) == len(set(recorder.ids)) == 41


async def test_deliveries_at_once_in_all(tmp_path: Path) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    limits = DeliverySettings(in_flight_max=5, in_flight_per_destination_max=3)
    settings = settings_for("memory", tmp_path, delivery=limits)
    async with Skyring(settings, transports=[recorder]) as sky:
        for index in range(30):
            callback = to(f"host-{index % 6}")
            await sky.timers.create(timeout=1, callback=callback, id=f"timer-{index}")
        await recorder.wait(lambda: len(recorder.begun) == 5)
        gate.open()
        await until(sky, lambda: nothing_pending(sky))
    assert recorder.under_way_max[""] == 5
    assert len(recorder.ids) == len(set(recorder.ids)) == 30


@BOTH
async def test_more_timers_than_are_held_in_memory(backend: str, tmp_path: Path) -> None:
    clock, recorder = ManualClock(), Recorder()
    settings = settings_for(backend, tmp_path, timers=TimerSettings(scheduled_max=100))
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await create_many(sky, 1_000, timeout=1_000, spread_ms=1_000)
        clock.advance(2_000)
        await recorder.wait(lambda: len(recorder.begun) >= 1_000)
        await until(sky, lambda: nothing_pending(sky))
    assert sorted(recorder.ids) == sorted(f"timer-{index}" for index in range(1_000))
    assert all(delivery.info.attempt == 1 for delivery in recorder.begun)
    assert all(delivery.info.started_ms >= delivery.info.due_ms for delivery in recorder.begun)


@BOTH
async def test_what_is_due_does_not_wait_behind_what_is_not(backend: str, tmp_path: Path) -> None:
    """Memory is full of hints, and the clock stands: only what is due may take its place."""
    clock, recorder = ManualClock(), Recorder()
    limits = TimerSettings(scheduled_max=100)
    async with Skyring(
        settings_for(backend, tmp_path, timers=limits, slots=256),
        transports=[recorder],
        clock=clock,
    ) as sky:
        await create_many(sky, 1_000, timeout=1_000, spread_ms=1_000)
        for due in (50, 400, 1_000):
            clock.advance(999 + due - clock.now_ms() + START_MS)
            await recorder.wait(lambda due=due: len(recorder.begun) >= due)  # type: ignore[misc]
            assert sorted(recorder.ids) == sorted(f"timer-{index}" for index in range(due))


async def test_more_timers_than_are_held_in_memory_after_a_restart(tmp_path: Path) -> None:
    clock, recorder = ManualClock(), Recorder()
    settings = settings_for("leveldb", tmp_path, timers=TimerSettings(scheduled_max=100))
    async with Skyring(settings, transports=[Recorder], clock=clock) as sky:
        await create_many(sky, 1_000, timeout=1_000, spread_ms=HOUR_MS)
    clock.advance(2 * HOUR_MS)
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await recorder.wait(lambda: len(recorder.begun) >= 1_000)
        await until(sky, lambda: nothing_pending(sky))
    assert sorted(recorder.ids) == sorted(f"timer-{index}" for index in range(1_000))


@BOTH
async def test_timers_that_are_put_off_because_their_destination_is_slow(
    backend: str, tmp_path: Path
) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    settings = settings_for(
        backend,
        tmp_path,
        timers=TimerSettings(scheduled_max=100),
        delivery=DeliverySettings(
            in_flight_max=4,
            in_flight_per_destination_max=2,
            backlog_delay_ms=100,
        ),
    )

    async def some_are_put_off() -> bool:
        timers = (await sky.timers.list(limit=1_000)).timers
        return any(timer["next"] > timer["due"] for timer in timers)

    async with Skyring(settings, transports=[recorder]) as sky:
        await create_many(sky, 500)
        await until(sky, some_are_put_off)
        await sky.timers.create(timeout=1, callback=to("elsewhere"), id="elsewhere")
        await recorder.wait_for("elsewhere")  # whose destination has no backlog
        assert len(recorder.begun) == 3
        gate.open()
        await recorder.wait(lambda: len(recorder.begun) >= 501)
        await until(sky, lambda: nothing_pending(sky))
    assert sorted(recorder.ids) == sorted(["elsewhere", *(f"timer-{n}" for n in range(500))])
    for delivery in recorder.begun:
        assert delivery.info.attempt == 1  # to be put off is no failed attempt
        assert delivery.info.started_ms >= delivery.info.due_ms


async def test_a_timer_can_be_cancelled_while_it_is_put_off(tmp_path: Path) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    settings = settings_for(
        "memory",
        tmp_path,
        timers=TimerSettings(scheduled_max=100),
        delivery=DeliverySettings(
            in_flight_per_destination_max=1,
            backlog_delay_ms=3_000,
        ),
    )

    async def put_off() -> list[str]:
        timers = (await sky.timers.list(limit=1_000)).timers
        return [timer["id"] for timer in timers if timer["next"] > timer["due"]]

    async def most_are_put_off() -> bool:
        return len(await put_off()) >= 199

    async with Skyring(settings, transports=[recorder]) as sky:
        await create_many(sky, 300)
        await until(sky, most_are_put_off)
        for timer_id in (later := await put_off()):
            await sky.timers.cancel(timer_id)
        gate.open()
        await until(sky, lambda: nothing_pending(sky))
    assert not set(later) & set(recorder.ids)
    assert len(recorder.ids) == 300 - len(later)
