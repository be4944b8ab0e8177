"""What a callback for NATS may look like, and the message that it becomes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from skyring.nats.message import NO_HEADERS, Message
from skyring.transports import Callback, DeliveryInfo, InvalidRequest, delivery_headers

__all__ = [
    "DEFAULT_INBOX_PREFIX",
    "METHODS",
    "check_headers",
    "check_subject",
    "message_id",
    "message_of",
    "method_of",
]

METHODS: Final = ("publish", "request", "jetstream")
DEFAULT_INBOX_PREFIX = "_INBOX"

SUBJECT_CHARS_MAX = 256
"""What NATS itself recommends; a server takes some 4,000 for the whole line."""
HEADERS_MAX = 100
HEADERS_BYTES_MAX = 16_384
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
RESERVED_HEADER_PREFIXES = ("nats-", "webhook-")
RESERVED_HEADERS = frozenset({"status", "description"})
"""Clients keep what the server says of a message under these names, and would mistake them."""


def method_of(method: str) -> str:
    """A method in lower case.

    Raises:
        InvalidRequest: naming ``callback.method``.
    """
    name = method.lower()
    if name not in METHODS:
        raise InvalidRequest(f"must be one of {', '.join(METHODS)}", "callback.method")
    return name


def check_subject(subject: str, inbox_prefix: str = DEFAULT_INBOX_PREFIX) -> None:
    """Refuse what is no subject that a timer may be published to.

    Raises:
        InvalidRequest: naming ``callback.uri``.
    """
    reason = _fault_of_subject(subject, inbox_prefix)
    if reason is not None:
        raise InvalidRequest(reason, "callback.uri")


def _fault_of_subject(subject: str, inbox_prefix: str) -> str | None:
    if not subject:
        return "has to be the subject, such as orders.created"
    if len(subject) > SUBJECT_CHARS_MAX:
        return f"must have at most {SUBJECT_CHARS_MAX} characters"
    if " " in subject or not (subject.isascii() and subject.isprintable()):
        return "holds a blank, a control character or a character outside ASCII"
    if "://" in subject:
        return "has to be the subject alone; the servers are an option of the transport"
    if "*" in subject or ">" in subject:
        return "holds a wildcard; a message has one subject"
    if "" in subject.split("."):
        return "has an empty token: a dot at the start or the end, or two in a row"
    if subject.startswith(("$", DEFAULT_INBOX_PREFIX)) or f"{subject}.".startswith(
        f"{inbox_prefix}."
    ):
        return "is reserved: what begins with $ or _INBOX belongs to NATS itself"
    return None


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that NATS cannot carry as they are, or that would change the delivery.

    Raises:
        InvalidRequest: naming ``callback.headers`` or one of them.
    """
    if len(headers) > HEADERS_MAX:
        raise InvalidRequest(f"are more than {HEADERS_MAX}", "callback.headers")
    size_bytes = 0
    for name, value in headers.items():
        reason = _fault_of_header(name, value)
        if reason is not None:
            raise InvalidRequest(reason, f"callback.headers.{name}")
        size_bytes += len(name) + len(value.encode())
    if size_bytes > HEADERS_BYTES_MAX:
        raise InvalidRequest(f"have more than {HEADERS_BYTES_MAX} bytes in all", "callback.headers")


def _fault_of_header(name: str, value: str) -> str | None:
    if HEADER_NAME.fullmatch(name) is None:
        return "is no name of a header"
    lower = name.lower()
    if lower.startswith(RESERVED_HEADER_PREFIXES) or lower in RESERVED_HEADERS:
        return "must not be set: it belongs to NATS or to the delivery itself"
    if not value.isprintable():
        return "holds a control character or one that cannot be printed"
    if value != value.strip():
        return "begins or ends with a blank, which NATS does not keep"
    return None


def message_of(
    callback: Callback, payload: bytes, info: DeliveryInfo, extra: Mapping[str, str] = NO_HEADERS
) -> Message:
    """The message of one delivery; the user's content type goes first.

    Args:
        extra: more headers.
    """
    headers = delivery_headers(info)
    if info.content_type is not None and not any(
        name.lower() == "content-type" for name in callback.headers
    ):
        headers["content-type"] = info.content_type
    headers.update(callback.headers)
    headers.update(extra)
    return Message(callback.uri, payload, headers)


def message_id(info: DeliveryInfo) -> str:
    """What a stream knows the attempts of one timer by.

    The id alone is not enough: it may be used again after its delivery, and within the stream's
    duplicate window the new timer would be swallowed.
    """
    return f"{info.id}.{info.due_ms}"
