"""What a webhook may look like, and what its answer means. Pure.

RFC 9110 says what a header field is (section 5) and how to read Retry-After (section 10.2.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from sys import intern
from typing import Final

from pyreqwest.http import Url

from skyring.errors import InvalidRequest
from skyring.transports.base import Outcome

__all__ = [
    "check_headers",
    "check_uri",
    "failure_reason",
    "method_of",
    "outcome_of",
    "read_destination",
    "retry_after_ms",
]

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
SPELLINGS: Final = {spelling: name for name in METHODS for spelling in (name, name.lower())}
URI_CHARS_MAX = 8192
HOST_CHARS_MAX = 253
HEADERS_MAX = 100
HEADERS_BYTES_MAX = 16_384
REASON_CHARS_MAX = 200

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
RESERVED_PREFIXES = ("webhook-", "proxy-")

DELTA_SECONDS = re.compile(r"[0-9]+")
DELTA_DIGITS_MAX = 12
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
MONTH = rf"(?P<month>{'|'.join(MONTHS)})"
HTTP_DATES = (
    # Sun, 06 Nov 1994 08:49:37 GMT; what senders must write
    re.compile(rf"[A-Z][a-z]{{2}}, (?P<day>\d\d) {MONTH} (?P<year>\d{{4}}) {TIME} GMT", re.ASCII),
    # Sunday, 06-Nov-94 08:49:37 GMT; readers must take it all the same
    re.compile(rf"[A-Z][a-z]+day, (?P<day>\d\d)-{MONTH}-(?P<year>\d\d) {TIME} GMT", re.ASCII),
    # Sun Nov  6 08:49:37 1994; this too
    re.compile(rf"[A-Z][a-z]{{2}} {MONTH} (?P<day>[\d ]\d) {TIME} (?P<year>\d{{4}})", re.ASCII),
)


def method_of(method: str) -> str:
    """A method as it is sent.

    Raises:
        InvalidRequest: naming ``callback.method``.
    """
    name = SPELLINGS.get(method)
    if name is None:
        name = SPELLINGS.get(method.lower()) if method.isascii() else None
        if name is None:
            raise InvalidRequest(f"must be one of {', '.join(METHODS)}", "callback.method")
    return name


def check_uri(uri: str) -> None:
    """Refuse what can be seen without taking a URI to pieces; `read_destination` does the rest.

    Raises:
        InvalidRequest: naming ``callback.uri``.
    """
    if len(uri) > URI_CHARS_MAX:
        raise InvalidRequest(f"must have at most {URI_CHARS_MAX} characters", "callback.uri")
    if " " in uri or not (uri.isascii() and uri.isprintable()):
        raise InvalidRequest(
            "holds a space, a control character or a character outside ASCII;"
            " percent-encode it, and write a host in its ASCII form",
            "callback.uri",
        )
    if "\\" in uri:
        raise InvalidRequest("holds a backslash", "callback.uri")


def read_destination(uri: str) -> str:
    """The receiver that a URI leads to, as ``http:host:port``.

    The client's own parser reads the host, so that both always mean the same.

    Raises:
        InvalidRequest: naming ``callback.uri``.
    """
    scheme, colon, rest = uri.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        raise InvalidRequest("must begin with http:// or https://", "callback.uri")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise InvalidRequest(
            "must not hold a user name or a password; use a header", "callback.uri"
        )
    if not authority or authority.startswith(":"):
        raise InvalidRequest("has no host", "callback.uri")
    try:
        url = Url(f"{scheme}://{authority}/")
    except ValueError as error:
        raise InvalidRequest(f"cannot be used: {error}", "callback.uri") from error
    host, port = url.host_str, url.port_or_known_default
    if not host or not host.strip(".") or len(host) > HOST_CHARS_MAX:
        raise InvalidRequest("has no valid host", "callback.uri")
    if not port:
        raise InvalidRequest("has no valid port", "callback.uri")
    return intern(f"http:{host}:{port}")


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that cannot be sent as they are, or that would change the delivery.

    Raises:
        InvalidRequest: naming ``callback.headers`` or one of them.
    """
    if len(headers) > HEADERS_MAX:
        raise InvalidRequest(f"are more than {HEADERS_MAX}", "callback.headers")
    seen = set()
    size_bytes = 0
    for name, value in headers.items():
        lower = name.lower()
        if HEADER_NAME.fullmatch(name) is None:
            raise InvalidRequest("is no name of a header", f"callback.headers.{name}")
        if lower in RESERVED_HEADERS or lower.startswith(RESERVED_PREFIXES):
            raise InvalidRequest(
                "must not be set: it belongs to the delivery itself", f"callback.headers.{name}"
            )
        if HEADER_VALUE.fullmatch(value) is None:
            raise InvalidRequest(
                "holds a control character or a character outside ASCII",
                f"callback.headers.{name}",
            )
        if lower in seen:
            raise InvalidRequest(
                "is there twice; case makes no difference", f"callback.headers.{name}"
            )
        seen.add(lower)
        size_bytes += len(name) + len(value)
    if size_bytes > HEADERS_BYTES_MAX:
        raise InvalidRequest(f"have more than {HEADERS_BYTES_MAX} bytes in all", "callback.headers")


def outcome_of(
    status: int, retry_after: str | None, started_ms: int, retry_after_ms_max: int
) -> Outcome:
    """What an answer means for the timer.

    Args:
        status: of the answer.
        retry_after: the header of this name; None if there is none.
        started_ms: when the delivery began, epoch milliseconds; Retry-After counts from here.
        retry_after_ms_max: longest Retry-After that is honoured, milliseconds.
    """
    if 200 <= status < 300:
        return Outcome.delivered()
    if status == 410:
        return Outcome.rejected("answer 410: the receiver wants no more of it")
    reason = f"answer {status}"
    if 300 <= status < 400:
        reason += "; redirects are not followed"
    after_ms = None
    if retry_after is not None:
        after_ms = retry_after_ms(retry_after, started_ms, retry_after_ms_max)
    return Outcome.retry(reason, after_ms)


def retry_after_ms(value: str, now_ms: int, ms_max: int) -> int | None:
    """Milliseconds that a Retry-After header asks to wait, at most ``ms_max``; None for garbage.

    Args:
        value: seconds, or a date in one of the three forms of RFC 9110 section 5.6.7.
        now_ms: epoch milliseconds.
    """
    value = value.strip(" \t")
    if DELTA_SECONDS.fullmatch(value) is not None:
        if len(value) > DELTA_DIGITS_MAX:
            return ms_max
        return min(int(value) * 1000, ms_max)
    date_ms = _read_http_date(value, now_ms)
    if date_ms is None:
        return None
    return min(max(date_ms - now_ms, 0), ms_max)


def failure_reason(messages: Sequence[str]) -> str:
    """One line on why a request failed, from the client's messages, the innermost last."""
    text = messages[-1] if messages else ""
    if "connection refused" in text.lower():
        return "connection refused"
    if "dns error" in messages:
        return _one_line(f"host name not resolved: {text.rpartition(': ')[2]}")
    if "invalid peer certificate" in text:
        return _one_line("TLS: " + text[text.index("invalid peer certificate") :])
    if text == "connection closed before message completed":
        return "connection closed before the answer"
    return _one_line(text) or "the request failed"


def _one_line(text: str) -> str:
    # The client's texts may quote the URI, whose query may be secret.
    text = re.sub(r"\S+://\S*", "…", text)
    text = re.sub(r" \(os error \d+\)", "", text)
    return "".join(char if char.isprintable() else " " for char in text)[:REASON_CHARS_MAX].strip()


def _read_http_date(value: str, now_ms: int) -> int | None:
    match = next(filter(None, (form.fullmatch(value) for form in HTTP_DATES)), None)
    if match is None:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # In the past if it seems to lie more than 50 years ahead: RFC 9110 section 5.6.7.
        this_year = datetime.fromtimestamp(now_ms / 1000, UTC).year
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    try:
        moment = datetime(
            year,
            MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            min(int(match["second"]), 59),  # a leap second
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return int(moment.timestamp()) * 1000
