"""What the contract tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from skyring import Settings, Skyring
from skyring.errors import NotFound
from skyring.settings import StorageSettings

WAIT_S_MAX = 20


async def until(sky: Skyring, reached: Callable[[], Awaitable[bool]]) -> None:
    """Until it is true of what the node has stored; fails if it never is, or if the node fails."""
    running = asyncio.create_task(sky.wait())
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while not await reached():
                if running.done():
                    await running
                await asyncio.sleep(0.002)  # nobody is told when something has been stored
    finally:
        running.cancel()
        await asyncio.wait([running])


async def dead_letter(sky: Skyring, timer_id: str) -> dict[str, Any]:
    """A dead letter, which comes to be a moment after its last delivery."""

    async def is_dead() -> bool:
        return bool((await sky.timers.get(timer_id))["state"] == "dead")

    await until(sky, is_dead)
    return await sky.timers.get(timer_id)


async def is_gone(sky: Skyring, timer_id: str) -> bool:
    try:
        await sky.timers.get(timer_id)
    except NotFound:
        return True
    return False


async def nothing_pending(sky: Skyring) -> bool:
    return await sky.timers.list(limit=1) == ([], None)


def to(uri: str = "here", transport: str = "recorder", **more: Any) -> dict[str, Any]:
    """A callback."""
    return {"transport": transport, "method": "give", "uri": uri, **more}


def settings_for(backend: str, path: Path, **more: Any) -> Settings:
    """Settings with this storage."""
    storage = StorageSettings.model_validate({"backend": backend, "path": path})
    return Settings(storage=storage, **{"slots": 16, **more})
