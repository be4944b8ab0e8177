"""``GET /metrics``: in which format, and its place in the API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from skyring.node import Node

__all__ = ["add_metrics_route", "wants_openmetrics"]

OPENMETRICS, TEXT = "application/openmetrics-text", "text/plain"
VERSIONS = {OPENMETRICS: {"", "1.0.0"}, TEXT: {"", "0.0.4"}}
"""That can be written; "" is any."""
SCHEMA = {"schema": {"type": "string"}}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As they are now; OpenMetrics 1.0 if it is asked for",
        "content": {TEXT: SCHEMA, OPENMETRICS: SCHEMA},
    }
}


def add_metrics_route(router: APIRouter, node: Node) -> None:
    """The metrics of a node, for Prometheus."""

    @router.head(
        "/metrics",
        tags=["health"],
        response_class=Response,
        responses={200: {"description": "The headers of GET"}},
    )
    @router.get("/metrics", tags=["health"], response_class=Response, responses=METRICS)
    async def metrics(request: Request) -> Response:
        """What this node has done and how it stands, in the text format of Prometheus."""
        accept = ",".join(request.headers.getlist("accept"))
        shown = await node.metrics.scrape(as_openmetrics=wants_openmetrics(accept))
        headers = {"content-type": shown.content_type, "vary": "accept"}
        return Response(shown.body, headers=headers)


def wants_openmetrics(accept: str) -> bool:
    """Does a client ask for OpenMetrics by name, and not rather for the older format?

    Args:
        accept: the header, with its weights (RFC 9110, 12.5.1). What cannot be read counts nothing.
    """
    weights = {OPENMETRICS: 0.0, TEXT: 0.0}
    for item in accept.split(","):
        media_type, _, rest = item.lower().partition(";")
        media_type = media_type.strip()
        parameters = dict(_parameters(rest))
        if media_type in weights and parameters.get("version", "") in VERSIONS[media_type]:
            weight = _weight(parameters.get("q", "1"))
            weights[media_type] = max(weights[media_type], weight)
    return 0 < weights[OPENMETRICS] >= weights[TEXT]


def _parameters(text: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in text.split(";"))
    return [(name.strip(), value.strip().strip('"')) for name, _, value in pairs]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
