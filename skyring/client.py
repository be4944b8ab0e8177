"""A client of the HTTP API.

    async with SkyringClient("http://127.0.0.1:3000") as sky:
        timer_id = await sky.create("http://127.0.0.1:8989/", timeout_ms=5_000, data="hello")

Every refusal of the server is raised as the error of `skyring.errors` that its ``code`` names.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

import httpx
import msgspec
from msgspec import UNSET

from skyring.client_wire import (
    CreateResult,
    NewTimer,
    Timer,
    decode_cursor,
    decode_page,
    decode_results,
    decode_timer,
    decode_timers,
    read,
    refusal,
)
from skyring.errors import ConfigError, InvalidRequest, SkyringError, Unavailable, Uncertain
from skyring.transports.base import Callback, RetrySpec

__all__ = [
    "Callback",
    "CreateResult",
    "NewTimer",
    "RetrySpec",
    "SkyringClient",
    "Timer",
]

LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")
NDJSON = "application/x-ndjson"
JSON = "application/json"
BROKEN = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
Entry = TypeVar("Entry")


class SkyringClient:
    """Talks to one server, over connections that are kept open. Close it, or use ``async with``.

    Args:
        url: such as ``http://127.0.0.1:3000``; a path is a prefix of every route.
        timeout_s: time allowed for connecting and for each wait for the server, seconds.
        transport: what carries the requests; for tests.

    Raises:
        ConfigError: ``url`` is not such a URL.

    Every method raises, besides what it names: `Unavailable` when the server cannot be reached or
    says so, `Uncertain` when it fell silent after a change was sent, `SkyringError` for an answer
    that no error of ours stands for. Reads, and creates with an id of your own, are sent once more
    when a connection breaks; nothing else is.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(f"{url!r} is not a URL such as http://127.0.0.1:3000")
        self.url = url
        # A proxy for the outside world has no way to this machine's own loopback addresses.
        direct = None if transport is not None else dict.fromkeys(LOOPBACK)
        self._http = httpx.AsyncClient(
            base_url=url, timeout=timeout_s, transport=transport, mounts=direct
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def create(
        self,
        callback: Callback | str,
        *,
        timeout_ms: int | None = None,
        at: int | str | None = None,
        data: str | Mapping[str, Any] | msgspec.Raw | None = None,
        id: str | None = None,
    ) -> str:
        """Create a timer and return its id.

        Args:
            callback: where it goes; a bare URI means HTTP POST.
            timeout_ms: milliseconds from now, or
            at: epoch milliseconds or RFC 3339.
            data: sent as it is (a string) or as JSON (a mapping, or JSON as `msgspec.Raw`).
            id: your own id, which makes repeating the call safe.

        Raises:
            InvalidRequest: naming the field at fault.
            Conflict: the id belongs to a timer with other content.
            TooLarge: the body is over the server's maximum.
        """
        content = _encode(_new_timer(callback, timeout_ms, at, data))
        headers = {"content-type": JSON}
        if id is not None:
            headers["x-timer-id"] = _checked(id)
        answer = await self.request(
            "POST", "/timer", content=content, headers=headers, repeatable=id is not None
        )
        location = answer.headers.get("location", "")
        created = unquote(location.rpartition("/")[2])
        if not created:
            raise SkyringError(f"{self.url} answered {answer.status_code} without a location")
        return created

    async def get(self, id: str) -> Timer:
        """One timer.

        Raises:
            NotFound: no pending timer has this id.
        """
        answer = await self.request("GET", _path("timer", id))
        return read(answer, decode_timer)

    async def get_json(self, id: str) -> bytes:
        """One timer as the JSON that the server sent; raises what `get` does."""
        return (await self.request("GET", _path("timer", id))).content

    async def update(
        self,
        id: str,
        callback: Callback | str,
        *,
        timeout_ms: int | None = None,
        at: int | str | None = None,
        data: str | Mapping[str, Any] | msgspec.Raw | None = None,
    ) -> None:
        """Replace a timer, whole; the arguments are those of `create`.

        Raises:
            NotFound: no pending timer has this id.
            DeliveryInProgress: it is being delivered.
            InvalidRequest: naming the field at fault.
        """
        content = _encode(_new_timer(callback, timeout_ms, at, data))
        await self.request(
            "PUT", _path("timer", id), content=content, headers={"content-type": JSON}
        )

    async def cancel(self, id: str) -> None:
        """Cancel a timer: once this returns, it is never delivered.

        Raises:
            NotFound: no pending timer has this id.
            DeliveryInProgress: too late, it is being delivered.
        """
        await self.request("DELETE", _path("timer", id))

    def list(
        self,
        *,
        due_after_ms: int | None = None,
        due_before_ms: int | None = None,
        page_entries: int = 500,
    ) -> AsyncGenerator[Timer, None]:
        """All pending timers by the time of their next attempt, fetched page by page.

        Args:
            due_after_ms: only those due after this, epoch milliseconds.
            due_before_ms: only those due before this, epoch milliseconds.
            page_entries: timers asked for at a time.
        """
        params = {"due_after": due_after_ms, "due_before": due_before_ms, "limit": page_entries}
        return self.pages("/timers", "timers", decode_timers, params)

    def dead_letters(self, *, page_entries: int = 500) -> AsyncGenerator[Timer, None]:
        """All timers whose attempts are used up."""
        params = {"limit": page_entries}
        return self.pages("/dead-letters", "dead_letters", decode_timers, params)

    async def create_many(self, timers: Iterable[NewTimer]) -> Sequence[CreateResult]:
        """Create many timers in one request; the results stand in the same order.

        A refused entry does not touch the others and raises nothing: look at its ``status``.

        Raises:
            TooLarge: more entries or bytes than the server takes at once.
        """
        entries = tuple(timers)
        with_ids = all(entry.id is not UNSET for entry in entries)
        lines = [_encode(entry) for entry in entries]
        return await self.create_lines(lines, repeatable=with_ids)

    async def create_lines(
        self, lines: Sequence[bytes], *, repeatable: bool = False
    ) -> Sequence[CreateResult]:
        """`create_many` for entries that are JSON already, one object without line breaks each.

        Args:
            repeatable: every entry has an id, so that sending them once more is safe.
        """
        if not lines:
            return ()
        answer = await self.request(
            "POST",
            "/timers",
            content=b"\n".join(lines) + b"\n",
            headers={"content-type": NDJSON},
            repeatable=repeatable,
        )
        results = read(answer, decode_results)
        if len(results) != len(lines):
            raise SkyringError(f"{self.url} answered {len(results)} of {len(lines)} entries")
        return results

    async def retry_dead_letter(self, id: str) -> None:
        """Make a dead letter a timer again, due now.

        Raises:
            NotFound: no dead letter has this id.
        """
        await self.request("POST", _path("dead-letters", id) + "/retry")

    async def delete_dead_letter(self, id: str) -> None:
        """Delete a dead letter.

        Raises:
            NotFound: no dead letter has this id.
        """
        await self.request("DELETE", _path("dead-letters", id))

    async def ping(self) -> None:
        """Return when the server answers."""
        await self.request("GET", "/ping")

    async def ready(self) -> bool:
        """Does the server take requests now?"""
        answer = await self._send(self._http.build_request("GET", "/health/ready"), True)
        if answer.is_success or answer.status_code == 503:
            return answer.is_success
        raise refusal(answer)

    async def pages(
        self,
        path: str,
        key: str,
        decode: Callable[[msgspec.Raw], Sequence[Entry]],
        params: Mapping[str, Any],
    ) -> AsyncGenerator[Entry, None]:
        """The entries of a paged route, page after page.

        Args:
            key: name of the list within a page.
            decode: reads that list.
            params: of the query, None being left out; ``cursor`` is filled in.
        """
        query = {name: value for name, value in params.items() if value is not None}
        while True:
            answer = await self.request("GET", path, params=query)
            page = read(answer, decode_page)
            entries, cursor = page.get(key), page.get("next")
            if entries is None or cursor is None:
                raise SkyringError(f"{self.url} sent a page without {key!r} or 'next'")
            for entry in read(answer, decode, entries):
                yield entry
            following = read(answer, decode_cursor, cursor)
            if following is None:
                return
            if following == query.get("cursor"):
                raise SkyringError(f"{self.url} sent the same page twice")
            query["cursor"] = following

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> httpx.Response:
        """Any request, for routes that have no method here; refusals are raised.

        Args:
            repeatable: sending it twice does no harm; a GET always is.
        """
        request = self._http.build_request(
            method, path, params=params, content=content, headers=headers
        )
        answer = await self._send(request, repeatable or method == "GET")
        if not answer.is_success:
            raise refusal(answer)
        return answer

    async def _send(self, request: httpx.Request, repeatable: bool) -> httpx.Response:
        try:
            return await self._http.send(request)
        except httpx.RequestError as error:
            # Mostly a connection that the server closed while it lay idle here.
            broken = isinstance(error, BROKEN)
            if not (repeatable and broken):
                raise self._unanswered(request, error, maybe_done=not _never_sent(error)) from error
        try:
            return await self._http.send(request)
        except httpx.RequestError as error:
            raise self._unanswered(request, error, maybe_done=True) from error

    def _unanswered(
        self, request: httpx.Request, error: httpx.RequestError, *, maybe_done: bool
    ) -> Unavailable:
        """What a request without an answer means for the one who made it."""
        what = "no server can be reached at" if _never_sent(error) else "there is no answer from"
        message = f"{what} {self.url} ({_root_cause(error)})"
        if maybe_done and request.method != "GET":
            return Uncertain(f"{message}; the request may have been carried out or not")
        return Unavailable(message)


def _never_sent(error: httpx.RequestError) -> bool:
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _root_cause(error: BaseException) -> str:
    """What the system said, below the layers that only say that something failed."""
    reason = str(error) or type(error).__name__
    for _ in range(10):
        below = error.__cause__ or error.__context__
        if below is None:
            break
        error = below
        if isinstance(error, OSError) and error.errno is not None:
            # asyncio puts words of its own into strerror; failed look-ups of names count down.
            reason = os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return reason


def _new_timer(
    callback: Callback | str,
    timeout_ms: int | None,
    at: int | str | None,
    data: str | Mapping[str, Any] | msgspec.Raw | None,
) -> NewTimer:
    if isinstance(callback, str):
        callback = Callback(transport="http", method="post", uri=callback)
    return NewTimer(
        callback=callback,
        timeout_ms=UNSET if timeout_ms is None else timeout_ms,
        at=UNSET if at is None else at,
        data=UNSET if data is None else data,
    )


def _encode(timer: NewTimer) -> bytes:
    try:
        encoded = msgspec.json.encode(timer)
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidRequest(f"it cannot be written as JSON: {error}") from error
    # Outside strings, where JSON has none, a line break is only white space; NDJSON cannot have it.
    return encoded.replace(b"\n", b" ")


def _path(route: str, id: str) -> str:
    return f"/{route}/{quote(_checked(id), safe='')}"


def _checked(id: str) -> str:
    """Refuse what could not be sent in a URL or a header. The rest is for the server to judge."""
    if not id or id in (".", "..") or not id.isascii() or not id.isprintable():
        raise InvalidRequest(f"{id!r} cannot be the id of a timer", "id")
    return id
