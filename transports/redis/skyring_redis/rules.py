"""What a callback may look like, what becomes of it, and what an answer means. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from redis.exceptions import RedisError, ResponseError

from skyring.transports import (
    Callback,
    DeliveryInfo,
    InvalidRequest,
    Outcome,
    delivery_headers,
)

__all__ = ["METHOD", "Command", "check_headers", "check_key", "outcome_of", "told", "xadd"]

Command: TypeAlias = tuple[bytes, ...]
"""A command and its arguments."""

METHOD = "xadd"
KEY_BYTES_MAX = 512
HEADERS_MAX = 100
HEADERS_BYTES_MAX = 16_384
REASON_CHARS_MAX = 200
OWN_FIELDS = frozenset({"data", "type"})
OWN_PREFIX = "webhook-"


def check_key(uri: str) -> None:
    """Refuse what is no sensible key of a stream.

    Raises:
        InvalidRequest: naming ``callback.uri``.
    """
    if not uri:
        raise InvalidRequest("must be the key of a stream", "callback.uri")
    if not uri.isprintable():  # lone surrogates are not either
        raise InvalidRequest("holds a control character", "callback.uri")
    if len(uri.encode()) > KEY_BYTES_MAX:
        raise InvalidRequest(f"must have at most {KEY_BYTES_MAX} bytes", "callback.uri")


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that cannot be fields of an entry beside those of the transport.

    Raises:
        InvalidRequest: naming ``callback.headers``.
    """
    if len(headers) > HEADERS_MAX:
        raise InvalidRequest(f"must be at most {HEADERS_MAX}", "callback.headers")
    total_bytes = 0
    for name, value in headers.items():
        if not name or not name.isprintable():
            raise InvalidRequest(f"{name!r} is no name of a field", "callback.headers")
        folded = name.lower()
        if folded in OWN_FIELDS or folded.startswith(OWN_PREFIX):
            raise InvalidRequest(f"the field {name} is Skyring's own", "callback.headers")
        try:
            total_bytes += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise InvalidRequest(f"the value of {name} is no text", "callback.headers") from None
    if total_bytes > HEADERS_BYTES_MAX:
        raise InvalidRequest(
            f"must have at most {HEADERS_BYTES_MAX} bytes in all", "callback.headers"
        )


def xadd(callback: Callback, payload: bytes, info: DeliveryInfo, length_max: int) -> Command:
    """The command that adds a delivery to its stream.

    Args:
        length_max: entries to which the stream is trimmed, roughly; 0 trims nothing.

    Raises:
        ValueError: the callback has never passed the checks above.
    """
    parts = [b"XADD", callback.uri.encode()]
    if length_max:
        parts += [b"MAXLEN", b"~", b"%d" % length_max]
    parts += [b"*", b"data", payload]
    if info.content_type is not None:
        parts += [b"type", info.content_type.encode()]
    for headers in (delivery_headers(info), callback.headers):
        for name, value in headers.items():
            parts += [name.encode(), value.encode()]
    return tuple(parts)


def outcome_of(error: ResponseError) -> Outcome:
    """What it means that the server refuses a command."""
    reason = f"Redis answers: {told(error)}"
    # The key holds something else than a stream, and will go on doing so.
    if str(error).startswith("WRONGTYPE"):
        return Outcome.rejected(reason)
    return Outcome.retry(reason)


def told(error: Exception) -> str:
    """An error in one line for a person."""
    text = " ".join(str(error).split()) or type(error).__name__
    code = error.status_code if isinstance(error, RedisError) else None
    if code is not None and code != "ERR":  # the client has cut it off
        text = f"{code} {text}"
    return text if len(text) <= REASON_CHARS_MAX else text[:REASON_CHARS_MAX] + "…"
