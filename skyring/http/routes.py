"""The routes that people and dashboards use: single timers, lists, dead letters, health."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import PlainTextResponse

from skyring.errors import InvalidRequest
from skyring.node import Node
from skyring.timers.pages import Page
from skyring.timers.request import AT_MS_MAX, check_id

__all__ = ["build_router"]

TimerId = Annotated[str, Path(description="id of the timer")]
Limit = Annotated[int, Query(ge=1, description="entries on the page")]
Cursor = Annotated[str | None, Query(description="`next` of the page before")]
Moment = Annotated[int | None, Query(ge=0, le=AT_MS_MAX, description="epoch milliseconds")]
PAGE_ENTRIES = 100


def object_schema(**properties: Any) -> dict[str, Any]:
    """The schema of an object; what may be missing has a name that ends with an underscore."""
    return {
        "type": "object",
        "required": [name for name in properties if not name.endswith("_")],
        "properties": {name.rstrip("_"): schema for name, schema in properties.items()},
    }


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TEXT_OR_NULL = {"anyOf": [TEXT, {"type": "null"}]}
TIMER = object_schema(
    id=TEXT,
    state={"type": "string", "enum": ["scheduled", "delivering", "dead", "unreadable"]},
    last_error=TEXT_OR_NULL,
    due_=NUMBER,
    next_=NUMBER,
    created_=NUMBER,
    attempts_=NUMBER,
    timeout_=NUMBER,
    callback_={"type": "object"},
    data_={"anyOf": [TEXT, {"type": "object"}]},
)
PROBLEM_SCHEMA = object_schema(
    type=TEXT, title=TEXT, status=NUMBER, detail=TEXT, code=TEXT, field_=TEXT
)


def _page_schema(name: str) -> dict[str, Any]:
    return object_schema(**{name: {"type": "array", "items": TIMER}, "next": TEXT_OR_NULL})


def _answers(schema: dict[str, Any], media_type: str = "application/json") -> dict[str, Any]:
    return {"description": "As it is now", "content": {media_type: {"schema": schema}}}


PROBLEM: dict[str, Any] = {
    "description": "What is wrong, as a problem document (RFC 9457)",
    "content": {"application/problem+json": {"schema": PROBLEM_SCHEMA}},
    "headers": {
        "x-skyring-reason": {
            "description": "the detail in one line",
            "schema": {"type": "string"},
        }
    },
}
BAD: dict[int | str, dict[str, Any]] = {400: PROBLEM, 503: PROBLEM}
ABSENT: dict[int | str, dict[str, Any]] = {**BAD, 404: PROBLEM}
DONE: dict[int | str, dict[str, Any]] = {**ABSENT, 202: {"description": "Done"}, 409: PROBLEM}


def build_router(node: Node) -> APIRouter:
    """The cold routes of one node."""
    timers, pages, settings = node.service, node.pages, node.settings.http
    router = APIRouter()

    def checked(limit: int) -> int:
        if limit > settings.page_entries_max:
            raise InvalidRequest(f"must be at most {settings.page_entries_max}", "limit")
        return limit

    @router.get("/timer/{timer_id}", tags=["timers"], responses={**ABSENT, 200: _answers(TIMER)})
    async def get_timer(timer_id: TimerId) -> Response:
        """One timer, pending or dead, as it is now."""
        check_id(timer_id)
        return _json(await timers.get(timer_id))

    @router.get(
        "/timers", tags=["timers"], responses={**BAD, 200: _answers(_page_schema("timers"))}
    )
    async def list_timers(
        limit: Limit = PAGE_ENTRIES,
        cursor: Cursor = None,
        due_after: Moment = None,
        due_before: Moment = None,
    ) -> Response:
        """Pending timers by the time of their next delivery."""
        return _page("timers", await pages.pending(checked(limit), cursor, due_after, due_before))

    @router.get(
        "/dead-letters",
        tags=["dead letters"],
        responses={**BAD, 200: _answers(_page_schema("dead_letters"))},
    )
    async def list_dead_letters(limit: Limit = PAGE_ENTRIES, cursor: Cursor = None) -> Response:
        """Timers whose attempts are used up, or that their receiver refused for good."""
        return _page("dead_letters", await pages.dead_letters(checked(limit), cursor))

    @router.post(
        "/dead-letters/{timer_id}/retry",
        status_code=202,
        tags=["dead letters"],
        response_class=Response,
        responses=DONE,
    )
    async def retry_dead_letter(timer_id: TimerId) -> Response:
        """Deliver it again, with all its attempts."""
        check_id(timer_id)
        await pages.retry_dead_letter(timer_id)
        return Response(status_code=202)

    @router.delete(
        "/dead-letters/{timer_id}",
        status_code=202,
        tags=["dead letters"],
        response_class=Response,
        responses=DONE,
    )
    async def delete_dead_letter(timer_id: TimerId) -> Response:
        """Forget it."""
        check_id(timer_id)
        await pages.delete_dead_letter(timer_id)
        return Response(status_code=202)

    @router.get("/ring", tags=["ring"], responses={200: _answers({"type": "object"})})
    async def ring() -> Response:
        """The members of the ring and who holds which slot, as this node sees it."""
        return _json(node.ring())

    @router.get("/ping", tags=["health"], response_class=PlainTextResponse)
    async def ping() -> Response:
        """Is anybody there?"""
        return Response("pong", media_type="text/plain")

    @router.get(
        "/health/live", tags=["health"], responses={200: _answers(object_schema(status=TEXT))}
    )
    async def live() -> Response:
        """Does the process work? If not, restart it."""
        return _json({"status": "live"})

    @router.get(
        "/health/ready",
        tags=["health"],
        responses={
            200: _answers(object_schema(status=TEXT)),
            503: _answers(object_schema(status=TEXT, reason=TEXT)),
        },
    )
    async def ready() -> Response:
        """Should it get requests? If not, leave it alone for now."""
        reason = node.not_ready()
        if reason is None:
            return _json({"status": "ready"})
        return _json({"status": "not ready", "reason": reason}, 503, {"retry-after": "1"})

    return router


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def _page(name: str, page: Page) -> Response:
    return _json({name: page.timers, "next": page.cursor})


def explain_parameters(errors: list[dict[str, Any]]) -> InvalidRequest:
    """FastAPI's list of wrong parameters as one of our errors."""
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return InvalidRequest(str(first["msg"]).lower(), field)
