"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["wait_for"]


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
