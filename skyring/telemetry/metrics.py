"""The metrics of one node in the formats of Prometheus.

The rooms count; here their counters are read, and written down. The reading is done on the event
loop and takes some microseconds. The writing, and what is read of ``/proc``, is done on a thread:
with 10,000 connections the system needs ten milliseconds and more to list the open files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from skyring.counting import Histogram, Reading, Readings
from skyring.telemetry.families import FAMILIES, Family

__all__ = ["OPENMETRICS", "TEXT", "Exposition", "Metrics"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Exposition(NamedTuple):
    """All metrics as text."""

    content_type: str
    body: bytes


class Metrics:
    """The metrics of one node: a registry of its own, and the sources that it reads."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], Readings]] = []
        self._collector = _NodeCollector()
        self._registry: CollectorRegistry | None = None
        self._one_at_a_time = asyncio.Lock()

    def add(self, source: Callable[[], Readings]) -> None:
        """Read this as well.

        Args:
            source: gives readings; called on the event loop at each scrape, it must be quick.
        """
        self._sources.append(source)

    async def scrape(self, *, as_openmetrics: bool = False) -> Exposition:
        """All metrics as they are now. Scrapes that come together are done one after the other.

        Args:
            as_openmetrics: in OpenMetrics 1.0; otherwise in the text format 0.0.4.
        """
        async with self._one_at_a_time:
            self._collector.readings = self.read()
            content_type = OPENMETRICS if as_openmetrics else TEXT
            return Exposition(content_type, await asyncio.to_thread(self._write, content_type))

    def read(self) -> Readings:
        """What all sources show now; it changes no more."""
        return {
            name: _still(reading) for source in self._sources for name, reading in source().items()
        }

    def _write(self, content_type: str) -> bytes:
        if self._registry is None:
            self._registry = self._make_registry()
        encode, _ = choose_encoder(content_type)
        return encode(self._registry)

    def _make_registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self._collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry


class _NodeCollector(Collector):
    """Readings as what the library writes."""

    def __init__(self) -> None:
        self.readings: Readings = {}

    def describe(self) -> Iterable[Metric]:
        return [_made(family) for family in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        readings = dict(self.readings)
        for family in FAMILIES:
            yield _filled(_made(family), readings.pop(family.name, {}))
        assert not readings, f"readings of no metric: {sorted(readings)}"


def _still(reading: Reading) -> Reading:
    """As it is now: the rooms go on counting."""
    if isinstance(reading, Histogram):
        return reading.copy()
    if isinstance(reading, Mapping):
        return {
            labels: item.copy() if isinstance(item, Histogram) else item
            for labels, item in reading.items()
        }
    return reading


_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
_CLASSES: Mapping[str, type[_Family]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _made(family: Family) -> _Family:
    return _CLASSES[family.kind](family.name, family.meaning, labels=family.labels)


def _filled(metric: _Family, reading: Reading) -> Metric:
    items = reading if isinstance(reading, Mapping) else {(): reading}
    for labels, item in items.items():
        if isinstance(metric, HistogramMetricFamily):
            assert isinstance(item, Histogram), metric.name
            metric.add_metric(labels, _buckets(item), item.total_s)
        else:
            assert not isinstance(item, Histogram), metric.name
            metric.add_metric(labels, item)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus counts in a bucket what is in those before it too."""
    names = [*map(floatToGoString, histogram.bounds_s), "+Inf"]
    return list(zip(names, accumulate(histogram.counts), strict=True))
