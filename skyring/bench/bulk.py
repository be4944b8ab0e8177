"""``bench bulk``: how many timers a second through POST /timers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from skyring.bench.create import FAR_MS
from skyring.bench.errors import BenchError
from skyring.bench.load import LoadResult, closed_loop, constant
from skyring.bench.report import Figure, Report
from skyring.bench.stats import Figures, spread
from skyring.bench.target import Common, CpuMeter, Target, open_target, refused, timer_body

__all__ = ["Shape", "bulk_body", "created", "run"]

Shape = Literal["ndjson", "array"]

CONTENT_TYPES: dict[Shape, str] = {"ndjson": "application/x-ndjson", "array": "application/json"}

FIGURES = (
    Figure("timers_per_s", "timers", "rate", headline=True),
    Figure("request_p50_ms", "latency of a request p50", "ms"),
    Figure("request_p99_ms", "latency of a request p99", "ms"),
    Figure("request_max_ms", "latency of a request max", "ms"),
    Figure("timers", "timers created", total=True),
    Figure("refused", "entries refused", total=True),
    Figure("not_200", "answers other than 200", total=True),
    Figure("broken", "connections broken", total=True),
    Figure("generator_cpu", "CPU of the load generator", "cpu"),
    Figure("server_cpu", "CPU of the server", "cpu"),
)

_CREATED = re.compile(rb'"status":[ ]?201\b')


def bulk_body(entries: Sequence[bytes], shape: Shape = "ndjson") -> bytes:
    """The body of a POST /timers with ``entries``, each a JSON object."""
    if shape == "ndjson":
        return b"\n".join(entries) + b"\n"
    return b"[" + b",".join(entries) + b"]"


def created(body: bytes) -> int:
    """How many entries of an answer of POST /timers have status 201."""
    return len(_CREATED.findall(body))


async def run(
    common: Common,
    *,
    connections: int = 4,
    entries: int = 5_000,
    count: int = 300_000,
    seconds: float = 10.0,
    shape: Shape = "ndjson",
) -> Report:
    """Send the same bulk over and over, one per connection at a time.

    Args:
        entries: timers in each request.
        count: timers in each round, rounded up to whole requests.
        seconds: no request begins later in a round.

    Raises:
        BenchError: there is no server, or it takes no bulks.
    """
    requests = -(-count // entries)
    async with open_target(common) as target:
        body = bulk_body([timer_body(data="bench", timeout_ms=FAR_MS)] * entries, shape)
        request = target.request("/timers", body, CONTENT_TYPES[shape])
        await _load(target, request, 1, 1, seconds)  # warms up, and fails if nothing is taken
        rounds: list[Figures] = []
        for number in range(common.rounds):
            meter = CpuMeter(target.usage)
            result, timers = await _load(target, request, connections, requests, seconds)
            rounds.append(
                {
                    "timers_per_s": round(timers / result.seconds, 1),
                    **spread("request", result.latencies_ms),
                    "timers": timers,
                    "refused": result.statuses[200] * entries - timers,
                    "not_200": result.statuses.total() - result.statuses[200],
                    "broken": result.broken,
                    "generator_cpu": round(result.generator_cpu, 3),
                    "server_cpu": meter.share(result.seconds),
                }
            )
            common.progress(
                f"round {number + 1}/{common.rounds}: {timers / result.seconds:,.0f} timers/s"
            )
    parameters = {"connections": connections, "entries": entries, "count": count, "shape": shape}
    return Report("bulk", {"url": target.url, **parameters}, FIGURES, rounds)


async def _load(
    target: Target, request: bytes, connections: int, requests: int, seconds: float
) -> tuple[LoadResult, int]:
    timers = 0
    last = b""

    def on_answer(status: int, body: bytes) -> None:
        nonlocal timers, last
        if status == 200:
            timers += created(body)
            last = body

    source = constant(request, requests)
    result = await closed_loop(target.host, target.port, connections, source, seconds, on_answer)
    if timers == 0:
        if last:
            said = last[:200].decode("utf-8", "replace").strip()
            raise BenchError(f"the server refused every entry of POST /timers: {said}")
        raise refused("POST /timers", result)
    return result, timers
