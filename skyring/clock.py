"""The only object that reads clocks.

Wall-clock time says when a timer is due; monotonic time measures waits. They are never mixed: a
wall clock that is set back must not stall a wait, and one that is set forward must not stretch it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]

BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
"""It counts the time that the machine is asleep."""


class Clock(Protocol):
    """What the rooms are given instead of ``time``."""

    def now_ms(self) -> int:
        """Wall-clock time, epoch milliseconds, rounded down."""

    def ceil_ms(self) -> int:
        """Wall-clock time, epoch milliseconds, rounded up.

        A relative time-out counts from here, so that a timer of 1 ms never fires 0.2 ms after
        its request merely because the request came late in a millisecond.
        """

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back, and counts while the machine is asleep."""

    def monotonic_ms(self) -> int:
        """The same in milliseconds, rounded down."""
        return int(self.monotonic_s() * 1000)


class SystemClock(Clock):
    """The clocks of the machine."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def ceil_ms(self) -> int:
        return -(-time.time_ns() // 1_000_000)

    # Every request and every delivery asks twice: no function of Python stands between.
    monotonic_s = staticmethod(
        time.monotonic if BOOT_CLOCK is None else partial(time.clock_gettime, BOOT_CLOCK)
    )


class ManualClock(Clock):
    """A clock that stands still until a test moves it; wall and monotonic time can part."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._wall_ms = now_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        return self._wall_ms

    def ceil_ms(self) -> int:
        return self._wall_ms

    def monotonic_s(self) -> float:
        return self._monotonic_ms / 1000

    def advance(self, ms: int) -> None:
        """Let ``ms`` milliseconds pass on both clocks."""
        self._wall_ms += ms
        self._monotonic_ms += ms

    def jump(self, ms: int) -> None:
        """Set the wall clock forward or back; monotonic time does not notice."""
        self._wall_ms += ms
