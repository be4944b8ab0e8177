"""``bench create``: how many timers a second, one request each, beside an empty ASGI app."""

from __future__ import annotations

from skyring.bench.load import LoadResult, closed_loop, constant
from skyring.bench.process import HelperProcess
from skyring.bench.report import Figure, Report
from skyring.bench.stats import Figures, spread
from skyring.bench.target import Common, CpuMeter, Target, open_target, refused, timer_body

__all__ = ["run"]

FAR_MS = 2_147_483_647
WARM_UP_S = 0.5

FIGURES = (
    Figure("creates_per_s", "creates", "rate", headline=True),
    Figure("yardstick_per_s", "empty ASGI app", "rate"),
    Figure("ratio", "creates / empty ASGI app", "ratio", headline=True),
    Figure("create_p50_ms", "latency p50", "ms"),
    Figure("create_p99_ms", "latency p99", "ms"),
    Figure("create_max_ms", "latency max", "ms"),
    Figure("yardstick_p50_ms", "empty ASGI app, latency p50", "ms"),
    Figure("yardstick_p99_ms", "empty ASGI app, latency p99", "ms"),
    Figure("not_201", "answers other than 201", total=True),
    Figure("broken", "connections broken", total=True),
    Figure("generator_cpu", "CPU of the load generator", "cpu"),
    Figure("yardstick_generator_cpu", "… against the empty ASGI app", "cpu"),
    Figure("server_cpu", "CPU of the server", "cpu"),
    Figure("yardstick_cpu", "CPU of the empty ASGI app", "cpu"),
)


async def run(
    common: Common, *, connections: int = 64, seconds: float = 5.0, count: int | None = None
) -> Report:
    """Alternate between the yardstick and the server, round by round.

    Args:
        seconds: how long each of the two is loaded in each round.
        count: requests to each at most; None for no limit but the time.

    Raises:
        BenchError: there is no server, or it takes no timers.
    """
    async with (
        open_target(common) as target,
        HelperProcess("skyring.bench.yardstick") as helper,
    ):
        yardstick = Target(helper.host, helper.port)
        body = timer_body(data="bench", timeout_ms=FAR_MS)

        async def load(at: Target, seconds: float, count: int | None) -> LoadResult:
            source = constant(at.request("/timer", body), count)
            return await closed_loop(at.host, at.port, connections, source, seconds)

        warm_up = await load(target, WARM_UP_S, count)
        if not warm_up.statuses[201]:
            raise refused("POST /timer", warm_up)
        await load(yardstick, WARM_UP_S, count)
        rounds: list[Figures] = []
        for number in range(common.rounds):
            meter = CpuMeter(helper.usage)
            plain = await load(yardstick, seconds, count)
            plain_cpu = meter.share(plain.seconds)
            meter = CpuMeter(target.usage)
            served = await load(target, seconds, count)
            figures = _figures(served, plain)
            figures["server_cpu"] = meter.share(served.seconds)
            figures["yardstick_cpu"] = plain_cpu
            rounds.append(figures)
            common.progress(
                f"round {number + 1}/{common.rounds}: {figures['creates_per_s']:,.0f} creates/s,"
                f" {figures['ratio']:.3f} of the empty ASGI app"
            )
    parameters = {"connections": connections, "seconds": seconds, "count": count}
    return Report("create", {"url": target.url, **parameters}, FIGURES, rounds)


def _figures(served: LoadResult, plain: LoadResult) -> Figures:
    creates_per_s = served.statuses[201] / served.seconds
    yardstick_per_s = plain.statuses[201] / plain.seconds
    yardstick = spread("yardstick", plain.latencies_ms)
    del yardstick["yardstick_max_ms"]
    return {
        "creates_per_s": round(creates_per_s, 1),
        "yardstick_per_s": round(yardstick_per_s, 1),
        "ratio": round(creates_per_s / yardstick_per_s, 4) if yardstick_per_s else None,
        **spread("create", served.latencies_ms),
        **yardstick,
        "not_201": served.statuses.total() - served.statuses[201],
        "broken": served.broken,
        "generator_cpu": round(served.generator_cpu, 3),
        "yardstick_generator_cpu": round(plain.generator_cpu, 3),
    }
