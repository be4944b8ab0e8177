"""What is made of the raw figures. Pure.

Percentiles are nearest-rank: always a value that was measured, never one in between.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["Delivery", "Figures", "Tally", "percentile", "spread", "summarise", "tally"]

Figures = dict[str, Any]
"""Named figures of one round or of all; None where one could not be had."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of an ascending, non-empty sequence."""
    if not ordered:
        raise ValueError("no percentile of nothing")
    if not 0 <= percent <= 100:
        raise ValueError(f"no such percentile: {percent}")
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


def spread(name: str, values: Iterable[float], digits: int = 3) -> Figures:
    """p50, p99 and maximum as ``{name}_p50_ms`` and so on; None for each when there are none."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys((f"{name}_p50_ms", f"{name}_p99_ms", f"{name}_max_ms"))
    return {
        f"{name}_p50_ms": round(percentile(ordered, 50), digits),
        f"{name}_p99_ms": round(percentile(ordered, 99), digits),
        f"{name}_max_ms": round(ordered[-1], digits),
    }


def summarise(rounds: Sequence[Mapping[str, Any]], totals: Collection[str] = ()) -> Figures:
    """One set of figures out of several rounds.

    Medians, except for ``totals``, which are added up: a median would hide that one round of
    three has lost a timer. A figure that some round does not have is None.
    """
    summary: Figures = {}
    for name in rounds[0] if rounds else ():
        values = [figures.get(name) for figures in rounds]
        numbers = [value for value in values if isinstance(value, (int, float))]
        if len(numbers) < len(values):
            summary[name] = None
        else:
            summary[name] = sum(numbers) if name in totals else median(numbers)
    return summary


@dataclass(frozen=True)
class Delivery:
    """One webhook as the receiver saw it."""

    key: str
    """The body: what the benchmark gave the timer as ``data``."""
    timer_id: str
    """Header ``webhook-id``, or "" when there is none."""
    arrived_ms: float
    """Wall clock, epoch milliseconds."""
    due_ms: int | None
    """Header ``webhook-due``: when the server says the timer was due."""
    attempt: int


@dataclass(frozen=True)
class Tally:
    """What became of the timers of a round."""

    delivered: int
    """Expected timers that arrived, each counted once."""
    lost: int
    """Expected timers that did not arrive."""
    duplicated: int
    """Deliveries beyond the first of an expected timer."""
    early: int
    """Deliveries before the time the server names, or before the earliest possible one."""
    unexpected: int
    """Deliveries of timers that were not expected."""
    lateness_ms: list[float]
    """First arrivals minus ``webhook-due``, or minus the earliest time where that is missing."""
    lateness_from_send_ms: list[float]
    """First arrivals minus the earliest time: with the way of the request that created them."""
    first_ms: float | None
    """First arrival, epoch milliseconds; None when nothing arrived."""
    last_ms: float | None
    """Last first arrival of a timer, epoch milliseconds."""


def tally(expected: Mapping[str, float], deliveries: Iterable[Delivery]) -> Tally:
    """Compare what was expected with what arrived.

    Args:
        expected: by key, the earliest time at which the timer may arrive, epoch milliseconds:
            the moment before its request was sent, plus its time-out. The server's own word in
            ``webhook-due`` is not enough to call a delivery punctual.
        deliveries: in any order.
    """
    first: dict[str, Delivery] = {}
    duplicated = early = unexpected = 0
    for delivery in deliveries:
        earliest_ms = expected.get(delivery.key)
        if earliest_ms is None:
            unexpected += 1
            continue
        due_ms = earliest_ms if delivery.due_ms is None else max(earliest_ms, delivery.due_ms)
        early += delivery.arrived_ms < due_ms
        seen = first.get(delivery.key)
        duplicated += seen is not None
        if seen is None or delivery.arrived_ms < seen.arrived_ms:
            first[delivery.key] = delivery
    arrivals = [delivery.arrived_ms for delivery in first.values()]
    return Tally(
        delivered=len(first),
        lost=len(expected) - len(first),
        duplicated=duplicated,
        early=early,
        unexpected=unexpected,
        lateness_ms=[
            each.arrived_ms - (expected[each.key] if each.due_ms is None else each.due_ms)
            for each in first.values()
        ],
        lateness_from_send_ms=[each.arrived_ms - expected[each.key] for each in first.values()],
        first_ms=min(arrivals, default=None),
        last_ms=max(arrivals, default=None),
    )
