"""``bench scale``: memory and start-up time with very many pending timers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from skyring.bench.bulk import CONTENT_TYPES, created
from skyring.bench.client import Connection
from skyring.bench.errors import BenchError
from skyring.bench.load import closed_loop
from skyring.bench.process import ServerProcess
from skyring.bench.report import Figure, Report
from skyring.bench.stats import Figures, percentile
from skyring.bench.target import NOWHERE, Common, Target, own_server, refused

__all__ = ["run"]

BULK_ENTRIES = 5_000
CONNECTIONS = 2
HOUR_MS = 3_600_000
DUE_MS = (2 * HOUR_MS, 26 * HOUR_MS)
"""Timers are due evenly at random between these times from now."""
CREATE_SECONDS_MAX = 3_600.0
SETTLE_S = 1.0

FIGURES = (
    Figure("memory_bytes", "memory after creation", "bytes", headline=True),
    Figure("memory_peak_bytes", "… at its peak", "bytes"),
    Figure("ready_s", "ready after a restart", "s", headline=True),
    Figure("memory_start_bytes", "memory after the restart", "bytes", headline=True),
    Figure("memory_listed_bytes", "… after the pages were read", "bytes"),
    Figure("memory_start_peak_bytes", "… at its peak", "bytes"),
    Figure("page_p50_ms", "page of GET /timers p50", "ms"),
    Figure("page_max_ms", "page of GET /timers max", "ms"),
    Figure("listed", "timers on these pages"),
    Figure("timers", "pending timers"),
    Figure("created_per_s", "created", "rate"),
    Figure("first_ready_s", "ready after the first start, empty", "s"),
    Figure("stop_s", "time to stop", "s"),
    Figure("disk_bytes", "on disk", "bytes"),
)


async def run(
    common: Common, *, count: int = 1_000_000, pages: int = 20, page_limit: int = 1_000
) -> Report:
    """Create, measure, restart, measure, read some pages. Always on a server of its own.

    Raises:
        BenchError: the server does not start, or does not take the timers.
    """
    rounds: list[Figures] = []
    for number in range(common.rounds):
        async with own_server(common) as server:
            rounds.append(await _round(server, count, pages, page_limit, common))
        figures = rounds[-1]
        common.progress(
            f"round {number + 1}/{common.rounds}: ready after {figures['ready_s']:.2f} s,"
            f" memory {_megabytes(figures['memory_bytes'])} after creation,"
            f" {_megabytes(figures['memory_start_bytes'])} after the restart"
        )
    report = Report(
        "scale", {"count": count, "pages": pages, "page_limit": page_limit}, FIGURES, rounds
    )
    if rounds and rounds[0]["memory_bytes"] is None:
        report.notes.append("memory is not available: it is read from /proc, which only Linux has")
    return report


async def _round(
    server: ServerProcess, count: int, pages: int, page_limit: int, common: Common
) -> Figures:
    first_ready_s = await server.start()
    target = Target(server.host, server.port, server)
    creating_s = await _create(target, count, common)
    await asyncio.sleep(SETTLE_S)
    filled = server.usage()
    began_s = time.monotonic()
    code = await server.stop()
    stop_s = time.monotonic() - began_s
    if code == -9:
        raise BenchError(f"the server did not stop within {stop_s:.0f} s and was killed")
    ready_s = await server.start()
    await asyncio.sleep(SETTLE_S)
    started = server.usage()
    page_ms, listed = await _read_pages(target, pages, page_limit)
    paged = server.usage()
    return {
        "memory_bytes": None if filled is None else filled.memory_bytes,
        "memory_peak_bytes": None if filled is None else filled.memory_peak_bytes,
        "ready_s": round(ready_s, 3),
        "memory_start_bytes": None if started is None else started.memory_bytes,
        "memory_listed_bytes": None if paged is None else paged.memory_bytes,
        "memory_start_peak_bytes": None if paged is None else paged.memory_peak_bytes,
        "page_p50_ms": round(percentile(sorted(page_ms), 50), 3) if page_ms else None,
        "page_max_ms": round(max(page_ms), 3) if page_ms else None,
        "listed": listed,
        "timers": count,
        "created_per_s": round(count / creating_s, 1),
        "first_ready_s": round(first_ready_s, 3),
        "stop_s": round(stop_s, 3),
        "disk_bytes": _disk_bytes(server.storage_path),
    }


async def _create(target: Target, count: int, common: Common) -> float:
    chance = random.Random(count)
    taken = 0

    def requests() -> Iterator[bytes]:
        for at in range(0, count, BULK_ENTRIES):
            now_ms = time.time_ns() // 1_000_000
            # Written by hand: a JSON encoder would take as long as the server does.
            lines = [
                f'{{"at":{now_ms + chance.randint(*DUE_MS)},"data":"{n}","callback":'
                f'{{"transport":"http","method":"post","uri":"{NOWHERE}"}}}}'
                for n in range(at, min(at + BULK_ENTRIES, count))
            ]
            body = "\n".join(lines).encode()
            yield target.request("/timers", body, CONTENT_TYPES["ndjson"])

    def on_answer(status: int, body: bytes) -> None:
        nonlocal taken
        before, taken = taken, taken + (created(body) if status == 200 else 0)
        if taken // 250_000 > before // 250_000:
            common.progress(f"{taken:,} timers created")

    source = requests()
    result = await closed_loop(
        target.host,
        target.port,
        CONNECTIONS,
        lambda: next(source, None),
        CREATE_SECONDS_MAX,
        on_answer,
    )
    if taken < count:
        raise refused(f"{count - taken} of {count} timers", result)
    return result.seconds


async def _read_pages(target: Target, pages: int, limit: int) -> tuple[list[float], int]:
    """Milliseconds for each page from the first on, and how many timers were on them."""
    page_ms: list[float] = []
    listed = 0
    query = f"/timers?limit={limit}"
    path = query
    async with Connection(target.host, target.port) as connection:
        while len(page_ms) < pages:
            began_s = time.perf_counter()
            status, body = await connection.request("GET", path)
            page_ms.append((time.perf_counter() - began_s) * 1000)
            if status != 200:
                raise BenchError(f"the server answered {status} to GET {path}")
            page = json.loads(body)
            listed += len(page["timers"])
            if page["next"] is None:
                break
            path = f"{query}&cursor={quote(str(page['next']), safe='')}"
    return page_ms, listed


def _disk_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _megabytes(value: int | None) -> str:
    return "not available" if value is None else f"{value / 1e6:,.0f} MB"
