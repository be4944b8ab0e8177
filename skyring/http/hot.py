"""The routes that carry the load, in plain ASGI: create, update, cancel, bulk create.

A framework costs more than all the work that is done here (FastAPI with a pydantic body takes four
times as long for a request), so these few stand in front of it. They are described in the OpenAPI
document by `skyring.http.openapi`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from skyring.clock import Clock
from skyring.errors import InvalidRequest, SkyringError, TooLarge, Unavailable, Uncertain
from skyring.http.counts import RequestCounts, RouteCounts
from skyring.http.problems import internal_problem, reply_to_error, status_of
from skyring.http.reply import (
    NO_CONTENT,
    App,
    ClientGone,
    Receive,
    Reply,
    Scope,
    Send,
    content_reply,
    header,
    read_body,
)
from skyring.settings import HttpSettings
from skyring.timers.request import BulkEntry, check_id, decode_entry, decode_request
from skyring.timers.routed import RoutedTimers
from skyring.timers.service import Created, TimerService

__all__ = ["HotRoutes"]

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Scope, Receive], Awaitable[Reply]]

Route: TypeAlias = tuple[Handler, RouteCounts]
"""What answers, and where that is counted."""

NDJSON = b"application/x-ndjson"
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


class HotRoutes:
    """Answers the hot routes and hands everything else to another app.

    Args:
        timers: the operations.
        settings: limits of bodies.
        rest: the app for all other requests.
        counts: where requests are counted.
        clock: says how long they took.
    """

    def __init__(
        self,
        timers: TimerService | RoutedTimers,
        settings: HttpSettings,
        rest: App,
        counts: RequestCounts,
        clock: Clock,
    ) -> None:
        self._timers = timers
        self._settings = settings
        self._rest = rest
        self._monotonic_s = clock.monotonic_s
        self._create_one = (self._create, counts.of("POST", "/timer"))
        self._create_bulk = (self._create_many, counts.of("POST", "/timers"))
        self._update_one = (self._update, counts.of("PUT", "/timer/{timer_id}"))
        self._cancel_one = (self._cancel, counts.of("DELETE", "/timer/{timer_id}"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope) if scope["type"] == "http" else None
        if route is None:
            await self._rest(scope, receive, send)
            return
        handler, counts = route
        began_s = self._monotonic_s()
        try:
            reply = await handler(scope, receive)
        except SkyringError as error:
            if isinstance(error, InvalidRequest) and header(scope, b"upgrade") is not None:
                # The parser hands on no body then: the field at fault is not what is wrong.
                error = InvalidRequest("send the request without the header Upgrade")
            reply = reply_to_error(error)
        except ClientGone:
            return
        except asyncio.CancelledError:
            # Only the end of the event loop does this. Without an answer uvicorn would say 500.
            reply = reply_to_error(Uncertain("the node is stopping; it may be done or not"))
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            reply = internal_problem()
        # Written out, for a call costs as much as a tenth of the whole request.
        status = reply.status
        await send({"type": "http.response.start", "status": status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})
        counts[status].observe(self._monotonic_s() - began_s)

    def _route(self, scope: Scope) -> Route | None:
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root:
            path = path.removeprefix(root)
        method: str = scope["method"]
        if method == "POST":
            if path == "/timer":
                return self._create_one
            if path == "/timers":
                return self._create_bulk
        elif path.startswith("/timer/") and "/" not in path[7:]:
            if method == "DELETE":
                return self._cancel_one
            if method == "PUT":
                return self._update_one
        return None

    async def _create(self, scope: Scope, receive: Receive) -> Reply:
        given = length = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name == b"x-timer-id" and given is None:
                given = value
        body = await read_body(length, receive, self._settings.body_bytes_max)
        timer_id = None if given is None else given.decode("latin-1")
        created = await self._timers.create(decode_request(body), timer_id)
        location = f"{scope.get('root_path', '')}/timer/{created.id}".encode()
        return Reply(201 if created.new else 200, [(b"location", location), NO_CONTENT], b"")

    async def _update(self, scope: Scope, receive: Receive) -> Reply:
        timer_id = _id_of(scope)
        length = header(scope, b"content-length")
        body = await read_body(length, receive, self._settings.body_bytes_max)
        await self._timers.update(timer_id, decode_request(body))
        return Reply(200, [NO_CONTENT], b"")

    async def _cancel(self, scope: Scope, receive: Receive) -> Reply:
        await self._timers.cancel(_id_of(scope))
        return Reply(202, [NO_CONTENT], b"")

    async def _create_many(self, scope: Scope, receive: Receive) -> Reply:
        length = header(scope, b"content-length")
        body = await read_body(length, receive, self._settings.bulk_bytes_max)
        lines = body.lstrip()[:1] != b"[" or header(scope, b"content-type") == NDJSON
        parts = self._split_lines(body) if lines else _split_array(body)
        if len(parts) > self._settings.bulk_entries_max:
            raise TooLarge(
                f"{len(parts)} entries in one request; it may have"
                f" {self._settings.bulk_entries_max}"
            )
        entries = [self._entry(part) for part in parts]
        results = [_result(result) for result in await self._timers.create_many(entries)]
        if lines:
            body = b"".join(msgspec.json.encode(result) + b"\n" for result in results)
            return content_reply(200, NDJSON, body)
        return content_reply(200, b"application/json", msgspec.json.encode(results))

    def _entry(self, part: bytes | msgspec.Raw) -> BulkEntry | SkyringError:
        if len(memoryview(part)) > self._settings.body_bytes_max:
            return TooLarge(f"one entry may have {self._settings.body_bytes_max} bytes")
        try:
            return decode_entry(part)
        except InvalidRequest as error:
            return error

    def _split_lines(self, body: bytes) -> list[bytes | msgspec.Raw]:
        # One more than allowed is enough to know that there are too many.
        entries_max = self._settings.bulk_entries_max
        lines = body.split(b"\n", entries_max + 1)
        if len(lines) == entries_max + 2 and lines[-1].strip():  # it was not taken apart
            raise TooLarge(f"one request may have {entries_max} lines, blank ones among them")
        return [line for line in lines if line.strip()]


def _id_of(scope: Scope) -> str:
    timer_id = str(scope["path"]).rpartition("/")[2]
    check_id(timer_id)
    return timer_id


def _split_array(body: bytes) -> list[bytes | msgspec.Raw]:
    try:
        return list(_decode_array(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not a JSON array: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error


def _result(result: Created | SkyringError) -> dict[str, Any]:
    if isinstance(result, Created):
        return {"id": result.id, "status": 201 if result.new else 200}
    shown: dict[str, Any] = {
        "status": status_of(result),
        "code": result.code,
        "reason": str(result),
    }
    if isinstance(result, InvalidRequest) and result.field:
        shown["field"] = result.field
    if isinstance(result, Unavailable):
        shown["retry_after"] = result.retry_after_s
    return shown
