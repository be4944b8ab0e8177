"""``bench ring churn``: a further node joins and leaves under load, again and again."""

from __future__ import annotations

import asyncio
import secrets
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
from skyring.bench.ring_stats import at_most, exactly
from skyring.bench.stats import Delivery, spread

__all__ = ["run"]

LATENESS_MS_MAX = 250.0
"""The goal: no delivery is later than this."""
TIMEOUTS_MS = (100, 3_000)

FIGURES = (
    *DELIVERY_FIGURES,
    Figure("failed", "failed requests on the nodes that stay", total=True, headline=True),
    Figure("lateness_p50_ms", "lateness p50", "ms"),
    Figure("lateness_p99_ms", "lateness p99", "ms"),
    Figure("lateness_max_ms", "lateness max", "ms", headline=True),
    Figure("create_p99_ms", "latency of a create p99", "ms"),
    Figure("create_max_ms", "latency of a create max", "ms"),
    Figure("joined_s", "start of the node until the ring is whole", "s"),
    Figure("left_s", "SIGTERM until it has ended", "s"),
    Figure("rest_whole_s", "… until the ring is whole", "s"),
)


async def run(
    common: RingCommon,
    *,
    rounds: int = 30,
    rate: float = 500.0,
    stay_s: float = 1.0,
    timeouts_ms: tuple[int, int] = TIMEOUTS_MS,
    bound_s: float = 30.0,
    connections: int = 64,
    seed: int = 1,
) -> Report:
    """Start one more node under load, and stop it with SIGTERM when it holds its share.

    Args:
        rate: creates per second, through the nodes that stay together.
        stay_s: pause before it joins, before it leaves, and afterwards.
        timeouts_ms: least and greatest time-out.
        bound_s: how long after it is due a timer may take before it is given up.

    Raises:
        BenchError: the ring does not come up, or not again.
    """
    done: list[Round] = []
    arrived: list[Delivery] = []
    shape = LoadShape(rate / common.nodes, timeouts_ms, connections)
    guest = f"n{common.nodes + 1}"
    async with open_ring(common) as ring, Receiver() as receiver:
        staying = ring.running()
        for number in range(rounds):
            tag = secrets.token_hex(4)
            each = Round(tag, RingLoad(staying, receiver.uri, tag, shape, seed + number))
            async with each.load:
                await asyncio.sleep(stay_s)
                await _visit(ring, each, guest, stay_s)
                await asyncio.sleep(stay_s)
                await each.load.stop()
            expected = each.load.acknowledged
            each.pending = await await_deliveries(receiver, expected, arrived, bound_s)
            each.figures["failed"] = each.load.failed([node.name for node in staying])
            latencies = [ms for one in each.load.results.values() for ms in one.latencies_ms]
            create = spread("create", latencies)
            each.figures |= {name: create[name] for name in ("create_p99_ms", "create_max_ms")}
            done.append(each)
            common.progress(
                f"round {number + 1}/{rounds}: {len(expected):,} acknowledged,"
                f" {each.figures['failed']} failed, {len(each.pending)} not delivered"
            )
        await finish(receiver, arrived)
        parameters = common.parameters() | {"rounds": rounds, "rate": rate}
        parameters["timeouts_ms"] = list(timeouts_ms)
        report = Report("ring churn", parameters, FIGURES, [])
        for seen, _, figures in tallies(done, arrived):
            report.rounds.append({**figures, **spread("lateness", seen.lateness_ms)})
        report.notes += notes(done, arrived)
        worst = [figures["lateness_max_ms"] for figures in report.rounds]
        latest = None if None in worst else max(worst)
        checks = [
            exactly("failed requests on the nodes that stay", 0, report.summary["failed"]),
            *safety_checks(report, ring),
            at_most("lateness, max", LATENESS_MS_MAX, latest, "ms"),
        ]
    return judge(report, checks, common)


async def _visit(ring: RingProcesses, each: Round, guest: str, stay_s: float) -> None:
    began_s = time.monotonic()
    await ring.add(guest)
    await ring.whole()
    each.figures["joined_s"] = round(time.monotonic() - began_s, 3)
    await asyncio.sleep(stay_s)
    began_s = time.monotonic()
    code = await ring.stop(guest)
    if code != 0:
        raise BenchError(f"{guest} ended with {code} when it was told to leave")
    each.figures["left_s"] = round(time.monotonic() - began_s, 3)
    await ring.whole()
    each.figures["rest_whole_s"] = round(time.monotonic() - began_s, 3)
