"""Errors as HTTP answers: problem documents (RFC 9457) and the header ``x-skyring-reason``."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from skyring.errors import (
    Conflict,
    Fenced,
    InvalidRequest,
    NotFound,
    RecordUnreadable,
    SkyringError,
    TooLarge,
    Unavailable,
)
from skyring.http.reply import Reply, content_reply

__all__ = ["internal_problem", "problem", "reply_to_error", "status_of"]

REASON_CHARS_MAX = 400

STATUSES: list[tuple[type[SkyringError], int]] = [
    (InvalidRequest, 400),
    (NotFound, 404),
    (Conflict, 409),
    (TooLarge, 413),
    (Unavailable, 503),
    (Fenced, 503),
    (RecordUnreadable, 409),
]


def status_of(error: SkyringError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def reply_to_error(error: SkyringError) -> Reply:
    """The answer to a request that failed with one of our errors."""
    status = status_of(error)
    headers = []
    if status == 503:
        retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else 1
        headers.append((b"retry-after", str(retry_after_s).encode()))
    field = error.field if isinstance(error, InvalidRequest) else ""
    return problem(status, error.code, str(error), field=field, headers=headers)


def internal_problem() -> Reply:
    """The answer when this program has a defect; the log says more."""
    return problem(500, "internal", "Skyring made a mistake; its log says more")


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    field: str = "",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Reply:
    """A problem document.

    Args:
        code: stable name of what is wrong, for programs.
        detail: one line for people.
        field: dotted path of the part of the request at fault, if it is one.
    """
    detail = detail.encode("utf-8", "backslashreplace").decode()
    field = field.encode("utf-8", "backslashreplace").decode()
    document = {
        "type": f"urn:skyring:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if field:
        document["field"] = field
    # A header line takes printable ASCII; what is not is written as an escape.
    reason = detail[:REASON_CHARS_MAX].encode("ascii", "backslashreplace").decode()
    reason = "".join(char if " " <= char <= "~" else " " for char in reason)
    return content_reply(
        status,
        b"application/problem+json",
        msgspec.json.encode(document),
        [(b"x-skyring-reason", reason.encode()), *(headers or [])],
    )
