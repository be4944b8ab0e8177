"""Timers for those who embed Skyring: the operations with plain Python arguments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from skyring.errors import InvalidRequest
from skyring.timers.pages import Page, Pages
from skyring.timers.request import TimerRequest, decode_request, find_defect
from skyring.timers.routed import RoutedTimers
from skyring.timers.service import TimerService
from skyring.transports.base import Callback

__all__ = ["Timers"]


class Timers:
    """What ``POST /timer`` and its siblings do, without HTTP. Errors are those of the service."""

    def __init__(self, service: TimerService | RoutedTimers, pages: Pages) -> None:
        self._service = service
        self._pages = pages

    async def create(
        self,
        *,
        callback: Callback | Mapping[str, Any],
        timeout: int | None = None,
        at: int | str | datetime | None = None,
        data: str | Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> str:
        """Store a timer and return its id; it is durable then.

        Args:
            callback: ``{"transport": …, "method": …, "uri": …}`` and what else the API knows.
            timeout: milliseconds from now; either this or ``at``.
            at: epoch milliseconds, RFC 3339, or an aware datetime.
            data: body of the callback.
            id: an id of your own, which makes the call safe to repeat.

        Raises:
            InvalidRequest, Conflict, Unavailable
        """
        created = await self._service.create(_request(callback, timeout, at, data), id)
        return created.id

    async def update(
        self,
        id: str,
        *,
        callback: Callback | Mapping[str, Any],
        timeout: int | None = None,
        at: int | str | datetime | None = None,
        data: str | Mapping[str, Any] | None = None,
    ) -> None:
        """Replace a pending timer. Arguments as for `create`.

        Raises:
            InvalidRequest, NotFound, DeliveryInProgress, Unavailable
        """
        await self._service.update(id, _request(callback, timeout, at, data))

    async def cancel(self, id: str) -> None:
        """Remove a pending timer: when this returns no delivery of it can begin.

        Raises:
            NotFound, DeliveryInProgress, Unavailable
        """
        await self._service.cancel(id)

    async def get(self, id: str) -> dict[str, Any]:
        """A timer, pending or dead. Raises NotFound."""
        return await self._service.get(id)

    async def list(self, limit: int = 100, cursor: str | None = None) -> Page:
        """A page of pending timers, by the time of their next delivery."""
        return await self._pages.pending(limit, cursor)

    async def dead_letters(self, limit: int = 100, cursor: str | None = None) -> Page:
        """A page of dead letters, by id."""
        return await self._pages.dead_letters(limit, cursor)


def _request(
    callback: Callback | Mapping[str, Any],
    timeout: int | None,
    at: int | str | datetime | None,
    data: str | Mapping[str, Any] | None,
) -> TimerRequest:
    """The same request that HTTP would bring, so that the same checks hold."""
    fields: dict[str, Any] = {"callback": callback, "data": data}
    if timeout is not None:
        fields["timeout"] = timeout
    if at is not None:
        fields["at"] = at.isoformat() if isinstance(at, datetime) else at
    try:
        defect = find_defect(fields)  # the encoder would write null for a number that is none
        if defect is not None:
            raise defect
        body = msgspec.json.encode(fields)
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidRequest(f"cannot be written as JSON: {error}") from error
    return decode_request(body)
