"""The metrics of ``GET /metrics`` that rules and dashboards may use, and their labels."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["METRICS", "OPERATIONS", "OUTCOMES", "STATES", "Metric", "names_in", "series_of"]


class Metric(NamedTuple):
    """One metric of a node, as its kind and its own labels."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...] = ()


OPERATIONS = ("create", "update", "cancel")
OUTCOMES = ("delivered", "retried", "dead")
STATES = ("alive", "suspect", "dead", "leaving", "left", "joining")
METRICS: dict[str, Metric] = {
    "skyring_build_info": Metric("gauge", ("version", "python")),
    "skyring_ready": Metric("gauge"),
    "skyring_operations_total": Metric("counter", ("operation",)),
    "skyring_deliveries_total": Metric("counter", ("outcome",)),
    "skyring_delivery_lateness_seconds": Metric("histogram"),
    "skyring_delivery_duration_seconds": Metric("histogram"),
    "skyring_deliveries_in_flight": Metric("gauge"),
    "skyring_deliveries_waiting": Metric("gauge"),
    "skyring_timers_scheduled": Metric("gauge"),
    "skyring_storage_damaged_records_total": Metric("counter"),
    "skyring_http_requests_total": Metric("counter", ("method", "route", "status")),
    "skyring_http_request_duration_seconds": Metric("histogram", ("route",)),
    "skyring_ring_slots_held": Metric("gauge"),
    "skyring_ring_slots_without_holder": Metric("gauge"),
    "skyring_ring_members": Metric("gauge", ("state",)),
    "skyring_ring_lease_seconds": Metric("gauge"),
    "skyring_ring_connected": Metric("gauge"),
    # Those of prometheus_client.
    "process_cpu_seconds_total": Metric("counter"),
    "process_resident_memory_bytes": Metric("gauge"),
    "process_virtual_memory_bytes": Metric("gauge"),
    "process_open_fds": Metric("gauge"),
    "process_max_fds": Metric("gauge"),
    "process_start_time_seconds": Metric("gauge"),
    "python_gc_collections_total": Metric("counter", ("generation",)),
    "python_gc_objects_collected_total": Metric("counter", ("generation",)),
    "python_gc_objects_uncollectable_total": Metric("counter", ("generation",)),
    "python_info": Metric("gauge", ("implementation", "major", "minor", "patchlevel", "version")),
}
SCRAPED = ("job", "instance", "namespace", "pod")
"""Labels that Prometheus adds."""
VALUES = {"operation": OPERATIONS, "outcome": OUTCOMES, "state": STATES}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
GROUPING = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"


def series_of(metric: str) -> dict[str, set[str]]:
    """The names under which a metric is stored, and the labels of each."""
    kind, labels = METRICS[metric]
    own = {*labels, *SCRAPED}
    if kind != "histogram":
        return {metric: own}
    return {f"{metric}_bucket": {*own, "le"}, f"{metric}_sum": own, f"{metric}_count": own}


def names_in(expression: str) -> set[str]:
    """The names of series in a PromQL expression that is known to be one."""
    bare = re.sub(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'", "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(GROUPING, " ", bare)
    words = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)
    aggregations = {"sum", "max", "min", "avg", "count"}  # which may stand before `by (…)`
    return {word for word in words if word.lower() not in KEYWORDS | aggregations}
