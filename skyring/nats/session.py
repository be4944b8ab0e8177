"""What goes over one connection, from its beginning to its loss."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from skyring.errors import TooLarge, Unavailable
from skyring.nats.connection import Connection, ConnectionLost, told
from skyring.nats.message import Message, Reply, encode_message
from skyring.nats.parser import Take
from skyring.tasks import end_tasks

__all__ = ["Interest", "Refused", "Session", "TimedOut"]

logger = logging.getLogger(__name__)

ECHO_SLICES = 5
"""Time-outs are waited for in slices, so that a stall of this process uses up only one of them."""
TOKEN_BYTES = 12
TOKEN_CHARS = 16
TOKENS_AT_ONCE = 1_024
TICK_S = 0.05
"""Time-outs of requests are looked at so often."""

REFUSED = re.compile(
    r"permissions violation for (publish|subscription) to (\"(?:[^\"\\]|\\.)*\")", re.IGNORECASE
)


class Refused(Exception):
    """The server does not permit it; the text says what."""


class TimedOut(Exception):
    """No reply came in time; ``is_sent`` tells whether the message was sent."""

    def __init__(self, is_sent: bool) -> None:
        super().__init__("no reply in time")
        self.is_sent = is_sent


class Interest:
    """What is listened to over one connection; made by `Session.subscribe`."""

    def __init__(self, connection: Connection, sid: bytes, ended: Callable[[], object]) -> None:
        self._connection = connection
        self._sid = sid
        self._ended = ended

    def end(self) -> None:
        """Nothing is handed over any more."""
        self._ended()
        self._connection.unlisten(self._sid)

    async def drain(self) -> None:
        """Have nothing more sent; when it returns, what was on its way has been handed over.

        Raises:
            ConnectionLost: it may be lost.
        """
        self._connection.put_unsub(self._sid)
        pong = self._connection.ping()
        await _first_of(pong, self._connection.lost)
        self._ended()
        self._connection.takers.pop(self._sid, None)
        if not pong.done():
            raise ConnectionLost(self._connection.lost.result())


class _Entry:
    """A message, or a mere echo, and what came of it. It is known by its identity."""

    __slots__ = ("data", "done", "is_put", "reply_to", "subject", "tick_last")

    def __init__(
        self, subject: str, data: bytes, reply_to: bytes, done: asyncio.Future[Reply | None]
    ) -> None:
        self.subject = subject
        self.data = data
        self.reply_to = reply_to
        """Where the reply is to go; empty if a PONG is all that is waited for."""
        self.done = done
        self.is_put = False
        self.tick_last = 0
        """When its time is over; 0 is never."""

    def prove(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # whoever waits may have been cancelled in this very moment


class Session:
    """Publishes messages, and tells what was taken and what was replied.

    Args:
        connection: established.
        echo_interval_ms: time between two looks whether the server still answers.
        echo_timeout_ms: time that it has to answer.
    """

    def __init__(
        self, connection: Connection, *, echo_interval_ms: int, echo_timeout_ms: int
    ) -> None:
        self._connection = connection
        self._echo_interval_s = echo_interval_ms / 1000
        self._echo_timeout_ms = echo_timeout_ms
        self._loop = asyncio.get_running_loop()
        self.inbox: str = connection.new_inbox()
        """Where replies come to. Subjects with two tokens more are free for other uses."""
        self._inbox_start = f"{self.inbox}.".encode()
        self._tokens = b""
        self._token_at = 0
        self._replies_refused: str | None = None
        self._refusals: dict[str, Callable[[str], None]] = {}
        self._queue: OrderedDict[_Entry, None] = OrderedDict()  # found no room
        self._open: set[_Entry] = set()  # a PONG is waited for
        self._by_address: dict[bytes, _Entry] = {}  # a reply is
        self._room_is_wanted = asyncio.Event()
        self._tick = 1
        self._ticking: asyncio.TimerHandle | None = None
        connection.on_refusal = self._refuse
        connection.lost.add_done_callback(self._fail_all)

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done when the connection is gone, with the reason."""
        return self._connection.lost

    @property
    def payload_bytes_max(self) -> int:
        """The largest message that the server takes, headers included."""
        return self._connection.max_payload

    async def begin(self) -> None:
        """Be ready for replies. When it returns the server has proved to be there."""
        self._connection.listen(f"{self.inbox}.*", self._take_reply)
        pong = self._connection.ping()
        await _first_of(pong, self._connection.lost)
        if not pong.done():
            raise ConnectionLost(self._connection.lost.result())

    async def run(self) -> str:
        """Serve until the connection is lost, and say why it was."""
        tasks = [
            asyncio.create_task(self._guard(self._write_queue()), name="nats-write"),
            asyncio.create_task(self._guard(self._watch()), name="nats-watch"),
        ]
        try:
            await asyncio.wait([self._connection.lost])
        finally:
            self._connection.lose("this node is stopping")
            if self._ticking is not None:
                self._ticking.cancel()
            await end_tasks(*tasks)
        return self._connection.lost.result()

    # For those who send

    async def publish(self, message: Message) -> None:
        """Returns when the server has taken the message.

        Raises:
            ConnectionLost: it may have been taken or not.
            Refused: the server does not permit it.
            TooLarge, ValueError: it cannot be sent as it is.
        """
        entry = self._entry(message, b"")
        self._open.add(entry)
        try:
            self._send(entry)
            await entry.done
        finally:
            self._open.discard(entry)
            self._queue.pop(entry, None)

    async def request(self, message: Message, timeout_ms: int | None = None) -> Reply:
        """Returns the first reply.

        Args:
            timeout_ms: None waits as long as there is a connection. A time-out can be late by some
                hundredths of a second; a stall of this process uses up hardly any of it.

        Raises:
            ConnectionLost: the message may have arrived or not.
            TimedOut: likewise, unless it says that it was not sent.
            Refused: the server does not permit it.
            TooLarge, ValueError: it cannot be sent as it is.
        """
        if self._replies_refused is not None:
            raise Refused(self._replies_refused)
        reply_to = self._inbox_start + self._token()
        entry = self._entry(message, reply_to)
        if timeout_ms is not None:
            entry.tick_last = self._tick + 1 + int(timeout_ms / 1000 / TICK_S)
            if self._ticking is None:
                self._ticking = self._loop.call_later(TICK_S, self._time_passes)
        self._by_address[reply_to] = entry
        try:
            self._send(entry)
            reply = await entry.done
        finally:
            del self._by_address[reply_to]
            if not entry.is_put:
                self._queue.pop(entry, None)
        assert reply is not None, "nothing but a reply resolves a request"
        return reply

    def send(self, message: Message, reply_to: str = "") -> None:
        """Send a message without waiting for anything.

        Raises:
            Unavailable: too much is waiting to be sent, or the connection is lost.
            TooLarge, ValueError: it cannot be sent as it is.
        """
        connection = self._connection
        if connection.lost.done():
            raise Unavailable(f"no connection to NATS: {connection.lost.result()}")
        if self._queue or not connection.has_room:
            raise Unavailable("too much is waiting to be sent to NATS")
        connection.put(self._encode(message, reply_to.encode()))

    def subscribe(
        self, subject: str, take: Take, queue: str, refused: Callable[[str], None]
    ) -> Interest:
        """Have messages handed over as they come, by the reading task itself.

        Args:
            take: raises nothing.
            refused: called with the reason if the server does not permit it.
        """
        self._refusals[subject] = refused
        sid = self._connection.listen(subject, take, queue)
        return Interest(self._connection, sid, lambda: self._refusals.pop(subject, None))

    def _entry(self, message: Message, reply_to: bytes) -> _Entry:
        if self._connection.lost.done():
            raise ConnectionLost(self._connection.lost.result())
        return _Entry(
            message.subject,
            self._encode(message, reply_to),
            reply_to,
            self._loop.create_future(),
        )

    def _encode(self, message: Message, reply_to: bytes) -> bytes:
        data, size_bytes = encode_message(message, reply_to)
        # The server closes the connection of whoever sends it more than it takes.
        if size_bytes > self._connection.max_payload:
            raise TooLarge(
                f"{size_bytes} bytes with headers are more than the NATS server takes"
                f" (max_payload {self._connection.max_payload})"
            )
        return data

    def _token(self) -> bytes:
        """Nobody who sees one reply address can guess the others."""
        if self._token_at >= len(self._tokens):
            self._tokens = base64.urlsafe_b64encode(os.urandom(TOKEN_BYTES * TOKENS_AT_ONCE))
            self._token_at = 0
        start = self._token_at
        self._token_at = end = start + TOKEN_CHARS
        return self._tokens[start:end]

    # Writing

    def _send(self, entry: _Entry) -> None:
        if self._queue or not self._connection.has_room:
            self._queue[entry] = None
            self._room_is_wanted.set()
        else:
            self._put(entry)

    def _put(self, entry: _Entry) -> None:
        entry.is_put = True
        if entry.data:
            self._connection.put(entry.data)
        if not entry.reply_to:
            self._connection.prove(entry.prove)

    async def _write_queue(self) -> None:
        connection = self._connection
        while not connection.lost.done():
            await self._room_is_wanted.wait()
            self._room_is_wanted.clear()
            while self._queue and not connection.lost.done():
                await connection.drain()
                while self._queue and connection.has_room:
                    self._put(self._queue.popitem(last=False)[0])

    async def _guard(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as error:  # whatever a socket or the library lets through
            logger.debug("the connection to NATS failed", exc_info=True)
            self._connection.lose(told(error))

    async def _watch(self) -> None:
        lost = self._connection.lost
        slice_s = self._echo_timeout_ms / ECHO_SLICES / 1000
        while not lost.done():
            await asyncio.sleep(self._echo_interval_s)
            echo = _Entry("", b"", b"", self._loop.create_future())
            self._send(echo)
            for _ in range(ECHO_SLICES):
                if not echo.done.done() and not lost.done():
                    await _first_of(echo.done, lost, timeout_s=slice_s)
            if not echo.done.done():
                self._connection.lose(f"the server was silent for {self._echo_timeout_ms} ms")

    def _time_passes(self) -> None:
        """Requests are counted down by ticks: after a stall of this process comes one, not many."""
        self._ticking = None
        if not self._by_address:
            return
        self._tick += 1
        self._ticking = self._loop.call_later(TICK_S, self._time_passes)
        for entry in self._by_address.values():
            if 0 < entry.tick_last < self._tick:
                entry.fail(TimedOut(entry.is_put))

    # What comes back

    def _take_reply(self, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        entry = self._by_address.get(subject)
        # Otherwise it is late, and nobody waits for it any more.
        if entry is not None and not entry.done.done():
            entry.done.set_result(Reply(data, head))

    def _refuse(self, text: str) -> None:
        """The server denies a permission. It says so before it answers a PING that came after."""
        match = REFUSED.match(text)
        subject = "" if match is None else json.loads(match[2])  # Go quotes ASCII as JSON does
        if subject in self._refusals:
            self._refusals[subject](text)
            return
        if match is None or match[1].lower() == "subscription":
            self._replies_refused = f"the server does not permit to get replies: {text}"
            return
        for entry in (*self._open, *self._by_address.values()):
            if entry.subject == subject:
                entry.fail(Refused(f"the server does not permit to publish to {subject}"))

    def _fail_all(self, lost: asyncio.Future[str]) -> None:
        for entry in (*self._open, *self._by_address.values()):
            entry.fail(ConnectionLost(lost.result()))


async def _first_of(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
