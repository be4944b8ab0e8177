"""What a callback may look like, how a message is framed, and what a failure is called. Pure."""

from __future__ import annotations

import os
import socket
import ssl
from abc import ABC, abstractmethod
from typing import NamedTuple

from skyring.transports import InvalidRequest, read_address

__all__ = [
    "BadAnswer",
    "Framing",
    "LengthFraming",
    "NewlineFraming",
    "Target",
    "check_method",
    "failure_reason",
    "read_target",
]

METHOD = "send"
LENGTH_BYTES = 4
REASON_CHARS_MAX = 200


class Target(NamedTuple):
    """Where a callback leads to."""

    host: str
    port: int
    is_tls: bool
    destination: str


def check_method(method: str) -> None:
    """Refuse what is not ``send``.

    Raises:
        InvalidRequest: naming ``callback.method``.
    """
    if method.lower() != METHOD:
        raise InvalidRequest(f"must be {METHOD}", "callback.method")


def read_target(uri: str) -> Target:
    """The receiver that a URI leads to.

    Raises:
        InvalidRequest: naming ``callback.uri``.
    """
    scheme, _, rest = uri.partition("://")
    scheme = scheme.lower()
    address = read_address(rest) if scheme in ("tcp", "tls") else None
    if address is None:
        raise InvalidRequest(
            "must be tcp://host:port or tls://host:port, an IPv6 address in brackets,"
            " and nothing after the port",
            "callback.uri",
        )
    return Target(address.host, address.port, scheme == "tls", f"{scheme}:{address}")


class BadAnswer(Exception):
    """What came is not an answer in this framing."""


class Framing(ABC):
    """How messages and answers are told apart in the stream of bytes.

    Args:
        answer_bytes_max: longest answer that is taken, bytes.
    """

    def __init__(self, answer_bytes_max: int) -> None:
        self.answer_bytes_max = answer_bytes_max

    @abstractmethod
    def pack(self, message: bytes) -> bytes:
        """A message as it goes over the wire.

        Raises:
            ValueError: it cannot be sent in this framing.
        """

    @abstractmethod
    def take_answer(self, received: bytearray) -> bytes | None:
        """Remove an answer from the bytes received so far; None while it is not complete.

        Raises:
            BadAnswer: it will never be one that may be taken.
        """

    def _too_long(self) -> BadAnswer:
        return BadAnswer(f"the answer is longer than {self.answer_bytes_max} bytes")


class LengthFraming(Framing):
    """Four bytes of length, big-endian, then the bytes."""

    def pack(self, message: bytes) -> bytes:
        return len(message).to_bytes(LENGTH_BYTES, "big") + message

    def take_answer(self, received: bytearray) -> bytes | None:
        if len(received) < LENGTH_BYTES:
            return None
        length = int.from_bytes(received[:LENGTH_BYTES], "big")
        if length > self.answer_bytes_max:
            raise self._too_long()
        end = LENGTH_BYTES + length
        if len(received) < end:
            return None
        answer = bytes(received[LENGTH_BYTES:end])
        del received[:end]
        return answer


class NewlineFraming(Framing):
    """The bytes, then a line feed."""

    def pack(self, message: bytes) -> bytes:
        if b"\n" in message:
            raise ValueError("the payload holds a line feed, which framing=newline cannot carry")
        return message + b"\n"

    def take_answer(self, received: bytearray) -> bytes | None:
        end = received.find(b"\n", 0, self.answer_bytes_max + 1)
        if end < 0:
            if len(received) > self.answer_bytes_max:
                raise self._too_long()
            return None
        answer = bytes(received[:end])
        del received[: end + 1]
        return answer


def failure_reason(error: OSError) -> str:
    """One line on why no connection was made, or why it broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _one_line(f"TLS: certificate not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        # Those that the event loop makes itself have no such attribute.
        return _one_line(f"TLS: {getattr(error, 'reason', None) or error}")
    if isinstance(error, socket.gaierror):
        return _one_line(f"host name not resolved: {error.strerror or error}")
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if error.errno is not None:
        return _one_line(os.strerror(error.errno).lower())
    # Several addresses were tried; the event loop joins what it was told of each.
    return _one_line(str(error)) or "the connection failed"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:REASON_CHARS_MAX].strip()
