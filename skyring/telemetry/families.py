"""The metrics of a node: names, kinds, labels and meanings. docs/metrics.md explains them."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["FAMILIES", "Family"]

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """One metric. What a name ends with says its unit."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


FAMILIES = (
    Family(
        "skyring_build_info",
        "gauge",
        "Always 1; the labels say what runs.",
        ("version", "python"),
    ),
    Family("skyring_ready", "gauge", "1 when /health/ready answers 200, else 0."),
    Family(
        "skyring_operations_total",
        "counter",
        "Timers that this node has changed, as the holder of their slots.",
        ("operation",),
    ),
    Family(
        "skyring_deliveries_total",
        "counter",
        "Attempts that have ended, and whose outcome is stored.",
        ("outcome",),
    ),
    Family(
        "skyring_delivery_lateness_seconds",
        "histogram",
        "From the time at which an attempt should begin to its beginning.",
    ),
    Family(
        "skyring_delivery_duration_seconds",
        "histogram",
        "From the beginning of an attempt to its end.",
    ),
    Family("skyring_deliveries_in_flight", "gauge", "Deliveries under way."),
    Family(
        "skyring_deliveries_waiting",
        "gauge",
        "Timers that are due and wait for a free place.",
    ),
    Family(
        "skyring_timers_scheduled",
        "gauge",
        "Timers of the near future that are held in memory.",
    ),
    Family(
        "skyring_storage_damaged_records_total",
        "counter",
        "Records that could not be read back, and were put aside.",
    ),
    Family(
        "skyring_http_requests_total",
        "counter",
        "Requests that were answered.",
        ("method", "route", "status"),
    ),
    Family(
        "skyring_http_request_duration_seconds",
        "histogram",
        "From the headers of a request to the end of its answer.",
        ("route",),
    ),
    Family(
        "skyring_ring_slots_held",
        "gauge",
        "Slots that this node holds; all of them if it stands alone.",
    ),
    Family(
        "skyring_ring_slots_without_holder",
        "gauge",
        "Slots that nobody holds, as this node sees it.",
    ),
    Family(
        "skyring_ring_members",
        "gauge",
        "Members of the ring by their state, as this node sees it.",
        ("state",),
    ),
    Family(
        "skyring_ring_lease_seconds",
        "gauge",
        "What is left of the lease of this node; 0 if it has none.",
    ),
    Family("skyring_ring_connected", "gauge", "1 while there is a connection to NATS, else 0."),
)
