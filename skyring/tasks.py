"""Ending background tasks."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end_tasks"]

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
