"""``bench ring takeover``: the node that holds most of many pending timers is killed."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Iterator
from itertools import islice

from skyring.bench.errors import BenchError
from skyring.bench.receiver import Receiver
from skyring.bench.report import Figure, Report
from skyring.bench.ring_bulk import Entry, count_listed, create_all, keys_in
from skyring.bench.ring_load import await_deliveries
from skyring.bench.ring_processes import RingCommon, RingProcesses, open_ring
from skyring.bench.ring_round import LINGER_S, judge, safety_checks
from skyring.bench.ring_stats import Blow, at_most, duplicates, exactly
from skyring.bench.ring_view import RingView
from skyring.bench.stats import Delivery, Figures, tally
from skyring.timers.record import timer_slot

__all__ = ["run"]

TAKEN_S_MAX = 10.0
"""The goal: all slots claimed, and what is due in them scheduled, so long after the kill."""
DUE_MS = (11 * 60_000, 6 * 3_600_000)
"""The pending timers are due in this range: far beyond what a node holds in memory."""
PROBES_EACH = 2
"""Timers for each slot of the victim that are due at the kill."""
PROBE_AHEAD_MS = 4_000
KILL_BEFORE_MS = 200

FIGURES = (
    Figure("pending", "pending timers"),
    Figure("on_victim", "… of them on the node that is killed", headline=True),
    Figure("held_s", "kill until all slots are held", "s", headline=True),
    Figure("scheduled_s", "… until every slot has fired what was due", "s", headline=True),
    Figure("first_s", "… until the first has", "s"),
    Figure("victim_slots", "slots of the dead node"),
    Figure("probes", "timers that were due at the kill", total=True),
    Figure("lost", "lost", total=True),
    Figure("duplicated", "duplicated otherwise", total=True),
    Figure("in_flight_twice", "duplicated, in flight at the blow", total=True),
    Figure("early", "early", total=True),
    Figure("missing", "pending timers that are not listed afterwards", total=True),
    Figure("whole_s", "restart of the node until the ring is whole", "s"),
    Figure("created_per_s", "created through POST /timers", "rate"),
    Figure("refused", "… answered 503, and sent again"),
)


async def run(
    common: RingCommon,
    *,
    rounds: int = 3,
    count: int = 300_000,
    on_victim: bool = False,
    bound_s: float = 60.0,
    seed: int = 1,
) -> Report:
    """Create ``count`` timers, kill the node that holds most of them, and see when all is held.

    For each slot of that node some timers are due just after the kill: a slot has been claimed and
    scheduled when they arrive. The timers stay from round to round.

    Args:
        on_victim: all of them are in the slots of the node that is killed, and there is one round.
        bound_s: how long what was due at the kill may take before it is given up.

    Raises:
        BenchError: the ring does not come up, or not again.
    """
    chance = random.Random(seed)
    found: list[Figures] = []
    async with open_ring(common) as ring, Receiver() as receiver:
        view = await ring.view()
        slots = view.held_by(view.largest()) if on_victim else frozenset(range(view.slots))
        now_ms = time.time_ns() // 1_000_000
        keys = list(islice(keys_in(f"{secrets.token_hex(4)}-p", slots, view.slots), count))
        entries = (Entry(key, at_ms=now_ms + chance.randint(*DUE_MS)) for key in keys)
        made = await create_all(ring.running(), entries, count, progress=common.progress)
        for number in range(1 if on_victim else rounds):
            figures = await _round(ring, receiver, keys, bound_s)
            figures["missing"] = count - await count_listed(ring.running()[0], count + 1)
            figures["refused"] = made.refused
            figures["created_per_s"] = round(count / made.seconds, 1)
            found.append(figures)
            common.progress(
                f"round {number + 1}: {figures['on_victim']:,} timers on the dead node, all slots"
                f" held after {figures['held_s']:.2f} s, scheduled after"
                f" {figures['scheduled_s']} s, {figures['missing']} missing"
            )
        parameters = common.parameters() | {"count": count, "on_victim": on_victim}
        report = Report("ring takeover", parameters, FIGURES, found)
        held = [figures["held_s"] for figures in found]
        scheduled = [figures["scheduled_s"] for figures in found]
        worst = None if None in scheduled else max(max(held), max(scheduled))
        checks = [
            exactly("pending timers that are not listed afterwards", 0, report.summary["missing"]),
            *safety_checks(report, ring),
            at_most("kill until all is claimed and scheduled, max", TAKEN_S_MAX, worst, "s"),
        ]
    return judge(report, checks, common)


async def _round(
    ring: RingProcesses, receiver: Receiver, keys: list[str], bound_s: float
) -> Figures:
    view = await ring.view()
    victim = _fullest(view, keys)
    slots = view.held_by(victim)
    due_ms = time.time_ns() // 1_000_000 + PROBE_AHEAD_MS
    probes = list(_probes(slots, view.slots))
    entries = [Entry(key, at_ms=due_ms) for key in probes]
    await create_all(ring.running(), entries, len(entries), receiver.uri)
    wait_s = (due_ms - KILL_BEFORE_MS) / 1000 - time.time()
    if wait_s < 0:
        raise BenchError(f"{len(entries)} timers were not created in {PROBE_AHEAD_MS / 1000:g} s")
    await asyncio.sleep(wait_s)
    await ring.kill(victim)
    blow = Blow(time.time_ns() / 1e6, slots, view.slots)
    held_s = await ring.taken_over(victim)
    expected = dict.fromkeys(probes, float(due_ms))
    arrived: list[Delivery] = []
    pending = await await_deliveries(receiver, expected, arrived, bound_s)
    began_s = time.monotonic()
    await ring.restart(victim)
    await ring.whole()
    whole_s = time.monotonic() - began_s
    await asyncio.sleep(LINGER_S)
    arrived += await receiver.take()
    seen = tally(expected, arrived)
    twice = duplicates(expected, arrived, [blow])
    counted = sum(_count(keys, view, victim))
    return {
        "pending": len(keys),
        "on_victim": counted,
        "held_s": round(held_s, 3),
        "scheduled_s": _after_s(seen.last_ms, blow) if not pending else None,
        "first_s": _after_s(seen.first_ms, blow),
        "victim_slots": len(slots),
        "probes": len(probes),
        "lost": seen.lost,
        "duplicated": sum(len(group) - 1 for group in twice.elsewhere),
        "in_flight_twice": twice.in_flight,
        "early": seen.early,
        "whole_s": round(whole_s, 3),
    }


def _after_s(moment_ms: float | None, blow: Blow) -> float | None:
    return None if moment_ms is None else round((moment_ms - blow.moment_ms) / 1000, 3)


def _fullest(view: RingView, keys: list[str]) -> str:
    """The node that holds most of these timers."""
    return max(view.members, key=lambda name: sum(_count(keys, view, name)))


def _count(keys: list[str], view: RingView, node: str) -> Iterator[bool]:
    slots = view.held_by(node)
    return (timer_slot(key, view.slots) in slots for key in keys)


def _probes(slots: frozenset[int], slots_total: int) -> Iterator[str]:
    """So many keys for each of the slots."""
    tag = secrets.token_hex(4)
    for slot in sorted(slots):
        yield from islice(keys_in(f"{tag}-s{slot}", frozenset({slot}), slots_total), PROBES_EACH)
