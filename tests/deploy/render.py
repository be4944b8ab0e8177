"""Renders the chart with the engine of Helm. A process of its own, for Helm brings Go's runtime.

Reads one JSON object with ``chart``, ``values``, ``name`` and ``namespace``, and writes another:
``manifests`` and what ``helm lint --strict`` has found as ``findings``, or what is wrong as
``error``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python

WARNING = 2


def render(question: dict[str, Any]) -> dict[str, Any]:
    """The manifests of each template, and the warnings and errors of lint."""
    values = question["values"]
    try:
        with helm_python.Chart.load(question["chart"]) as chart:
            chart.validate_schema(values)
            manifests = chart.render(values, name=question["name"], namespace=question["namespace"])
        report = helm_python.lint(question["chart"], values, strict=True)
    except helm_python.HelmError as error:
        return {"error": str(error)}
    found = [each for each in report["messages"] if each["severity"] >= WARNING]
    return {"manifests": manifests, "findings": [*report["errors"], *map(str, found)]}


if __name__ == "__main__":
    json.dump(render(json.load(sys.stdin)), sys.stdout)
