"""A receiver of callbacks for tests: a real server that keeps what comes and answers as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

ACCEPT_TURNS = 3
"""Turns of the event loop between accepting a connection and knowing of it."""

Answer = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class Received:
    """One callback as it came."""

    arrived_ms: float
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def attempt(self) -> int:
        return int(self.headers["webhook-attempt"])

    @property
    def due_ms(self) -> int:
        return int(self.headers["webhook-due"])


def always_ok(callback: Received) -> Answer:
    return 200, {}


@dataclass
class CallbackReceiver:
    """Listens on a free port of 127.0.0.1.

    ``answer`` decides what a callback gets; ``hold`` keeps answers back until `release`.
    """

    answer: Callable[[Received], Answer] = always_ok
    received: list[Received] = field(default_factory=list)
    hold: bool = False
    port: int = 0

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self._released = asyncio.Event()
        self._writers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._released.set()
        self._server.close()
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)
        for writer in list(self._writers):
            writer.transport.abort()
        if self._writers:
            await asyncio.wait(self._writers.values())
        await self._server.wait_closed()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def callback(self, **more: object) -> dict[str, object]:
        """A callback object that leads here."""
        return {"transport": "http", "method": "post", "uri": self.uri, **more}

    def hold_again(self) -> None:
        self.hold = True
        self._released.clear()

    def release(self) -> None:
        self.hold = False
        self._released.set()

    async def wait(self, count: int, timeout_s: float = 30) -> list[Received]:
        """Return when ``count`` callbacks have come; fails when they do not."""
        async with asyncio.timeout(timeout_s):
            while len(self.received) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.received

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Noted at once: a task that has not begun yet would not be known when the test ends.
        self._writers[writer] = asyncio.create_task(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                arrived_ms = time.time_ns() / 1e6
                first, *lines = head.decode("latin-1").split("\r\n")
                method, path, _ = first.split(" ")
                pairs = (line.split(":", 1) for line in lines if line)
                headers = {name.lower(): value.strip() for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                callback = Received(arrived_ms, method, path, headers, body)
                self.received.append(callback)
                self._changed.set()
                if self.hold:
                    await self._released.wait()
                status, extra = self.answer(callback)
                more = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{more}content-length: 0\r\n\r\n".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            del self._writers[writer]
            writer.close()
