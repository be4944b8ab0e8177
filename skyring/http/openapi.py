"""The OpenAPI document: FastAPI's routes, and the hot ones that stand in front of FastAPI."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from skyring.http.routes import NUMBER, PROBLEM, TEXT, object_schema
from skyring.timers.request import AT_MS_MAX, TIMEOUT_MS_MAX, BulkEntry, TimerRequest

__all__ = ["openapi_document"]

ID_PARAMETER = {
    "name": "timer_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9_][A-Za-z0-9_.:~-]{0,127}$"},
}
LOCATION = {"Location": {"description": "`/timer/{id}` of the timer", "schema": {"type": "string"}}}
EXAMPLE = {
    "timeout": 3000,
    "data": "hello",
    "callback": {"transport": "http", "method": "post", "uri": "http://127.0.0.1:8989/"},
}


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    (request, entry), schemas = msgspec.json.schema_components(
        [TimerRequest, BulkEntry], ref_template="#/components/schemas/{name}"
    )
    for name in ("TimerRequest", "BulkEntry"):
        _refine(schemas[name])
    schemas["BulkEntry"]["properties"]["id"] = ID_PARAMETER["schema"]
    own = [schemas["Callback"]["properties"]["timeout_ms"]]
    own += schemas["RetrySpec"]["properties"].values()
    for number in own:
        number["anyOf"][0]["minimum"] = 1
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)
    known.update(schemas)
    paths = document["paths"]
    for path in paths.values():
        for operation in path.values():
            # FastAPI's own answer to a wrong parameter, which is a 400 here.
            operation["responses"].pop("422", None)
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "timer_id":
                    parameter["schema"] = ID_PARAMETER["schema"]
    paths.setdefault("/timer", {})["post"] = _create(request)
    paths.setdefault("/timers", {})["post"] = _create_many(entry)
    paths.setdefault("/timer/{timer_id}", {})["put"] = _update(request)
    paths.setdefault("/timer/{timer_id}", {})["delete"] = _cancel()
    return document


def _refine(schema: dict[str, Any]) -> None:
    """What the types alone do not say."""
    properties = schema["properties"]
    properties["timeout"] = {
        "type": "integer",
        "minimum": 1,
        "maximum": TIMEOUT_MS_MAX,
        "description": "milliseconds from now; either this or `at`",
    }
    properties["at"] = {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": AT_MS_MAX},
            {"type": "string", "format": "date-time"},
        ],
        "description": "epoch milliseconds or RFC 3339; the past means at once",
    }
    properties["data"] = {
        "anyOf": [{"type": "string"}, {"type": "object"}, {"type": "null"}],
        "description": "body of the callback: text as it is, an object as JSON",
    }
    schema["oneOf"] = [{"required": ["timeout"]}, {"required": ["at"]}]


def _problems(*statuses: int) -> dict[str, Any]:
    return {str(status): PROBLEM for status in (400, *statuses, 503)}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "required": True,
        "content": {"application/json": {"schema": schema, "example": EXAMPLE}},
    }


def _create(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "tags": ["timers"],
        "summary": "Create a timer",
        "operationId": "create_timer",
        "parameters": [
            {
                "name": "x-timer-id",
                "in": "header",
                "required": False,
                "description": "an id of your own, which makes the request safe to repeat",
                "schema": ID_PARAMETER["schema"],
            }
        ],
        "requestBody": _body(request),
        "responses": {
            "201": {"description": "Created, and durable", "headers": LOCATION},
            "200": {"description": "The same timer exists already", "headers": LOCATION},
            **_problems(409, 413),
        },
    }


def _create_many(entry: dict[str, Any]) -> dict[str, Any]:
    result = object_schema(
        id_=TEXT, status=NUMBER, code_=TEXT, reason_=TEXT, field_=TEXT, retry_after_=NUMBER
    )
    results = {"type": "array", "items": result}
    return {
        "tags": ["timers"],
        "summary": "Create many timers",
        "operationId": "create_timers",
        "requestBody": {
            "required": False,  # nothing is NDJSON without a line
            "content": {
                "application/json": {"schema": {"type": "array", "items": entry}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        "responses": {
            "200": {
                "description": "One result per entry, in order",
                "content": {
                    "application/json": {"schema": results},
                    "application/x-ndjson": {"schema": {"type": "string"}},
                },
            },
            **_problems(413),
        },
    }


def _update(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "tags": ["timers"],
        "summary": "Replace a timer",
        "operationId": "update_timer",
        "parameters": [ID_PARAMETER],
        "requestBody": _body(request),
        "responses": {"200": {"description": "Replaced"}, **_problems(404, 409, 413)},
    }


def _cancel() -> dict[str, Any]:
    return {
        "tags": ["timers"],
        "summary": "Cancel a timer",
        "operationId": "cancel_timer",
        "parameters": [ID_PARAMETER],
        "responses": {
            "202": {"description": "Cancelled: no delivery can begin any more"},
            **_problems(404, 409),
        },
    }
