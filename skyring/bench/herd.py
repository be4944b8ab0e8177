"""``bench herd``: many timers due at one instant."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator

from skyring.bench.bulk import CONTENT_TYPES, bulk_body, created
from skyring.bench.errors import BenchError
from skyring.bench.load import closed_loop
from skyring.bench.receiver import Receiver
from skyring.bench.report import Figure, Report
from skyring.bench.stats import Figures, spread, tally
from skyring.bench.target import Common, CpuMeter, Target, open_target, refused, timer_body

__all__ = ["run"]

BULK_ENTRIES = 5_000
CREATE_SECONDS_MAX = 300.0
LINGER_S = 1.0
MARGIN_MS = 300
"""All timers must be acknowledged this long before they are due."""

FIGURES = (
    Figure("delivered_per_s", "delivered, from due instant", "rate", headline=True),
    Figure("first_to_last_per_s", "… from first arrival", "rate"),
    Figure("first_after_ms", "first arrival, after due", "ms"),
    Figure("last_after_ms", "last arrival, after due", "ms"),
    Figure("created", "timers", total=True),
    Figure("delivered", "delivered", total=True),
    Figure("lost", "lost", total=True),
    Figure("duplicated", "duplicated", total=True),
    Figure("early", "early", total=True),
    Figure("unexpected", "unexpected", total=True),
    Figure("lateness_p50_ms", "lateness p50", "ms"),
    Figure("lateness_p99_ms", "lateness p99", "ms"),
    Figure("server_cpu", "CPU of the server, firing", "cpu"),
    Figure("receiver_cpu", "CPU of the receiver, firing", "cpu"),
)


async def run(
    common: Common,
    *,
    count: int = 20_000,
    ahead_s: float | None = None,
    patience_s: float = 30.0,
    bulk: bool = True,
    connections: int = 64,
) -> Report:
    """Create ``count`` timers for one instant and watch them arrive.

    Args:
        ahead_s: how far ahead the instant is; None leaves ample time to create them.
        patience_s: how long to go on when nothing more arrives.
        bulk: POST /timers with ``at``; otherwise POST /timer with ``timeout``.

    Raises:
        BenchError: there is no server, or it does not take all timers in time.
    """
    if ahead_s is None:
        ahead_s = round(2.0 + count / (20_000 if bulk else 3_000), 1)
    rounds: list[Figures] = []
    async with open_target(common) as target, Receiver() as receiver:
        for number in range(common.rounds):
            herd = _Herd(target, receiver, count, ahead_s)
            if bulk:
                await herd.create_bulk(min(connections, 4))
            else:
                await herd.create_singly(connections)
            rounds.append(await herd.watch(patience_s))
            common.progress(
                f"round {number + 1}/{common.rounds}:"
                f" {rounds[-1]['delivered_per_s'] or 0:,.0f} delivered/s,"
                f" {rounds[-1]['lost']} lost, {rounds[-1]['duplicated']} duplicated"
            )
    report = Report(
        "herd",
        {"url": target.url, "count": count, "ahead_s": ahead_s, "bulk": bulk},
        FIGURES,
        rounds,
    )
    if report.summary["lost"] or report.summary["early"]:
        report.failure = f"{report.summary['lost']} timers lost, {report.summary['early']} early"
    return report


class _Herd:
    """The timers of one round."""

    def __init__(self, target: Target, receiver: Receiver, count: int, ahead_s: float) -> None:
        self._target = target
        self._receiver = receiver
        self._count = count
        self._ahead_ms = int(ahead_s * 1000)
        self._tag = secrets.token_hex(4)
        self._due_ms = 0
        self._expected: dict[str, float] = {}

    async def create_bulk(self, connections: int) -> None:
        """Entries have ``at``, so all are due at exactly one instant."""
        self._due_ms = time.time_ns() // 1_000_000 + self._ahead_ms
        keys = [f"{self._tag}-{n}" for n in range(self._count)]
        self._expected = dict.fromkeys(keys, float(self._due_ms))
        taken = 0

        def requests() -> Iterator[bytes]:
            for at in range(0, self._count, BULK_ENTRIES):
                entries = [
                    timer_body(data=key, uri=self._receiver.uri, at_ms=self._due_ms)
                    for key in keys[at : at + BULK_ENTRIES]
                ]
                body = bulk_body(entries)
                yield self._target.request("/timers", body, CONTENT_TYPES["ndjson"])

        def on_answer(status: int, body: bytes) -> None:
            nonlocal taken
            taken += created(body) if status == 200 else 0

        await self._create(requests(), connections, on_answer)
        self._check(taken)

    async def create_singly(self, connections: int) -> None:
        """Each has the ``timeout`` that leads to the instant, to the millisecond or just after."""
        self._due_ms = time.time_ns() // 1_000_000 + self._ahead_ms
        taken = 0

        def requests() -> Iterator[bytes]:
            for n in range(self._count):
                now_ms = time.time_ns() / 1e6
                timeout_ms = max(int(self._due_ms - now_ms), 1)
                key = f"{self._tag}-{n}"
                self._expected[key] = now_ms + timeout_ms
                body = timer_body(data=key, uri=self._receiver.uri, timeout_ms=timeout_ms)
                yield self._target.request("/timer", body)

        def on_answer(status: int, body: bytes) -> None:
            nonlocal taken
            taken += status == 201

        await self._create(requests(), connections, on_answer)
        self._check(taken)

    async def _create(
        self,
        requests: Iterator[bytes],
        connections: int,
        on_answer: Callable[[int, bytes], None],
    ) -> None:
        target = self._target
        result = await closed_loop(
            target.host,
            target.port,
            connections,
            lambda: next(requests, None),
            CREATE_SECONDS_MAX,
            on_answer,
        )
        if result.refusal is not None or result.broken:
            raise refused("some of the timers", result)

    def _check(self, taken: int) -> None:
        if taken < self._count:
            raise BenchError(f"the server took only {taken} of {self._count} timers")
        if time.time_ns() // 1_000_000 > self._due_ms - MARGIN_MS:
            raise BenchError(
                f"creating the timers took longer than {self._ahead_ms / 1000:g} s;"
                " give more time with --ahead"
            )

    async def watch(self, patience_s: float) -> Figures:
        """Wait for the instant, then for the deliveries; the figures."""
        before = await self._receiver.count()
        await asyncio.sleep(max(self._due_ms / 1000 - time.time(), 0.0))
        server, receiver = CpuMeter(self._target.usage), CpuMeter(self._receiver.usage)
        await self._receiver.settled(before + self._count, patience_s=patience_s, linger_s=0.0)
        watched_s = time.time() - self._due_ms / 1000
        shares = {"server_cpu": server.share(watched_s), "receiver_cpu": receiver.share(watched_s)}
        await asyncio.sleep(LINGER_S)  # for deliveries that should not be
        seen = tally(self._expected, await self._receiver.take())
        lateness = spread("lateness", seen.lateness_ms)
        figures: Figures = dict.fromkeys(
            ("delivered_per_s", "first_to_last_per_s", "first_after_ms", "last_after_ms")
        )
        if seen.first_ms is not None and seen.last_ms is not None:
            figures = {
                "delivered_per_s": _rate(seen.delivered, seen.last_ms - self._due_ms),
                "first_to_last_per_s": _rate(seen.delivered, seen.last_ms - seen.first_ms),
                "first_after_ms": round(seen.first_ms - self._due_ms, 3),
                "last_after_ms": round(seen.last_ms - self._due_ms, 3),
            }
        return {
            **figures,
            "created": len(self._expected),
            "delivered": seen.delivered,
            "lost": seen.lost,
            "duplicated": seen.duplicated,
            "early": seen.early,
            "unexpected": seen.unexpected,
            "lateness_p50_ms": lateness["lateness_p50_ms"],
            "lateness_p99_ms": lateness["lateness_p99_ms"],
            **shares,
        }


def _rate(count: int, milliseconds: float) -> float | None:
    return round(count * 1000 / milliseconds, 1) if milliseconds > 0 else None
