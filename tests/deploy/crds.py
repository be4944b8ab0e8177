"""The objects of the Prometheus operator that the chart makes, as strict JSON schemas.

Written from the API reference of the operator (monitoring.coreos.com/v1). They hold the fields that
the chart uses and no others: one that is misspelt is refused, one that is new has to be added.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMAS"]

DURATION = r"^([0-9]+(ms|s|m|h|d|w|y))+$"
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": kind},
        metadata=_object(["name", "labels"], name=TEXT, labels=TEXTS),
        spec=spec,
    )


RELABELING = _object(
    ["sourceLabels", "targetLabel"],
    sourceLabels=_array({"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}),
    targetLabel={"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
    action={"enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"]},
    regex=TEXT,
    replacement={"type": "string"},
)
ENDPOINT = _object(
    ["port", "path"],
    port=TEXT,
    path={"type": "string", "pattern": "^/"},
    interval={"type": "string", "pattern": DURATION},
    scrapeTimeout={"type": "string", "pattern": DURATION},
    scheme={"enum": ["http", "https"]},
    relabelings=_array(RELABELING),
)
RULE: dict[str, Any] = _object(
    ["alert", "expr", "labels", "annotations"],
    alert=TEXT,
    expr=TEXT,
    labels=TEXTS,
    annotations=TEXTS,
    **{"for": {"type": "string", "pattern": DURATION}},
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "ServiceMonitor": _resource(
        "ServiceMonitor",
        _object(
            ["selector", "endpoints"],
            jobLabel=TEXT,
            selector=_object(["matchLabels"], matchLabels=TEXTS),
            endpoints=_array(ENDPOINT),
        ),
    ),
    "PrometheusRule": _resource(
        "PrometheusRule",
        _object(
            ["groups"], groups=_array(_object(["name", "rules"], name=TEXT, rules=_array(RULE)))
        ),
    ),
}
