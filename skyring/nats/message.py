"""Messages as they go out and come in, and their bytes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["NO_HEADERS", "Message", "Received", "Reply", "encode_message", "one_line"]

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
HEADER_START = "NATS/1.0\r\n"
HEADER_LINE_BYTES = len(": ") + len("\r\n")
STATUS_START = b"NATS/1.0 "
NO_RESPONDERS = b"NATS/1.0 503"
REASON_CHARS_MAX = 200


class Message(NamedTuple):
    """What is published."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] = NO_HEADERS

    @property
    def size_bytes(self) -> int:
        """Bytes that count against the server's ``max_payload``: the headers do as well."""
        if not self.headers:
            return len(self.payload)
        return (
            len(HEADER_START)
            + len("\r\n")
            + sum(
                len(name) + len(value.encode()) + HEADER_LINE_BYTES
                for name, value in self.headers.items()
            )
            + len(self.payload)
        )


class Reply(NamedTuple):
    """A reply as it came."""

    data: bytes
    head: bytes = b""
    """Status and headers, unread."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers; a status stands under ``Status`` and ``Description``."""
        return _read_head(self.head)

    @property
    def is_no_responders(self) -> bool:
        """Has the server answered, because nobody listens on the subject?"""
        return not self.data and self.head.startswith(NO_RESPONDERS)


class Received(NamedTuple):
    """A message that came for a subscription."""

    subject: str
    reply: str
    """Where a reply is to go; "" if none is wanted."""
    data: bytes
    head: bytes = b""
    """Status and headers, unread."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers; a status stands under ``Status`` and ``Description``."""
        return _read_head(self.head)


def encode_message(message: Message, reply_to: bytes = b"") -> tuple[bytes, int]:
    """The bytes of a message as they are written, and its size as ``max_payload`` counts.

    Raises:
        ValueError: the subject or a header could be taken for something else. It quotes nothing.
    """
    subject, payload, headers = message
    if subject.split() != [subject]:
        raise ValueError("the subject is empty or holds white space")
    if reply_to:
        reply_to = b" " + reply_to
    if not headers:
        size = len(payload)
        return b"PUB %b%b %d\r\n%b\r\n" % (subject.encode(), reply_to, size, payload), size
    lines = HEADER_START
    for name, value in headers.items():
        lines += f"{name}: {value}\r\n"
    if not lines.count("\r") == lines.count("\n") == len(headers) + 1:
        raise ValueError("a header holds the end of a line")
    head = lines.encode() + b"\r\n"
    size = len(head) + len(payload)
    return (
        b"HPUB %b%b %d %d\r\n%b%b\r\n"
        % (subject.encode(), reply_to, len(head), size, head, payload),
        size,
    )


def _read_head(head: bytes) -> dict[str, str]:
    """What cannot be read is left out."""
    headers: dict[str, str] = {}
    if not head:
        return headers
    first, *lines = head.split(b"\r\n")
    if first.startswith(STATUS_START):
        status, _, description = first[len(STATUS_START) :].strip().partition(b" ")
        headers["Status"] = status.decode("ascii", "replace")
        if description:
            headers["Description"] = description.strip().decode("utf-8", "replace")
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name.isascii():
            headers[name.strip().decode()] = value.strip().decode("utf-8", "replace")
    return headers


def one_line(text: str) -> str:
    """A foreign text as a reason: in one line, and not too long."""
    return "".join(char if char.isprintable() else " " for char in text[:REASON_CHARS_MAX]).strip()
