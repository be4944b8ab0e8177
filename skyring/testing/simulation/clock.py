"""The clocks of a simulated machine."""

from __future__ import annotations

from math import ceil

from skyring.clock import Clock
from skyring.testing.simulation.loop import SimulatedLoop

__all__ = ["EPOCH_MS", "SimulatedClock"]

EPOCH_MS = 1_800_000_000_000
"""When simulations begin, epoch milliseconds."""


class SimulatedClock(Clock):
    """Wall and monotonic clock of one machine.

    Args:
        loop: whose time it shows.
        offset_ms: how far its wall clock is ahead of the true time.
        began_s: what its monotonic clock showed at the beginning; it means nothing to others.
        rate: how fast its monotonic clock runs.
    """

    def __init__(
        self, loop: SimulatedLoop, offset_ms: int = 0, began_s: float = 0.0, rate: float = 1.0
    ) -> None:
        self._loop = loop
        self._began_s = began_s
        self._rate = rate
        self.offset_ms = offset_ms
        self.offsets: list[tuple[float, int]] = [(0.0, offset_ms)]
        """Since when the wall clock was how far ahead."""

    def now_ms(self) -> int:
        return EPOCH_MS + self.offset_ms + int(self._loop.time() * 1000)

    def ceil_ms(self) -> int:
        return EPOCH_MS + self.offset_ms + ceil(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        return self._began_s + self._rate * self._loop.time()

    def jump(self, offset_ms: int) -> None:
        """Set the wall clock so far ahead of the true time."""
        self.offset_ms = offset_ms
        self.offsets.append((self._loop.time(), offset_ms))

    def offset_min_ms(self, start_s: float, end_s: float) -> int:
        """The least that it was ahead between two moments."""
        return min(self._offsets_ms(start_s, end_s))

    def offset_max_ms(self, start_s: float, end_s: float) -> int:
        """The most that it was ahead between two moments."""
        return max(self._offsets_ms(start_s, end_s))

    def _offsets_ms(self, start_s: float, end_s: float) -> list[int]:
        found = []
        for index, (since_s, offset_ms) in enumerate(self.offsets):
            next_s = self.offsets[index + 1][0] if index + 1 < len(self.offsets) else end_s + 1
            if since_s <= end_s and next_s >= start_s:
                found.append(offset_ms)
        return found or [self.offset_ms]
