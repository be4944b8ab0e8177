"""Servers that a test makes silent."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

__all__ = ["pause_process", "resume_process"]

WAIT_S_MAX = 20
POLL_S = 0.002


async def pause_process(pid: int) -> None:
    """SIGSTOP, which takes effect some time after it was sent: return when it has. Linux only.

    Raises:
        TimeoutError: it does not.
    """
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(WAIT_S_MAX):
        while not _is_stopped(pid):
            await asyncio.sleep(POLL_S)


def resume_process(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    """Are all its threads?"""
    return all(_state(thread) in "TZX" for thread in Path(f"/proc/{pid}/task").iterdir())


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text().rpartition(") ")[2][0]
    except OSError:  # it has ended meanwhile
        return "X"
