"""The receiver of the webhooks: a process of its own that stamps, keeps, and answers 200.

As little as possible stands between the socket and the stamp; what was kept is read only when the
benchmark asks for it, after the round. Besides webhooks (any POST) it answers ``GET /count`` and
``GET /take``; the latter hands out what it has kept, at most `TAKE_MAX` at once, and forgets it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from typing import Any, cast

from skyring.bench.client import Connection
from skyring.bench.errors import BenchError
from skyring.bench.process import EVENT_LOOP, HelperProcess, exit_with_parent
from skyring.bench.stats import Delivery
from skyring.bench.wire import Framer, Message, header

__all__ = ["KEPT_MAX", "TAKE_MAX", "Receiver", "decode", "encode", "main"]

KEPT_MAX = 2_000_000
"""Deliveries held until they are taken; further ones are counted, but not kept."""
TAKE_MAX = 20_000
COUNT_POLL_S = 0.1

_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

Kept = tuple[int, bytes, bytes]
"""Arrival (epoch nanoseconds), head, body."""


class _Records:
    def __init__(self) -> None:
        self.kept: deque[Kept] = deque()
        self.count = 0

    def add(self, arrived_ns: int, message: Message) -> None:
        self.count += 1
        if len(self.kept) < KEPT_MAX:
            self.kept.append((arrived_ns, *message))

    def take(self) -> list[Kept]:
        return [self.kept.popleft() for _ in range(min(TAKE_MAX, len(self.kept)))]


class _Protocol(asyncio.Protocol):
    def __init__(self, records: _Records) -> None:
        self._records = records
        self._framer = Framer()
        self._began_ns = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        now_ns = time.time_ns()
        # A message in several pieces has arrived when its first piece did: that is what a timer
        # that fires early would be caught by.
        began_ns = now_ns if self._framer.idle else self._began_ns
        self._began_ns = began_ns
        assert self._transport is not None
        try:
            messages = self._framer.feed(data)
        except BenchError:
            self._transport.abort()
            return
        for message in messages:
            if message[0].startswith(b"GET "):
                self._transport.write(self._answer(message[0].split(b" ", 2)[1]))
            else:
                self._records.add(began_ns, message)
                self._transport.write(_OK)
            began_ns = self._began_ns = now_ns

    def _answer(self, path: bytes) -> bytes:
        if path == b"/count":
            body = b"%d" % self._records.count
        elif path == b"/take":
            body = encode(self._records.take())
        else:
            return _OK
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def encode(kept: list[Kept]) -> bytes:
    """What ``GET /take`` answers: a JSON array of arrays."""
    return json.dumps(
        [
            (
                arrived_ns,
                body.decode("utf-8", "replace"),
                header(head, "webhook-id"),
                header(head, "webhook-due"),
                header(head, "webhook-attempt"),
            )
            for arrived_ns, head, body in kept
        ]
    ).encode()


def decode(content: bytes) -> list[Delivery]:
    """The inverse of `encode`. A header that is missing or unreadable counts as not sent."""
    return [
        Delivery(
            key=body,
            timer_id=timer_id or "",
            arrived_ms=arrived_ns / 1e6,
            due_ms=_number(due),
            attempt=_number(attempt) or 1,
        )
        for arrived_ns, body, timer_id, due, attempt in json.loads(content)
    ]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


class Receiver(HelperProcess):
    """The receiver as the benchmark holds it: where to send webhooks, and what has arrived."""

    def __init__(self) -> None:
        super().__init__("skyring.bench.receiver")
        self._control: Connection | None = None

    @property
    def uri(self) -> str:
        """Where webhooks go."""
        return f"http://{self.address}/webhook"

    async def start(self, timeout_s: float = 30.0) -> None:
        """Start it and return when it answers.

        Raises:
            BenchError: it does not answer in time.
        """
        await super().start(timeout_s)
        self._control = Connection(self.host, self.port)

    async def stop(self) -> None:
        """End it; nothing happens when it does not run."""
        if self._control is not None:
            await self._control.close()
        await super().stop()

    async def count(self) -> int:
        """Deliveries since the start, duplicates included."""
        return int(await self._get("/count"))

    async def take(self) -> list[Delivery]:
        """The deliveries since the last time, in the order in which they arrived."""
        taken: list[Delivery] = []
        while part := decode(await self._get("/take")):
            taken += part
        return taken

    async def settled(self, wanted: int, *, patience_s: float, linger_s: float = 1.0) -> None:
        """Return when ``wanted`` deliveries have arrived since the start and a while has passed.

        Args:
            patience_s: how long to go on when nothing more arrives.
            linger_s: how long to wait afterwards for deliveries that should not be.
        """
        seen, seen_s = -1, time.monotonic()
        while (count := await self.count()) < wanted:
            now_s = time.monotonic()
            if count != seen:
                seen, seen_s = count, now_s
            elif now_s - seen_s > patience_s:
                return
            await asyncio.sleep(COUNT_POLL_S)
        await asyncio.sleep(linger_s)

    async def _get(self, path: str) -> bytes:
        if self._control is None:
            raise BenchError("the receiver is not running")
        status, body = await self._control.request("GET", path)
        if status != 200:
            raise BenchError(f"the receiver answered {status} to {path}")
        return body


async def _serve(fd: int) -> None:
    import socket

    loop: Any = asyncio.get_running_loop()
    records = _Records()
    listening = socket.socket(fileno=fd)
    listening.setblocking(False)
    server = await loop.create_server(lambda: _Protocol(records), sock=listening)
    exit_with_parent()
    await server.serve_forever()


def main(fd: int) -> None:
    """Serve on the listening socket ``fd`` until standard input ends."""
    if EVENT_LOOP == "uvloop":
        import uvloop

        uvloop.run(_serve(fd))
    else:
        asyncio.run(_serve(fd))


if __name__ == "__main__":
    main(int(sys.argv[1]))
