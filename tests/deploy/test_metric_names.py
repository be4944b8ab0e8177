"""The names that rules and dashboards are held to are those that a node shows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.deploy.metrics import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_they_are_those_of_the_page() -> None:
    """The page is held to a real node by tests/acceptance/test_metrics.py."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| .+ \|$", PAGE.read_text("utf-8"), re.M)
    shown = {name: (kind, labels_of(cell)) for name, kind, cell in rows}
    assert shown == {name: (each.kind, set(each.labels)) for name, each in METRICS.items()}


def labels_of(cell: str) -> set[str]:
    """``labels`` of a row: a name and its values, or several names."""
    names, _, _ = cell.partition(":")
    return set(re.findall(r"`(\w+)`", names))
