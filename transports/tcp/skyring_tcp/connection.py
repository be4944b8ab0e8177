"""One connection: one message at a time, and the answer to it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import cast

from skyring_tcp.rules import BadAnswer, Framing, failure_reason

__all__ = ["Broken", "Connection"]


CLOSED = getattr(select, "POLLRDHUP", 0)
"""The other side has closed its half; Linux tells it apart from what can be read."""


class Broken(Exception):
    """No answer will come. ``str(error)`` is the reason, for a person."""


class Connection(asyncio.Protocol):
    """Connected by the event loop, whose protocol it is.

    After a failure or a cancellation it has to be aborted: an answer may still be on its way.

    Args:
        framing: of messages and answers.
        on_lost: called once when it is gone, if it has ever been made.
    """

    def __init__(self, framing: Framing, on_lost: Callable[[Connection], None]) -> None:
        self._framing = framing
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_paused = False
        self._ignores_answers = False
        self._poll = select.poll()
        self._why: str | None = None

    @property
    def is_usable(self) -> bool:
        """Can the next message be sent on it, as far as the event loop knows?"""
        return self._why is None and not self._received

    def is_fresh(self) -> bool:
        """The same as far as the system knows, which may be ahead of the event loop."""
        return self.is_usable and not self._poll.poll(0)

    def ignore_answers(self) -> None:
        """Drop all that comes; `tell` is used instead of `ask`."""
        self._ignores_answers = True
        # A byte that is not taken at once is waited for. The TLS of asyncio compares the size of
        # its buffer with >= instead of >, and would wait for ever with 0.
        transport = self._made()
        is_tls = transport.get_extra_info("ssl_object") is not None
        transport.set_write_buffer_limits(high=1 if is_tls else 0, low=0)
        self._poll.modify(self._descriptor(), CLOSED)

    async def ask(self, frame: bytes) -> bytes:
        """Send a message, and return the answer to it.

        Raises:
            Broken: there will be none.
        """
        if self._why is not None:
            raise Broken(self._why)
        transport = self._made()
        self._answer = asyncio.get_running_loop().create_future()
        try:
            transport.write(frame)
            return await self._answer
        finally:
            self._answer = None

    async def tell(self, frame: bytes) -> None:
        """Send a message; it has been handed to the system on return.

        Raises:
            Broken: it has not.
        """
        if self._why is not None:
            raise Broken(self._why)
        self._made().write(frame)
        if self._is_paused:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None
        if self._why is not None:
            raise Broken(self._why)

    def is_sent(self) -> bool:
        """Has the system taken all bytes?"""
        return self._made().get_write_buffer_size() == 0

    def close(self) -> None:
        """Close it in an orderly way; what has been handed over still goes out."""
        self._fail("the connection was closed")
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self._fail("the connection was closed")
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is no subclass
        if self._why is not None:  # it was given up while it was being made
            self.abort()
            return
        self._poll.register(self._descriptor(), select.POLLIN | CLOSED)
        # On one machine a client that picks the port it calls can be connected to itself, and
        # would take its own message for the answer.
        if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
            self._give_up("connection refused")

    def data_received(self, data: bytes) -> None:
        if self._ignores_answers:
            return
        answer = self._answer
        self._received += data
        if answer is None:
            self._give_up("the receiver sent something that is no answer")
            return
        if answer.done():  # more than one answer: is_usable tells
            return
        try:
            found = self._framing.take_answer(self._received)
        except BadAnswer as error:
            self._give_up(str(error))
            return
        if found is not None:
            answer.set_result(found)

    def eof_received(self) -> bool:
        self._fail("the receiver closed the connection before its answer")
        return False  # close it

    def connection_lost(self, error: Exception | None) -> None:
        reason = "the receiver closed the connection before its answer"
        if isinstance(error, OSError):
            reason = failure_reason(error)
        self._fail(reason)
        self._received.clear()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # Inside

    def _made(self) -> asyncio.Transport:
        if self._transport is None:
            raise Broken("not connected")
        return self._transport

    def _descriptor(self) -> int:
        return int(self._made().get_extra_info("socket").fileno())

    def _give_up(self, reason: str) -> None:
        self._fail(reason)
        self.abort()

    def _fail(self, reason: str) -> None:
        """Nothing more is sent on it; whoever waits is told why."""
        if self._why is not None:
            return
        self._why = reason
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(reason))
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
