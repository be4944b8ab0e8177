"""What a callback may look like, what becomes of it, and what an answer means. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from aiormq import spec
from aiormq.exceptions import DeliveryError

from skyring.transports import Callback, DeliveryInfo, InvalidRequest, delivery_headers

__all__ = ["METHOD", "Target", "check_headers", "properties_of", "read_target", "refusal", "told"]

METHOD = "publish"
NAME_BYTES_MAX = 255
"""Of a queue or a routing key; AMQP has no more."""
EXCHANGE = re.compile(r"[a-zA-Z0-9_.:@#,/+ -]{1,127}")
"""What the client takes for the name of an exchange, as AMQP 0-9-1 says."""
HEADERS_MAX = 100
HEADERS_BYTES_MAX = 16_384
"""All headers have to fit into one frame, whose size the broker decides on."""
HEADER_NAME_BYTES_MAX = 128
"""The client would cut off the rest."""
PERSISTENT = 2
REASON_CHARS_MAX = 200
OWN_PREFIX = "webhook-"
ROUTING_HEADERS = frozenset({"cc", "bcc"})
"""To RabbitMQ they are lists of further routing keys; as text they close the channel."""
ESCAPED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")


class Target(NamedTuple):
    """Where a message is published."""

    exchange: str
    """Empty: the default exchange, which leads to the queue that the routing key names."""
    routing_key: str

    def __str__(self) -> str:
        if not self.exchange:
            return f"queue {self.routing_key!r}"
        return f"exchange {self.exchange!r}, routing key {self.routing_key!r}"


def read_target(uri: str) -> Target:
    """What ``QUEUE`` or ``EXCHANGE/ROUTING-KEY`` means.

    Raises:
        InvalidRequest: naming ``callback.uri``.
    """
    if not uri.isprintable() or " " in uri or ESCAPED.fullmatch(uri) is None:
        raise InvalidRequest(
            "holds a blank, a control character or a % that begins no %XX; percent-encode it",
            "callback.uri",
        )
    names = uri.split("/")
    if not names[0] or len(names) > 2:
        raise InvalidRequest(
            "must be QUEUE or EXCHANGE/ROUTING-KEY; a slash in a name is written as %2F",
            "callback.uri",
        )
    decoded = [_decoded(name) for name in names]
    if len(decoded) == 1:
        return Target("", decoded[0])
    if EXCHANGE.fullmatch(decoded[0]) is None:
        raise InvalidRequest(
            "names an exchange that has not 1 to 127 characters out of a-z A-Z 0-9 _ . : @ # , / +"
            " - and blank",
            "callback.uri",
        )
    return Target(decoded[0], decoded[1])


def _decoded(name: str) -> str:
    encoded = unquote_to_bytes(name)
    if len(encoded) > NAME_BYTES_MAX:
        raise InvalidRequest(f"holds a name of more than {NAME_BYTES_MAX} bytes", "callback.uri")
    try:
        decoded = encoded.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("holds a name that is not UTF-8", "callback.uri") from None
    if not decoded.isprintable():
        raise InvalidRequest("holds a control character in a name", "callback.uri")
    return decoded


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that cannot stand beside those of the transport.

    Raises:
        InvalidRequest: naming ``callback.headers``.
    """
    if len(headers) > HEADERS_MAX:
        raise InvalidRequest(f"must be at most {HEADERS_MAX}", "callback.headers")
    total_bytes = 0
    for name, value in headers.items():
        if not name or not name.isprintable() or len(name.encode()) > HEADER_NAME_BYTES_MAX:
            raise InvalidRequest(
                f"{name[:HEADER_NAME_BYTES_MAX]!r} is no name of a header, which has 1 to"
                f" {HEADER_NAME_BYTES_MAX} bytes and no control characters",
                "callback.headers",
            )
        folded = name.lower()
        if folded.startswith(OWN_PREFIX):
            raise InvalidRequest(f"{name} is Skyring's own", "callback.headers")
        if folded in ROUTING_HEADERS:
            raise InvalidRequest(f"{name} would lead the message elsewhere", "callback.headers")
        try:
            total_bytes += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise InvalidRequest(f"the value of {name} is no text", "callback.headers") from None
    if total_bytes > HEADERS_BYTES_MAX:
        raise InvalidRequest(
            f"must have at most {HEADERS_BYTES_MAX} bytes in all", "callback.headers"
        )


def properties_of(callback: Callback, info: DeliveryInfo) -> spec.Basic.Properties:
    """Headers and properties of the message."""
    return spec.Basic.Properties(
        content_type=info.content_type,
        delivery_mode=PERSISTENT,
        headers={**delivery_headers(info), **callback.headers},
        message_id=info.id,
        timestamp=datetime.fromtimestamp(info.started_ms // 1000, UTC),
    )


def refusal(error: DeliveryError, target: Target) -> str:
    """Why the broker did not take a message, for a person."""
    if isinstance(error.frame, spec.Basic.Return):
        return f"no queue takes it: {_one_line(error.frame.reply_text)} for {target}"
    return f"the broker did not take it (nack) for {target}"


def told(error: BaseException) -> str:
    """An error of the connection or a channel in one line for a person."""
    # Those of the client hold a code of the protocol before the text, or nothing at all.
    texts = [part for part in error.args if isinstance(part, str) and part]
    return _one_line(texts[-1] if texts else str(error) or type(error).__name__)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_CHARS_MAX else line[:REASON_CHARS_MAX] + "…"
