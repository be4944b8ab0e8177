"""What a user sends: decoded, checked, and explained when it is wrong."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from skyring.errors import InvalidRequest
from skyring.timers.record import DataKind
from skyring.transports.base import Callback

__all__ = [
    "AT_MS_MAX",
    "TIMEOUT_MS_MAX",
    "BulkEntry",
    "TimerRequest",
    "check_id",
    "decode_entry",
    "decode_request",
    "due_of",
    "find_defect",
    "payload_of",
]

TIMEOUT_MS_MAX = 2_147_483_647
"""What setTimeout takes: the largest signed 32-bit number."""
AT_MS_MAX = 253_402_300_799_999
"""The end of the year 9999, the last moment that RFC 3339 can write."""

ID_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:~-]{0,127}")
RFC3339_PATTERN = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)
NO_DATA = msgspec.Raw(b"null")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TimerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /timer`` and ``PUT /timer/{id}``."""

    callback: Callback
    timeout: int | UnsetType = UNSET
    """Milliseconds from now."""
    at: int | str | UnsetType = UNSET
    """Epoch milliseconds, or RFC 3339."""
    data: msgspec.Raw = msgspec.field(default_factory=lambda: NO_DATA)


class BulkEntry(TimerRequest, frozen=True, forbid_unknown_fields=True):
    """One entry of ``POST /timers``."""

    id: str | UnsetType = UNSET


_decode_request = msgspec.json.Decoder(TimerRequest).decode
_decode_entry = msgspec.json.Decoder(BulkEntry).decode
_decode_data = msgspec.json.Decoder(str | dict[str, Any] | None).decode


def decode_request(body: bytes) -> TimerRequest:
    """The request in a JSON body.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    try:
        return _decode_request(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(error, body) from error


def decode_entry(body: bytes | msgspec.Raw) -> BulkEntry:
    """The same for one entry of a bulk request."""
    try:
        return _decode_entry(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(error, bytes(body)) from error


def check_id(timer_id: str) -> None:
    """Refuse an id that could not stand in a URL, a key and a header alike.

    Raises:
        InvalidRequest: naming the field ``id``.
    """
    if ID_PATTERN.fullmatch(timer_id) is None:
        raise InvalidRequest(
            "must have 1 to 128 characters out of A-Z a-z 0-9 _ . : ~ - and begin with a letter,"
            " a digit or _",
            "id",
        )


def due_of(request: TimerRequest, now_ms: int) -> tuple[int, int | None]:
    """When a request is due, and its relative time-out if it has one; both in milliseconds.

    Args:
        now_ms: epoch milliseconds, rounded up.

    Raises:
        InvalidRequest: naming ``timeout`` or ``at``.
    """
    timeout, at = request.timeout, request.at
    if timeout is not UNSET:
        if at is not UNSET:
            raise InvalidRequest("give either timeout or at, not both", "at")
        if not 1 <= timeout <= TIMEOUT_MS_MAX:
            raise InvalidRequest(
                f"must be a whole number of milliseconds from 1 to {TIMEOUT_MS_MAX};"
                " use at for what is farther away",
                "timeout",
            )
        return now_ms + timeout, timeout
    if at is UNSET:
        raise InvalidRequest("one of timeout and at is required", "timeout")
    due_ms = _read_rfc3339(at) if isinstance(at, str) else at
    if not 0 <= due_ms <= AT_MS_MAX:
        raise InvalidRequest(f"must lie between 0 and {AT_MS_MAX} epoch milliseconds", "at")
    return due_ms, None


def payload_of(request: TimerRequest) -> tuple[DataKind, bytes]:
    """Kind and bytes of a request's data: text as it is, an object as the JSON that was sent.

    Raises:
        InvalidRequest: naming ``data``.
    """
    raw = bytes(request.data)
    try:
        data = _decode_data(raw)
    except msgspec.ValidationError as error:
        if "out of range" in str(error):
            raise InvalidRequest("holds a number that is out of range", "data") from error
        raise InvalidRequest("must be a string or an object", "data") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest("is not UTF-8", "data") from error
    except RecursionError as error:
        raise InvalidRequest("is nested too deeply", "data") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"is not JSON: {_defect(raw) or error}", "data") from error
    if data is None:
        return "none", b""
    if isinstance(data, str):
        return "text", data.encode()
    return "json", raw


def _read_rfc3339(text: str) -> int:
    parts = RFC3339_PATTERN.fullmatch(text)
    if parts is None:
        raise InvalidRequest(
            "must be epoch milliseconds or RFC 3339 with an offset, such as 2030-01-31T12:00:00Z",
            "at",
        )
    try:
        moment = datetime.fromisoformat(f"{parts[1]}{parts[3]}".upper())
        fraction = parts[2] or ""
        # Rounded up: a timer may be a fraction of a millisecond late, but never early.
        over_ms = int(fraction[:3].ljust(3, "0")) + (fraction[3:].strip("0") != "")
        return (moment - EPOCH) // timedelta(milliseconds=1) + over_ms
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"is no date and time: {error}", "at") from error


def _explain(error: Exception, body: bytes) -> InvalidRequest:
    """The decoder's complaint in our words, with the dotted path of the field."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest("the body is not UTF-8")
    if isinstance(error, RecursionError):
        return InvalidRequest("is nested too deeply", "data" if b'"data"' in body else "")
    if not isinstance(error, msgspec.ValidationError):
        defect = _defect(body)
        if defect is not None:
            return defect
        return InvalidRequest(f"the body is not JSON: {error}")
    text, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    text = text.replace("`", "")
    if text.startswith("Object missing required field "):
        name = text.removeprefix("Object missing required field ")
        return InvalidRequest("is required", _join(field, name))
    if text.startswith("Object contains unknown field "):
        name = text.removeprefix("Object contains unknown field ")
        return InvalidRequest("is not a known field", _join(field, name))
    text = text[:1].lower() + text[1:]
    return InvalidRequest(text if field else f"the body is wrong: {text}", field)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _defect(body: bytes) -> InvalidRequest | None:
    """Name the field that holds what Python's laxer decoder takes but JSON does not allow."""
    try:
        return find_defect(json.loads(body))
    except (ValueError, RecursionError):
        return None


def find_defect(value: Any, path: str = "") -> InvalidRequest | None:
    """What in a value JSON cannot write: numbers that are not finite, lone surrogates."""
    path = path.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return InvalidRequest("must be a finite number", path)
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        return InvalidRequest("holds a lone surrogate, which is no text", path)
    if isinstance(value, dict):
        children = [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
        children += [(path, key) for key in value]
    elif isinstance(value, list):
        children = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return None
    return next(filter(None, (find_defect(item, at) for at, item in children)), None)
