"""The event loop of the simulator, and the processes in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import skyring.testing.simulation.loop as loop_module
from skyring.testing.simulation.loop import Deadlock, Process, SimulatedLoop, current_process


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    loop = SimulatedLoop()
    yield loop
    loop.end()


def test_time_passes_when_there_is_nothing_else_to_do(loop: SimulatedLoop) -> None:
    async def sleep() -> float:
        await asyncio.gather(asyncio.sleep(1e6), asyncio.sleep(3e6))
        return loop.time()

    assert loop.run_until_complete(sleep()) == 3e6


def test_what_is_due_comes_in_the_order_of_time_and_then_of_its_making(loop: SimulatedLoop) -> None:
    seen: list[str] = []

    async def play() -> None:
        loop.call_later(2, seen.append, "c")
        loop.call_later(1, seen.append, "a")
        loop.call_later(1, seen.append, "b")
        loop.call_later(1.5, seen.append, "cancelled").cancel()
        await asyncio.sleep(3)

    loop.run_until_complete(play())
    assert seen == ["a", "b", "c"]


def test_time_outs_are_those_of_asyncio(loop: SimulatedLoop) -> None:
    async def play() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        return loop.time()

    assert loop.run_until_complete(play()) == 5


def test_when_everybody_waits_for_ever_it_says_so(loop: SimulatedLoop) -> None:
    waiting = loop.create_task(asyncio.Event().wait())
    with pytest.raises(Deadlock):
        loop.run_until_complete(waiting)
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]


async def _count(seen: list[float], loop: SimulatedLoop) -> None:
    while True:
        seen.append(loop.time())
        await asyncio.sleep(1)


def test_a_killed_process_does_nothing_any_more(loop: SimulatedLoop) -> None:
    seen: list[float] = []
    process = Process("p", loop)
    process.spawn(_count(seen, loop))

    async def play() -> None:
        await asyncio.sleep(2.5)
        process.kill()
        await asyncio.sleep(10)

    loop.run_until_complete(play())
    process.forget()
    assert seen == [0, 1, 2]


def test_a_stalled_process_goes_on_where_it_was(loop: SimulatedLoop) -> None:
    seen: list[float] = []
    process = Process("p", loop)
    process.spawn(_count(seen, loop))

    async def play() -> None:
        await asyncio.sleep(1.5)
        process.stall()
        await asyncio.sleep(10)
        process.resume()
        await asyncio.sleep(2)
        process.kill()

    loop.run_until_complete(play())
    process.forget()
    assert seen == [0, 1, 11.5, 12.5]


def test_what_a_process_begins_is_a_part_of_it(loop: SimulatedLoop) -> None:
    seen: list[str | None] = []

    def note() -> None:
        process = current_process()
        seen.append(None if process is None else process.name)

    async def inner() -> None:
        note()

    async def outer() -> None:
        loop.call_soon(note)
        loop.call_later(1, note)
        loop.later(2, note)
        await asyncio.create_task(inner())

    process = Process("p", loop)

    async def play() -> None:
        await process.spawn(outer())
        note()
        await asyncio.sleep(3)

    loop.run_until_complete(play())
    assert seen == ["p", "p", None, "p", None]


def test_one_who_waits_for_a_process_is_not_killed_with_it(loop: SimulatedLoop) -> None:
    async def play() -> bool:
        process = Process("p", loop)
        task = process.spawn(asyncio.sleep(5))
        loop.later(1, process.kill)
        done, _ = await asyncio.wait([task], timeout=60)
        process.forget()
        return bool(done)

    assert loop.run_until_complete(play()) is False
    assert loop.time() == 60


def test_an_error_that_nobody_catches_is_kept(loop: SimulatedLoop) -> None:
    async def play() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    loop.run_until_complete(play())
    assert [type(told["exception"]) for told in loop.errors] == [ZeroDivisionError]


def test_what_would_use_a_thread_is_done_at_once(loop: SimulatedLoop) -> None:
    async def play() -> int:
        return await asyncio.to_thread(lambda: 7)

    assert loop.run_until_complete(play()) == 7


def test_who_lets_no_time_pass_is_stopped(
    loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "CALLS_AT_ONCE_MAX", 1_000)

    def again() -> None:
        loop.call_soon(again)

    async def spin() -> None:
        await asyncio.sleep(7)
        loop.call_soon(again)
        await asyncio.sleep(1)

    with pytest.raises(Deadlock, match=r"at 7\.000 s something is done for ever"):
        loop.run_until_complete(spin())


def test_much_may_be_done_as_time_passes(
    loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "CALLS_AT_ONCE_MAX", 100)

    async def work() -> None:
        for _ in range(1_000):
            await asyncio.sleep(0.001)

    loop.run_until_complete(work())
