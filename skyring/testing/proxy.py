"""A way to a server that can be cut, and can fall silent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

__all__ = ["Proxy"]

PIECE_BYTES = 65_536


class Proxy:
    """Passes connections on to a server of this machine, until it is told otherwise.

    Used as ``async with Proxy(port) as proxy:``.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._to_port = port
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._to_server = asyncio.Event()
        self._to_client = asyncio.Event()
        self._open_gates()
        self.connections = 0
        """Those that were begun."""
        self.passed = 0
        """Pieces of data that were passed on."""

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "it has to be entered"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """For NATS."""
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._pipes:
            await asyncio.wait(self._pipes)

    def swallow(self) -> None:
        """The connections that are there stay open, and carry nothing more."""
        self._to_server.clear()
        self.swallow_answers()

    def swallow_answers(self) -> None:
        """The connections that are there carry nothing more to the client; the server hears all."""
        self._to_client.clear()
        self._open_gates()

    def cut(self) -> None:
        """End the connections that are there."""
        for pipe in self._pipes:
            pipe.cancel()

    def _open_gates(self) -> None:
        """For the connections to come, unless those that are there can use them too."""
        if not self._to_server.is_set():
            self._to_server = asyncio.Event()
        if not self._to_client.is_set():
            self._to_client = asyncio.Event()
        self._to_server.set()
        self._to_client.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        gates = self._to_server, self._to_client
        try:
            there = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        for source, sink, gate in ((reader, there[1], gates[0]), (there[0], writer, gates[1])):
            pipe = asyncio.create_task(self._pass_on(source, sink, gate))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(PIECE_BYTES):
                    await gate.wait()
                    self.passed += 1
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.transport.abort()
