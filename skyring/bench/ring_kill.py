"""``bench ring kill``: kill -9 of a node under load; the others take its timers over."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time

from skyring.bench.errors import BenchError
from skyring.bench.receiver import Receiver
from skyring.bench.report import Figure, Report
from skyring.bench.ring_load import LoadShape, RingLoad, await_deliveries
from skyring.bench.ring_processes import RingCommon, RingProcesses, open_ring
from skyring.bench.ring_round import (
    DELIVERY_FIGURES,
    Round,
    finish,
    judge,
    notes,
    safety_checks,
    tallies,
)
from skyring.bench.ring_stats import Blow, at_most, first_after_ms, first_by_slot_ms, stalled_ms
from skyring.bench.stats import Delivery, Figures, percentile

__all__ = ["run"]

FIRST_S_MAX = 5.0
"""The goal: from the kill to the first timer of the dead node that another one fires, p99."""

FIGURES = (
    *DELIVERY_FIGURES,
    Figure("first_s", "kill until the first timer of the dead node", "s", headline=True),
    Figure("last_slot_s", "… until its last slot has fired", "s"),
    Figure("stalled_s", "longest that a due timer of it waited", "s"),
    Figure("held_s", "kill until all slots are held", "s"),
    Figure("whole_s", "restart until the ring is whole", "s"),
)


async def run(
    common: RingCommon,
    *,
    rounds: int = 30,
    rate: float = 1_000.0,
    kill_after_s: tuple[float, float] = (1.0, 3.0),
    tail_s: float = 2.0,
    timeouts_ms: tuple[int, int] = (100, 10_000),
    bound_s: float = 30.0,
    connections: int = 512,
    seed: int = 1,
) -> Report:
    """Create at ``rate`` through the survivors, kill at a random moment, restart; and again.

    The load goes on through the restart until the ring is whole again. Which node is killed is
    drawn for each round.

    Args:
        rate: creates per second through those that survive, together.
        kill_after_s: earliest and latest moment of the kill.
        tail_s: how long the load goes on when the ring is whole again.
        timeouts_ms: least and greatest time-out.
        bound_s: how long after it is due a timer may take before it is given up.
        connections: to each node.

    Raises:
        BenchError: the ring does not come up, or not again.
    """
    chance = random.Random(seed)
    shape = LoadShape(rate / max(common.nodes - 1, 1), timeouts_ms, connections)
    done: list[Round] = []
    arrived: list[Delivery] = []
    async with open_ring(common) as ring, Receiver() as receiver:
        for number in range(rounds):
            tag = secrets.token_hex(4)
            load = RingLoad(ring.running(), receiver.uri, tag, shape, seed + number)
            each = Round(tag, load)
            async with load:
                await asyncio.sleep(chance.uniform(*kill_after_s))
                victim = chance.choice(sorted(ring.nodes))
                await _kill_and_restart(ring, each, victim, tail_s)
                await load.stop()
            each.pending = await await_deliveries(receiver, load.acknowledged, arrived, bound_s)
            done.append(each)
            common.progress(
                f"round {number + 1}/{rounds}: {victim} killed,"
                f" {len(load.acknowledged):,} acknowledged, {len(each.pending)} not delivered,"
                f" all slots held after {each.figures['held_s']:.2f} s"
            )
        await finish(receiver, arrived)
        parameters = common.parameters() | {"rounds": rounds, "rate": rate, "seed": seed}
        parameters |= {"timeouts_ms": list(timeouts_ms), "connections": connections}
        report = Report("ring kill", parameters, FIGURES, _figures(done, arrived))
        report.notes += notes(done, arrived)
        first = sorted(each["first_s"] for each in report.rounds if each["first_s"] is not None)
        p99 = percentile(first, 99) if len(first) == rounds else None
        checks = [
            *safety_checks(report, ring),
            at_most("kill until the first timer of the dead node, p99", FIRST_S_MAX, p99, "s"),
        ]
    return judge(report, checks, common)


async def _kill_and_restart(ring: RingProcesses, each: Round, victim: str, tail_s: float) -> None:
    view = await ring.view(victim)
    slots = view.held_by(victim)
    if not slots:
        raise BenchError(f"{victim} holds no slots")
    code = await ring.kill(victim)
    each.blows.append(Blow(time.time_ns() / 1e6, slots, view.slots))
    if code != -signal.SIGKILL:
        raise BenchError(f"{victim} had ended by itself with {code}")
    each.figures["held_s"] = round(await ring.taken_over(victim), 3)
    began_s = time.monotonic()
    await ring.restart(victim)
    await ring.whole()
    each.figures["whole_s"] = round(time.monotonic() - began_s, 3)
    await asyncio.sleep(tail_s)


def _figures(rounds: list[Round], arrived: list[Delivery]) -> list[Figures]:
    found = []
    for each, (_, came, figures) in zip(rounds, tallies(rounds, arrived), strict=True):
        blow = each.blows[0]
        by_slot = first_by_slot_ms(came, blow)
        figures |= {
            "first_s": _seconds(first_after_ms(came, blow)),
            "last_slot_s": _seconds(max(by_slot.values(), default=None)),
            "stalled_s": _seconds(stalled_ms(each.load.acknowledged, came, blow)),
        }
        found.append(figures)
    return found


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 3)
