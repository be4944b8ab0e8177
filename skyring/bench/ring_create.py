"""``bench ring create``: creates per second through one node of a ring, beside a node that stands
alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from skyring.bench.create import FAR_MS
from skyring.bench.load import LoadResult, closed_loop, constant
from skyring.bench.process import ServerProcess
from skyring.bench.report import Figure, Report
from skyring.bench.ring_processes import RingCommon, open_ring
from skyring.bench.ring_round import judge, safety_checks
from skyring.bench.ring_stats import at_least, exactly
from skyring.bench.stats import Figures, percentile
from skyring.bench.target import Target, refused, timer_body

__all__ = ["RATIO_MIN", "run"]

RATIO_MIN = {1: 0.6, 3: 0.2}
"""The goals, by the number of servers that keep the log."""
WARM_UP_S = 1.0


def _figures(connections: Sequence[int]) -> list[Figure]:
    found = []
    for count in connections:
        found += [
            Figure(f"ring_{count}_per_s", f"through the ring, {count} connections", "rate"),
            Figure(f"alone_{count}_per_s", "… through a node that stands alone", "rate"),
            Figure(f"ratio_{count}", "… ring / alone", "ratio", headline=True),
            Figure(f"ring_{count}_p50_ms", "… latency p50, ring", "ms"),
            Figure(f"ring_{count}_p99_ms", "… latency p99, ring", "ms"),
            Figure(f"alone_{count}_p50_ms", "… latency p50, alone", "ms"),
        ]
    return [
        *found,
        Figure("not_201", "answers other than 201", total=True),
        Figure("broken", "connections broken", total=True),
    ]


async def run(
    common: RingCommon,
    *,
    rounds: int = 5,
    seconds: float = 5.0,
    connections: Sequence[int] = (64, 256),
    count: int | None = None,
) -> Report:
    """Load the two in turns, each as fast as it answers; the ring through its first node.

    Args:
        seconds: how long each of the two is loaded, in each round and for each ``connections``.
        connections: how many, one figure for each.
        count: requests to each at most; None for no limit but the time.

    Raises:
        BenchError: one of them does not start, or takes no timers.
    """
    body = timer_body(data="bench", timeout_ms=FAR_MS)

    async def load(server: ServerProcess, at_once: int, seconds: float) -> LoadResult:
        target = Target(server.host, server.port)
        source = constant(target.request("/timer", body), count)
        result = await closed_loop(server.host, server.port, at_once, source, seconds)
        if not result.statuses[201]:
            raise refused("POST /timer", result)
        return result

    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="skyring-bench-"))
        alone = await stack.enter_async_context(ServerProcess(Path(directory)))
        ring = await stack.enter_async_context(open_ring(common))
        entry = ring.node("n1").server
        for server in (alone, entry):
            await load(server, min(connections), WARM_UP_S)
        found: list[Figures] = []
        for number in range(rounds):
            figures: Figures = {"not_201": 0, "broken": 0}
            for at_once in connections:
                by_name = {
                    "alone": await load(alone, at_once, seconds),
                    "ring": await load(entry, at_once, seconds),
                }
                _add(figures, by_name, at_once)
            found.append(figures)
            common.progress(f"round {number + 1}/{rounds}: {_told(figures, connections)}")
        parameters = common.parameters() | {"seconds": seconds, "connections": list(connections)}
        report = Report("ring create", parameters, _figures(connections), found)
        goal = RATIO_MIN[common.servers]
        checks = [
            exactly("answers other than 201", 0, report.summary["not_201"]),
            *safety_checks(report, ring),
            *(
                at_least(
                    f"creates/s of the ring, R{common.servers}, against one node alone,"
                    f" {at_once} connections",
                    goal,
                    report.summary[f"ratio_{at_once}"],
                )
                for at_once in connections
            ),
        ]
    return judge(report, checks, common)


def _add(figures: Figures, results: dict[str, LoadResult], at_once: int) -> None:
    for name, result in results.items():
        latencies = sorted(result.latencies_ms)
        figures[f"{name}_{at_once}_per_s"] = round(result.statuses[201] / result.seconds, 1)
        figures[f"{name}_{at_once}_p50_ms"] = round(percentile(latencies, 50), 3)
        figures[f"{name}_{at_once}_p99_ms"] = round(percentile(latencies, 99), 3)
        figures["not_201"] += result.statuses.total() - result.statuses[201]
        figures["broken"] += result.broken
    ratio = figures[f"ring_{at_once}_per_s"] / figures[f"alone_{at_once}_per_s"]
    figures[f"ratio_{at_once}"] = round(ratio, 4)


def _told(figures: Figures, connections: Sequence[int]) -> str:
    return ", ".join(
        f"{figures[f'ring_{at_once}_per_s']:,.0f}/s with {at_once} connections"
        f" ({figures[f'ratio_{at_once}']:.3f} of one node alone)"
        for at_once in connections
    )
