"""How rooms count what they do, to be read when somebody asks for the metrics.

Numbers and histograms in plain Python, for one is touched by every request and every delivery. They
know nothing of the format in which they are shown: that is the matter of `skyring.telemetry`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from operator import add
from typing import TypeAlias

__all__ = ["Histogram", "Reading", "Readings"]


class Histogram:
    """Times that something took, counted by their length.

    Args:
        bounds_ms: upper bounds of the buckets, ascending, milliseconds. A bound is part of its
            bucket; what is longer than all of them has a bucket of its own.
    """

    __slots__ = ("bounds_s", "counts", "total_s")

    def __init__(self, bounds_ms: Iterable[float]) -> None:
        self.bounds_s = tuple(bound_ms / 1000 for bound_ms in bounds_ms)
        self.counts = [0] * (len(self.bounds_s) + 1)
        """By bucket; what is in one is in no other."""
        self.total_s = 0.0
        """The sum of all times."""

    def observe(self, seconds: float) -> None:
        """Count one. It takes a sixth of a microsecond, and twice that if it is no float."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.total_s += seconds

    def merge(self, other: Histogram) -> None:
        """Count what another one with the same bounds has counted."""
        assert other.bounds_s == self.bounds_s
        self.counts[:] = map(add, self.counts, other.counts)
        self.total_s += other.total_s

    def copy(self) -> Histogram:
        """As it is now; it changes no more."""
        copied = Histogram(())
        copied.bounds_s = self.bounds_s
        copied.counts = self.counts.copy()
        copied.total_s = self.total_s
        return copied


Reading: TypeAlias = float | Histogram | Mapping[tuple[str, ...], float | Histogram]
"""What one metric shows: a number, a histogram, or one of them for each combination of labels."""
Readings: TypeAlias = Mapping[str, Reading]
"""Readings by the names of their metrics."""
