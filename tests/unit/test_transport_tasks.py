"""Background tasks end, even those that swallow a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from skyring.transports import end_tasks


async def test_tasks_that_swallow_cancellations_end_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skyring.tasks.CANCEL_AGAIN_S", 0.001)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                swallowed += 1

    async def fails() -> None:
        raise ValueError

    tasks = [asyncio.create_task(work()) for work in (stubborn, fails)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await end_tasks(*tasks)
        await end_tasks()
    assert swallowed == 3
    assert isinstance(tasks[1].exception(), ValueError)
