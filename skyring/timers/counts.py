"""What one node has done with timers since its start."""

from __future__ import annotations

from typing import Literal, TypeAlias

from skyring.counting import Histogram

__all__ = ["ChangeKind", "OutcomeName", "TimerCounts"]

ChangeKind: TypeAlias = Literal["create", "update", "cancel"]
OutcomeName: TypeAlias = Literal["delivered", "retried", "dead"]

# Steps of 1, 2, 5: wherever an objective is set, a bound is not far.
LATENESS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
"""Due times are whole milliseconds, so less than one cannot be told. A node with time to spare is
late by one or two; a takeover in a ring takes 2 to 5 s, an election in NATS up to 10 s; what is
later than a minute has waited for a node that was away."""
DURATION_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 15_000, 30_000, 60_000)
"""A receiver nearby answers in a millisecond. 15 s is what an attempt has by default
(``delivery.timeout_ms``): one that was cut off then is in the bucket behind it."""


class TimerCounts:
    """Counters and histograms; whoever does the work adds to them."""

    def __init__(self) -> None:
        self.changes: dict[ChangeKind, int] = {"create": 0, "update": 0, "cancel": 0}
        """Timers changed here, once that was stored."""
        self.outcomes: dict[OutcomeName, int] = {"delivered": 0, "retried": 0, "dead": 0}
        """Attempts that have ended, once that was stored."""
        self.lateness = Histogram(LATENESS_MS)
        """From the time at which an attempt should begin to its beginning."""
        self.duration = Histogram(DURATION_MS)
        """Of attempts."""
