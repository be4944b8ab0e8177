"""Ending background tasks, and waiting for an event but not for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

__all__ = ["end_tasks", "wait_for_event"]

CANCEL_AGAIN_S = 0.1


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they have ended; their outcomes are left to be looked at.

    They are cancelled again and again: one cancellation can be swallowed, by a library, or by
    ``asyncio.wait_for`` of Python 3.11 when what it waits for ends at the same moment.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
