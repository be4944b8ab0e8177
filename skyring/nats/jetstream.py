"""Questions to JetStream, and its answers."""

from __future__ import annotations

from typing import Any

import msgspec

from skyring.errors import SkyringError, Unavailable, Uncertain
from skyring.nats.link import Link
from skyring.nats.message import Message

__all__ = ["JetStreamApi", "JetStreamError", "NoJetStream"]

API = "$JS.API."
AGAIN_MS = 1_000
"""A question that came while there was no leader is dropped; it is asked again so often."""


class JetStreamError(SkyringError):
    """JetStream has refused something; ``number`` is its own, more exact one (``err_code``)."""

    code = "jetstream"

    def __init__(self, number: int, description: str) -> None:
        super().__init__(f"JetStream: {description} ({number})")
        self.number = number


class NoJetStream(Unavailable):
    """Nobody listens on JetStream's subjects: there is none on these servers, or not now."""


class _Failure(msgspec.Struct):
    err_code: int = 0
    description: str = "error"


class _Answer(msgspec.Struct):
    error: _Failure | None = None


_failure_of = msgspec.json.Decoder(_Answer).decode
_read = msgspec.json.Decoder(dict[str, Any]).decode


class JetStreamApi:
    """Asks JetStream over a link.

    Args:
        link: to NATS.
        timeout_ms: time allowed to one answer.
    """

    def __init__(self, link: Link, timeout_ms: int) -> None:
        self._link = link
        self._timeout_ms = timeout_ms

    async def ask(
        self, what: str, body: object = None, timeout_ms: int | None = None
    ) -> dict[str, Any]:
        """The answer to a question that may be repeated.

        Args:
            what: the subject without ``$JS.API.``, such as ``STREAM.INFO.ORDERS``.
            timeout_ms: None is what the constructor was given.

        Raises:
            JetStreamError: it says so.
            NoJetStream: nobody is there to be asked.
            Unavailable: there is no answer, or it cannot be read.
        """
        message = Message(API + what, b"" if body is None else msgspec.json.encode(body))
        left_ms = self._timeout_ms if timeout_ms is None else timeout_ms
        while True:
            try:
                reply = await self._link.request(message, min(left_ms, AGAIN_MS))
                break
            except Uncertain as error:
                left_ms -= AGAIN_MS
                if left_ms <= 0:
                    raise Unavailable(f"JetStream: {error}") from error
        if reply.is_no_responders:
            raise NoJetStream("JetStream does not answer")
        try:
            failure = _failure_of(reply.data).error
            if failure is not None:
                raise JetStreamError(failure.err_code, failure.description)
            return _read(reply.data)
        except msgspec.DecodeError:
            raise Unavailable("an answer of JetStream cannot be read") from None

    def tell(self, what: str) -> None:
        """Ask without waiting for the answer; nothing is raised if it cannot be sent."""
        try:
            self._link.send(Message(API + what, b""))
        except Unavailable:
            return
