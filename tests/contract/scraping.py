"""What ``/metrics`` says, as the parsers of prometheus_client read it."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from skyring.node import Node

__all__ = ["families", "samples", "scraped"]


def families(text: str) -> list[Metric]:
    """The metrics in either format; fails if a line breaks its rules."""
    parse = parse_openmetrics if text.endswith("# EOF\n") else parse_text
    return list(parse(text))


def samples(text: str) -> dict[str, float]:
    """Values by ``name{label=value,…}``, the labels in the order of their names."""
    return {
        _key(sample.name, sample.labels): sample.value
        for family in families(text)
        for sample in family.samples
    }


async def scraped(node: Node) -> dict[str, float]:
    """The same of a node in this process."""
    return samples((await node.metrics.scrape()).body.decode())


def _key(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name
