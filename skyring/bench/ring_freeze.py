"""``bench ring freeze``: a holder is stopped for several leases, and goes on with an old claim."""

from __future__ import annotations

import asyncio
import random
import secrets
import time

from skyring.bench.errors import BenchError
from skyring.bench.receiver import Receiver
from skyring.bench.report import Check, Figure, Report
from skyring.bench.ring_load import LoadShape, RingLoad, await_deliveries
from skyring.bench.ring_log import LogChecker, LogWatch
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
from skyring.bench.ring_stats import Blow, exactly, first_after_ms
from skyring.bench.stats import Delivery

__all__ = ["run"]

FIGURES = (
    *DELIVERY_FIGURES,
    Figure("first_s", "stop until the first timer of the node", "s", headline=True),
    Figure("held_s", "stop until all slots are held by others", "s"),
    Figure("whole_s", "return until the ring is whole", "s"),
    Figure("claims", "claims in the log", total=True),
    Figure("commits", "commits in the log", total=True),
    Figure("unseen", "gaps in what was read of the log", total=True),
)


async def run(
    common: RingCommon,
    *,
    rounds: int = 20,
    frozen_s: float = 9.0,
    rate: float = 500.0,
    timeouts_ms: tuple[int, int] = (100, 10_000),
    tail_s: float = 2.0,
    bound_s: float = 30.0,
    connections: int = 512,
    seed: int = 1,
) -> Report:
    """Stop the holder of most slots with SIGSTOP under load, let it go on, look into the log.

    Args:
        frozen_s: how long it is stopped; three times ``ring.lease_ms`` by default.
        rate: creates per second, through all nodes together.
        tail_s: how long the load goes on when the ring is whole again.
        bound_s: how long after it is due a timer may take before it is given up.

    Raises:
        BenchError: the ring does not come up, or not again.
    """
    chance = random.Random(seed)
    shape = LoadShape(rate / common.nodes, timeouts_ms, connections)
    done: list[Round] = []
    arrived: list[Delivery] = []
    async with (
        open_ring(common) as ring,
        Receiver() as receiver,
        LogWatch(ring.nats_url, ring.ring) as watch,
    ):
        for number in range(rounds):
            tag = secrets.token_hex(4)
            each = Round(tag, RingLoad(ring.running(), receiver.uri, tag, shape, seed + number))
            before = _counts(watch.checker)
            async with each.load:
                await asyncio.sleep(chance.uniform(1.0, 2.0))
                victim = (await ring.view()).largest()
                await _freeze_and_thaw(ring, each, victim, frozen_s)
                await asyncio.sleep(tail_s)
                await each.load.stop()
            expected = each.load.acknowledged
            each.pending = await await_deliveries(receiver, expected, arrived, bound_s)
            await watch.caught_up()
            for name, count in _counts(watch.checker).items():
                each.figures[name] = count - before[name]
            done.append(each)
            common.progress(
                f"round {number + 1}/{rounds}: {victim} stopped for {frozen_s:g} s,"
                f" {len(expected):,} acknowledged, {len(each.pending)} not delivered,"
                f" {watch.checker.stale} commits of a stale holder"
            )
        await finish(receiver, arrived)
        report = Report("ring freeze", _parameters(common, rounds, frozen_s, rate), FIGURES, [])
        for each, (_, came, figures) in zip(done, tallies(done, arrived), strict=True):
            first_ms = first_after_ms(came, each.blows[0])
            figures["first_s"] = None if first_ms is None else round(first_ms / 1000, 3)
            report.rounds.append(figures)
        report.notes += [*notes(done, arrived), *watch.checker.told]
        checks = [*safety_checks(report, ring), *_log_checks(watch.checker)]
    return judge(report, checks, common)


def _parameters(common: RingCommon, rounds: int, frozen_s: float, rate: float) -> dict[str, object]:
    return common.parameters() | {"rounds": rounds, "frozen_s": frozen_s, "rate": rate}


def _counts(checker: LogChecker) -> dict[str, int]:
    return {
        "claims": checker.entries["claim"],
        "commits": checker.entries["batch"] + checker.entries["snapshot"],
        "unseen": checker.unseen,
    }


def _log_checks(checker: LogChecker) -> list[Check]:
    return [
        exactly("commits accepted from a stale holder", 0, checker.stale),
        exactly("claims whose epoch does not rise", 0, checker.fallen),
        exactly("entries that cannot be read", 0, checker.unreadable),
    ]


async def _freeze_and_thaw(ring: RingProcesses, each: Round, victim: str, frozen_s: float) -> None:
    view = await ring.view(victim)
    slots = view.held_by(victim)
    if not slots:
        raise BenchError(f"{victim} holds no slots")
    await ring.freeze(victim)
    began_s = time.monotonic()
    each.blows.append(Blow(time.time_ns() / 1e6, slots, view.slots))
    try:
        each.figures["held_s"] = round(await ring.taken_over(victim), 3)
        await asyncio.sleep(max(began_s + frozen_s - time.monotonic(), 0.0))
    finally:
        ring.thaw(victim)
    each.figures["whole_s"] = round(await ring.whole(), 3)
