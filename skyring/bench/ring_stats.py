"""What is made of the deliveries of a ring in which something has happened. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from skyring.bench.report import Check
from skyring.bench.stats import Delivery
from skyring.timers.record import timer_slot

__all__ = [
    "Blow",
    "Duplicates",
    "at_most",
    "duplicates",
    "exactly",
    "first_after_ms",
    "first_by_slot_ms",
    "stalled_ms",
]

IN_FLIGHT_MS = 1_000.0
"""A delivery is held to be in flight at the blow if it arrived this long before it or less: it was
made, and its outcome was not committed yet."""
GRACE_MS = 100.0
"""What a node has sent before the blow arrives at most this long after it."""


class Blow(NamedTuple):
    """What befell a node."""

    moment_ms: float
    """Wall clock, epoch milliseconds."""
    slots: Collection[int]
    """The slots that the node held."""
    slots_total: int
    lasts_ms: float = 0.0
    """So long after it, what is delivered may not be committed."""

    def hits(self, timer_id: str) -> bool:
        """Did the node hold the slot of this timer?"""
        return timer_slot(timer_id, self.slots_total) in self.slots


class Duplicates(NamedTuple):
    """Deliveries beyond the first of a timer."""

    in_flight: int
    """The first one was in flight at the blow, and both bear the same ``webhook-id``."""
    elsewhere: list[list[Delivery]]
    """All others, with their first ones."""


def duplicates(
    expected: Collection[str], arrived: Iterable[Delivery], blows: Sequence[Blow]
) -> Duplicates:
    """Which timers came more than once, and was that allowed?"""
    groups: dict[str, list[Delivery]] = {}
    for delivery in arrived:
        if delivery.key in expected:
            groups.setdefault(delivery.key, []).append(delivery)
    in_flight = 0
    elsewhere = []
    for group in groups.values():
        if len(group) < 2:
            continue
        group.sort(key=lambda delivery: delivery.arrived_ms)
        if any(_in_flight(group, blow) for blow in blows):
            in_flight += len(group) - 1
        else:
            elsewhere.append(group)
    return Duplicates(in_flight, elsewhere)


def _in_flight(group: Sequence[Delivery], blow: Blow) -> bool:
    first = group[0]
    return (
        len(group) == 2
        and len({delivery.timer_id for delivery in group}) == 1
        and blow.hits(first.timer_id)
        and -IN_FLIGHT_MS <= first.arrived_ms - blow.moment_ms <= blow.lasts_ms + GRACE_MS
    )


def first_after_ms(arrived: Iterable[Delivery], blow: Blow) -> float | None:
    """From the blow to the first delivery of a timer whose slot the node held, by another one."""
    return min(first_by_slot_ms(arrived, blow).values(), default=None)


def first_by_slot_ms(arrived: Iterable[Delivery], blow: Blow) -> dict[int, float]:
    """For each slot that the node held: from the blow to the first delivery by another node."""
    found: dict[int, float] = {}
    for delivery in arrived:
        after_ms = delivery.arrived_ms - blow.moment_ms
        slot = timer_slot(delivery.timer_id, blow.slots_total)
        if after_ms > GRACE_MS and slot in blow.slots:
            found[slot] = min(after_ms, found.get(slot, after_ms))
    return found


def stalled_ms(
    expected: Mapping[str, float], arrived: Iterable[Delivery], blow: Blow
) -> float | None:
    """How long after the blow, at most, a timer of the node that was due already had to wait."""
    waits = [
        delivery.arrived_ms - max(_due_ms(expected, delivery), blow.moment_ms)
        for delivery in arrived
        if delivery.key in expected
        and blow.hits(delivery.timer_id)
        and delivery.arrived_ms > blow.moment_ms + GRACE_MS
    ]
    return max(waits, default=None)


def _due_ms(expected: Mapping[str, float], delivery: Delivery) -> float:
    return expected[delivery.key] if delivery.due_ms is None else float(delivery.due_ms)


def exactly(label: str, wanted: int, measured: int | None) -> Check:
    """A condition: holds on every machine."""
    return Check(label, f"{wanted:,}", _told(measured, "{:,}"), measured == wanted)


def at_most(label: str, limit: float, measured: float | None, unit: str) -> Check:
    """A goal: a time, which depends on the machine."""
    ok = measured is not None and measured <= limit
    return Check(label, f"≤ {limit:g} {unit}", f"{_told(measured, '{:,.2f}')} {unit}", ok, True)


def at_least(label: str, limit: float, measured: float | None) -> Check:
    """A goal: a ratio of two rates."""
    ok = measured is not None and measured >= limit
    return Check(label, f"≥ {limit:g}", _told(measured, "{:.3f}"), ok, True)


def _told(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
