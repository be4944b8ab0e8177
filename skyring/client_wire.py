"""What travels between the client and a server, and what the server's refusals mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import httpx
import msgspec
from msgspec import UNSET, UnsetType

from skyring import errors
from skyring.errors import InvalidRequest, SkyringError, Unavailable
from skyring.transports.base import Callback

__all__ = [
    "CreateResult",
    "NewTimer",
    "Timer",
    "decode_cursor",
    "decode_page",
    "decode_results",
    "decode_timer",
    "decode_timers",
    "read",
    "refusal",
]

BY_CODE: dict[str, type[SkyringError]] = {
    kind.code: kind
    for kind in (getattr(errors, name) for name in errors.__all__)
    if issubclass(kind, SkyringError)
}
Read = TypeVar("Read")


class NewTimer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A timer to create. Exactly one of ``timeout_ms`` and ``at`` is needed."""

    callback: Callback
    timeout_ms: int | UnsetType = msgspec.field(default=UNSET, name="timeout")
    """Milliseconds from the moment the server has it, 1 to 2147483647."""
    at: int | str | UnsetType = UNSET
    """Epoch milliseconds, or RFC 3339 with an offset."""
    data: Any = UNSET
    """A string, sent as it is, or a mapping, sent as JSON."""
    id: str | UnsetType = UNSET
    """Your own id; creating the same timer twice with it makes one timer."""


class Timer(msgspec.Struct, frozen=True):
    """A timer, or a dead letter, as the server shows it. Times in epoch milliseconds."""

    id: str
    state: Literal["scheduled", "delivering", "dead"]
    due_ms: int = msgspec.field(name="due")
    next_ms: int = msgspec.field(name="next")
    """When the next attempt is made."""
    created_ms: int = msgspec.field(name="created")
    attempts: int
    """Deliveries that have failed."""
    callback: Callback
    last_error: str | None = None
    data: Any = None
    timeout_ms: int | None = msgspec.field(default=None, name="timeout")


class CreateResult(msgspec.Struct, frozen=True):
    """What became of one entry of `SkyringClient.create_many`."""

    status: int
    """201 created, 200 there already, otherwise refused."""
    id: str | None = None
    reason: str | None = None
    field: str | None = None

    @property
    def accepted(self) -> bool:
        """Is the timer there now?"""
        return self.status in (200, 201)


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""
    title: str = ""
    field: str = ""


decode_page = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
decode_cursor = msgspec.json.Decoder(str | None).decode
decode_timer = msgspec.json.Decoder(Timer).decode
decode_timers = msgspec.json.Decoder(list[Timer]).decode
decode_results = msgspec.json.Decoder(CreateResult).decode_lines


def read(
    answer: httpx.Response, decode: Callable[[Any], Read], part: msgspec.Raw | None = None
) -> Read:
    """What an answer, or a part of it, holds.

    Raises:
        SkyringError: it is not what this client knows.
    """
    try:
        return decode(answer.content if part is None else part)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        url = answer.request.url
        raise SkyringError(f"{url} sent what this client does not understand: {error}") from error


def refusal(answer: httpx.Response) -> SkyringError:
    """The error that an answer other than 2xx stands for."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem()
    said = problem.detail or problem.title or answer.headers.get("x-skyring-reason")
    reason = said or f"{answer.request.url} answered {answer.status_code} {answer.reason_phrase}"
    kind = BY_CODE.get(problem.code)
    if kind is None and answer.status_code in (429, 503):
        kind = Unavailable
    if kind is None:
        return SkyringError(reason)
    if issubclass(kind, InvalidRequest):
        return kind(reason.removeprefix(f"{problem.field}: "), problem.field)
    if issubclass(kind, Unavailable):
        return kind(reason, _retry_after_s(answer))
    return kind(reason)


def _retry_after_s(answer: httpx.Response) -> int:
    given = answer.headers.get("retry-after", "")
    return int(given) if given.isascii() and given.isdigit() else 1
