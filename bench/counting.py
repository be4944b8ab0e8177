"""What counting costs: Skyring's own counters against those of prometheus_client.

python bench/counting.py
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from timeit import repeat

import prometheus_client
from prometheus_client import CollectorRegistry

from skyring import Settings
from skyring.counting import Histogram
from skyring.http.counts import DURATION_MS, RouteCounts
from skyring.node import Node
from skyring.settings import StorageSettings

CALLS, ROUNDS = 200_000, 9
BOUNDS_S = [bound_ms / 1000 for bound_ms in DURATION_MS]
SCRAPES = 200


def show(name: str, call: Callable[[], object]) -> None:
    """The best round, without what the call itself costs."""
    empty_s = min(repeat(lambda: None, number=CALLS, repeat=ROUNDS))
    took_s = min(repeat(call, number=CALLS, repeat=ROUNDS))
    print(f"{name:48} {(took_s - empty_s) / CALLS * 1e9:7.0f} ns")


def counting() -> None:
    """One observation, one request."""
    registry = CollectorRegistry()
    histogram = prometheus_client.Histogram("a", "a", buckets=BOUNDS_S, registry=registry)
    counter = prometheus_client.Counter("b", "b", ["method", "route", "status"], registry=registry)
    child = counter.labels("POST", "/timer", "201")
    own, route = Histogram(DURATION_MS), RouteCounts()
    show("Skyring: observe", lambda: own.observe(0.0019))
    show("Skyring: find the status and observe", lambda: route[201].observe(0.0019))
    show("prometheus_client: Histogram.observe", lambda: histogram.observe(0.0019))
    show("prometheus_client: Counter.inc", child.inc)
    show(
        "prometheus_client: Counter.labels().inc",
        lambda: counter.labels("POST", "/timer", "201").inc(),
    )


async def scraping() -> None:
    """One scrape, and the part of it for which the event loop stands still."""
    node = Node(Settings(storage=StorageSettings(backend="memory")))
    metrics = node.metrics
    await node.start()
    for as_openmetrics in (False, True):
        await metrics.scrape(as_openmetrics=as_openmetrics)
        began_s = perf_counter()
        for _ in range(SCRAPES):
            await metrics.scrape(as_openmetrics=as_openmetrics)
        took_ms = (perf_counter() - began_s) / SCRAPES * 1000
        print(f"scrape, {'OpenMetrics' if as_openmetrics else 'text':40} {took_ms:7.2f} ms")
    began_s = perf_counter()
    for _ in range(SCRAPES):
        metrics.read()
    print(f"{'… of it on the event loop':48} {(perf_counter() - began_s) / SCRAPES * 1e6:7.0f} µs")
    await node.stop()


if __name__ == "__main__":
    counting()
    asyncio.run(scraping())
