"""A receiver on a bare socket: it keeps every byte that comes, and answers as a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

HEAD_END = b"\r\n\r\n"
WAIT_S_MAX = 30
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: int, *lines: str, body: bytes = b"") -> bytes:
    """An answer as it goes over the wire; no connection is closed after it."""
    head = [f"HTTP/1.1 {status} Some Reason", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


@dataclass
class Exchange:
    """One request, and the connection to answer on."""

    head: bytes
    body: bytes
    number: int
    """1 for the first request to this receiver."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def request_line(self) -> str:
        return self.head.decode("latin-1").split("\r\n")[0]

    @property
    def header_lines(self) -> list[str]:
        return self.head.decode("latin-1").split("\r\n")[1:]

    def header(self, name: str) -> list[str]:
        """Values of a header, whose name must have this case."""
        pairs = (line.split(": ", 1) for line in self.header_lines)
        return [value for found, value in pairs if found == name]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def wait_for_close(self) -> None:
        """Until the other side has closed the connection."""
        await self.reader.read()


Script = Callable[[Exchange], Awaitable[None]]


async def always_ok(exchange: Exchange) -> None:
    await exchange.send(OK)


def always(data: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.send(data)

    return script


class RawReceiver:
    """Listens on a free port of 127.0.0.1.

    ``script`` is awaited for each request; the connection stays open unless the script closes it.
    """

    def __init__(self, script: Script = always_ok, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._handlers: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.closed = 0
        """Connections that have ended."""
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=2048
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._handlers)
        await self._server.wait_closed()

    def url(self, path: str = "/hook", scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def wait_for(self, reached: Callable[[RawReceiver], bool]) -> None:
        """Until a request or the end of a connection makes it true; fails if nothing ever does."""
        async with asyncio.timeout(WAIT_S_MAX), self._changed:
            await self._changed.wait_for(lambda: reached(self))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while not writer.is_closing():
                exchange = await self._read(reader, writer)
                async with self._changed:
                    self._changed.notify_all()
                await self._script(exchange)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass  # the client closes when it likes
        finally:
            writer.close()
            self._handlers.discard(task)
            self._writers.discard(writer)
            self.closed += 1
            async with self._changed:
                self._changed.notify_all()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange:
        head = (await reader.readuntil(HEAD_END))[: -len(HEAD_END)]
        exchange = Exchange(head, b"", len(self.exchanges) + 1, reader, writer)
        lengths = exchange.header("content-length")
        if lengths:
            exchange.body = await reader.readexactly(int(lengths[0]))
            exchange.number = len(self.exchanges) + 1
        self.exchanges.append(exchange)
        return exchange
