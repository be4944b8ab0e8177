"""``bench steady``: how late timers are at a steady rate, created and fired at the same time."""

from __future__ import annotations

import random
import secrets

from skyring.bench.load import PacedResult, Planned, paced
from skyring.bench.receiver import Receiver
from skyring.bench.report import Figure, Report
from skyring.bench.stats import Figures, Tally, spread, tally
from skyring.bench.target import Common, CpuMeter, Target, open_target, refused, timer_body

__all__ = ["plan_timers", "run"]

FIGURES = (
    Figure("lateness_p50_ms", "lateness p50", "ms", headline=True),
    Figure("lateness_p99_ms", "lateness p99", "ms", headline=True),
    Figure("lateness_max_ms", "lateness max", "ms"),
    Figure("from_send_p50_ms", "lateness from the request p50", "ms"),
    Figure("from_send_p99_ms", "lateness from the request p99", "ms"),
    Figure("early", "early", total=True),
    Figure("acknowledged", "timers acknowledged", total=True),
    Figure("lost", "lost", total=True),
    Figure("duplicated", "duplicated", total=True),
    Figure("unexpected", "unexpected", total=True),
    Figure("created_per_s", "rate reached", "rate"),
    Figure("create_p50_ms", "latency of a create p50", "ms"),
    Figure("create_p99_ms", "latency of a create p99", "ms"),
    Figure("not_201", "answers other than 201", total=True),
    Figure("broken", "connections broken", total=True),
    Figure("behind_max", "most requests behind the rate"),
    Figure("generator_cpu", "CPU of the load generator", "cpu"),
    Figure("server_cpu", "CPU of the server", "cpu"),
    Figure("receiver_cpu", "CPU of the receiver", "cpu"),
)


def plan_timers(
    target: Target,
    uri: str,
    tag: str,
    count: int,
    timeouts_ms: tuple[int, int],
    seed: random.Random,
) -> list[Planned]:
    """``count`` requests with keys ``{tag}-0`` and so on, time-outs evenly at random in a range."""
    plan = []
    for n in range(count):
        timeout_ms = seed.randint(*timeouts_ms)
        body = timer_body(data=f"{tag}-{n}", uri=uri, timeout_ms=timeout_ms)
        plan.append(Planned(f"{tag}-{n}", timeout_ms, target.request("/timer", body)))
    return plan


async def run(
    common: Common,
    *,
    rate: float = 2_000.0,
    seconds: float = 10.0,
    timeouts_ms: tuple[int, int] = (1_000, 2_000),
    connections: int = 64,
    patience_s: float = 15.0,
    seed: int = 1,
) -> Report:
    """Create timers at ``rate`` per second for ``seconds`` and watch them arrive.

    Args:
        timeouts_ms: least and greatest time-out.
        patience_s: how long to go on when nothing more arrives.

    Raises:
        BenchError: there is no server, or it takes no timers.
    """
    chance = random.Random(seed)
    rounds: list[Figures] = []
    async with open_target(common) as target, Receiver() as receiver:
        for number in range(common.rounds):
            tag = secrets.token_hex(4)
            count = max(round(rate * seconds), 1)
            plan = plan_timers(target, receiver.uri, tag, count, timeouts_ms, chance)
            before = await receiver.count()
            server, catcher = CpuMeter(target.usage), CpuMeter(receiver.usage)
            result = await paced(target.host, target.port, connections, plan, rate)
            shares = {
                "server_cpu": server.share(result.seconds),
                "receiver_cpu": catcher.share(result.seconds),
            }
            if not result.acknowledged:
                raise refused("POST /timer", result)
            wanted = before + len(result.acknowledged)
            await receiver.settled(wanted, patience_s=timeouts_ms[1] / 1000 + patience_s)
            seen = tally(result.acknowledged, await receiver.take())
            rounds.append({**_figures(result, seen), **shares})
            common.progress(
                f"round {number + 1}/{common.rounds}: lateness p50"
                f" {rounds[-1]['lateness_p50_ms']} ms, p99 {rounds[-1]['lateness_p99_ms']} ms,"
                f" {seen.early} early, {seen.lost} lost, {seen.duplicated} duplicated"
            )
    parameters = {"rate": rate, "seconds": seconds, "timeouts_ms": list(timeouts_ms)}
    parameters |= {"connections": connections, "seed": seed}
    report = Report("steady", {"url": target.url, **parameters}, FIGURES, rounds)
    if report.summary["lost"] or report.summary["early"]:
        report.failure = f"{report.summary['lost']} timers lost, {report.summary['early']} early"
    return report


def _figures(result: PacedResult, seen: Tally) -> Figures:
    from_send = spread("from_send", seen.lateness_from_send_ms)
    create = spread("create", result.latencies_ms)
    del from_send["from_send_max_ms"], create["create_max_ms"]
    return {
        **spread("lateness", seen.lateness_ms),
        **from_send,
        "early": seen.early,
        "acknowledged": len(result.acknowledged),
        "lost": seen.lost,
        "duplicated": seen.duplicated,
        "unexpected": seen.unexpected,
        "created_per_s": round(len(result.acknowledged) / result.seconds, 1),
        **create,
        "not_201": result.statuses.total() - result.statuses[201],
        "broken": result.broken,
        "behind_max": result.behind_max,
        "generator_cpu": round(result.generator_cpu, 3),
    }
