"""What goes over one connection, from its beginning to its loss."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from nats.aio.msg import Msg

from skyring.transports import end_tasks
from skyring_nats.answers import Reply
from skyring_nats.connection import Connection, ConnectionLost, told
from skyring_nats.rules import Message

__all__ = ["Refused", "Session"]

logger = logging.getLogger(__name__)

BATCH_MAX = 128
"""Messages that are proven by one PING, and written in one turn of the event loop."""
REPLIES_MAX = 65_536
REPLIES_BYTES_MAX = 64 << 20
"""Replies that have come and are not yet looked at. What is more is dropped by the library."""
ECHO_SLICES = 5
"""Time-outs are waited for in slices, so that a stall of this process uses up only one of them."""
TOKEN_BYTES = 12

PUBLISH_REFUSED = re.compile(r'permissions violation for publish to (?P<quoted>".*")')


class Refused(Exception):
    """The server does not permit it; the text says what."""


class _Entry:
    """A message, or a mere echo, and what came of it. It is known by its identity."""

    __slots__ = ("done", "message", "reply_to")

    def __init__(self, message: Message | None, reply_to: str = "") -> None:
        self.message = message
        self.reply_to = reply_to
        """Where the reply is to go; "" if a PONG is all that is waited for."""
        self.done: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()

    def resolve(self, reply: Reply | None) -> None:
        if not self.done.done():
            self.done.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Session:
    """Publishes messages, and tells what was taken and what was replied.

    Only its own task calls the library's methods that can wait: they swallow cancellations, and a
    delivery may be cancelled at any time.

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
        self._inbox = connection.new_inbox()
        self._replies_refused: str | None = None
        self._queue: OrderedDict[_Entry, None] = OrderedDict()  # not yet written
        self._open: set[_Entry] = set()  # waited for by somebody
        self._by_inbox: dict[str, _Entry] = {}
        self._wake = asyncio.Event()
        connection.on_refusal = self._refuse
        connection.lost.add_done_callback(self._fail_all)

    @property
    def payload_bytes_max(self) -> int:
        """The largest message that the server takes, headers included."""
        return self._connection.max_payload

    async def begin(self) -> None:
        """Be ready for replies. When it returns the server has proved to be there."""
        await self._connection.subscribe(
            f"{self._inbox}.*",
            cb=self._take_reply,
            pending_msgs_limit=REPLIES_MAX,
            pending_bytes_limit=REPLIES_BYTES_MAX,
        )
        pong = await self._connection.ping()
        await _first_of(pong, self._connection.lost)
        if not pong.done():
            raise ConnectionLost(self._connection.lost.result())

    async def run(self) -> str:
        """Serve until the connection is lost, and say why it was."""
        tasks = [
            asyncio.create_task(self._guard(self._write()), name="nats-write"),
            asyncio.create_task(self._guard(self._watch()), name="nats-watch"),
        ]
        try:
            await asyncio.wait([self._connection.lost])
        finally:
            self._connection.lose("this node is stopping")
            await end_tasks(*tasks)
        return self._connection.lost.result()

    async def publish(self, message: Message) -> None:
        """Returns when the server has taken the message.

        Raises:
            ConnectionLost: it may have been taken or not.
            Refused: the server does not permit it.
        """
        await self._carry(_Entry(message))

    async def request(self, message: Message) -> Reply:
        """Returns the first reply.

        Raises:
            ConnectionLost: the message may have arrived or not.
            Refused: the server does not permit it.
        """
        if self._replies_refused is not None:
            raise Refused(self._replies_refused)
        # Nobody who sees one reply address can guess the others.
        entry = _Entry(message, f"{self._inbox}.{secrets.token_urlsafe(TOKEN_BYTES)}")
        self._by_inbox[entry.reply_to] = entry
        try:
            reply = await self._carry(entry)
        finally:
            del self._by_inbox[entry.reply_to]
        assert reply is not None, "nothing but a reply resolves a request"
        return reply

    async def _carry(self, entry: _Entry) -> Reply | None:
        if self._connection.lost.done():
            raise ConnectionLost(self._connection.lost.result())
        self._open.add(entry)
        self._queue[entry] = None
        self._wake.set()
        try:
            return await entry.done
        finally:
            self._open.discard(entry)
            self._queue.pop(entry, None)

    # Writing

    async def _guard(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as error:  # the library lets errors of all kinds through
            logger.debug("the connection to NATS failed", exc_info=True)
            self._connection.lose(told(error))

    async def _write(self) -> None:
        while not self._connection.lost.done():
            await self._wake.wait()
            self._wake.clear()
            while self._queue and not self._connection.lost.done():
                await self._write_batch()

    async def _write_batch(self) -> None:
        proven: list[_Entry] = []
        for _ in range(BATCH_MAX):
            if not self._queue or self._connection.lost.done():
                break
            entry, _ = self._queue.popitem(last=False)
            if entry.done.done():  # cancelled
                continue
            message = entry.message
            if not entry.reply_to:
                proven.append(entry)
            if message is not None:
                await self._connection.publish(
                    message.subject,
                    message.payload,
                    reply=entry.reply_to,
                    headers=message.headers,
                )
        if proven:
            pong = await self._connection.ping()
            pong.add_done_callback(partial(_prove, proven))

    async def _watch(self) -> None:
        lost = self._connection.lost
        slice_s = self._echo_timeout_ms / ECHO_SLICES / 1000
        while not lost.done():
            await asyncio.sleep(self._echo_interval_s)
            echo = _Entry(None)
            self._queue[echo] = None
            self._wake.set()
            for _ in range(ECHO_SLICES):
                if not echo.done.done() and not lost.done():
                    await _first_of(echo.done, lost, timeout_s=slice_s)
            if not echo.done.done():
                self._connection.lose(f"the server was silent for {self._echo_timeout_ms} ms")

    # What comes back

    async def _take_reply(self, msg: Msg) -> None:
        entry = self._by_inbox.get(msg.subject)
        if entry is not None:  # otherwise it is late, and nobody waits for it any more
            entry.resolve(Reply(msg.data, msg.headers or {}))

    def _refuse(self, text: str) -> None:
        """The server denies a permission. It says so before it answers a PING that came after."""
        match = PUBLISH_REFUSED.search(text)
        if match is None:  # of a subscription, and there is only one
            self._replies_refused = f"the server does not permit to get replies: {text}"
            return
        subject = json.loads(match["quoted"])  # Go quotes printable ASCII as JSON does
        for entry in self._open:
            message = entry.message  # the library has put the server's words in lower case
            if message is not None and message.subject.lower() == subject:
                entry.fail(Refused(f"the server does not permit to publish to {message.subject}"))

    def _fail_all(self, lost: asyncio.Future[str]) -> None:
        for entry in self._open:
            entry.fail(ConnectionLost(lost.result()))


def _prove(entries: Sequence[_Entry], pong: asyncio.Future[object]) -> None:
    if not pong.cancelled():
        for entry in entries:
            entry.resolve(None)


async def _first_of(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
