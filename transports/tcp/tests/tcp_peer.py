"""Receivers for the tests of the tcp transport, in this process or in one of their own."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from skyring.ports import free_port
from skyring.testing import Peer
from skyring.timers.attempt import Attempts
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_tcp import Tcp

CERTIFICATE = Path(__file__).parents[3] / "tests" / "contract" / "localhost.pem"
"""Names localhost, signed by itself, valid until 2126; its key is in the same file."""
START_S_MAX = 30
DUE_MS = 1_700_000_000_000
BIG = b"x" * (16 << 20)


def ok(message: bytes) -> bytes | None:
    return b"ok"


def quiet(message: bytes) -> bytes | None:
    return None


def tls_of_receiver() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def packed(message: bytes, framing: str = "length") -> bytes:
    if framing == "newline":
        return message + b"\n"
    return len(message).to_bytes(4, "big") + message


class Link(asyncio.Protocol):
    """One connection to the receiver."""

    def __init__(self, peer: TcpPeer) -> None:
        self.peer = peer
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer.links.append(self)
        self.peer.connections += 1
        if not self.peer.is_up:  # it was killed during the handshake
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.peer.links.remove(self)
        self.peer.changed.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.work()

    def work(self) -> None:
        """Take the messages that are complete, unless the receiver is silent."""
        while not self.peer.is_silent and (message := self._take()) is not None:
            self.peer.take(message)
            answer = self.peer.answer(message)
            if answer is not None:
                self.transport.write(packed(answer, self.peer.framing))

    def _take(self) -> bytes | None:
        if self.peer.framing == "newline":
            start, end = 0, self.buffer.find(b"\n")
            after = end + 1
        else:
            start, end = 4, 4 + int.from_bytes(self.buffer[:4], "big")
            after = end
        if end < start or len(self.buffer) < after:
            return None
        message = bytes(self.buffer[start:end])
        del self.buffer[:after]
        return message


class TcpPeer(Peer):
    """A receiver in the event loop of the test.

    Args:
        framing, content: as the options of the transport.
        tls: does it want TLS?
        answer: to a message; None for no answer.
    """

    def __init__(
        self,
        framing: str = "length",
        content: str = "payload",
        tls: bool = False,
        answer: Callable[[bytes], bytes | None] = ok,
    ) -> None:
        self.framing = framing
        self.content = content
        self.answer = answer
        self.links: list[Link] = []
        self.connections = 0
        """How many have ever been made."""
        self.is_silent = False
        self.changed = asyncio.Event()
        self.port = free_port()
        self.messages: list[bytes] = []
        self._tls = tls_of_receiver() if tls else None
        self._payloads: list[bytes] = []
        self._server: asyncio.Server | None = None

    @property
    def is_up(self) -> bool:
        return self._server is not None

    @property
    def uri(self) -> str:
        return f"tls://localhost:{self.port}" if self._tls else f"tcp://127.0.0.1:{self.port}"

    @property
    def callback(self) -> Callback:
        return Callback(transport="tcp", method="send", uri=self.uri)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Link(self), "127.0.0.1", self.port, ssl=self._tls, backlog=1024
        )

    async def kill(self) -> None:
        self.is_silent = False
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for link in list(self.links):
            link.transport.abort()
        await self.wait_until(lambda: not self.links)

    async def pause(self) -> None:
        self.is_silent = True

    async def resume(self) -> None:
        self.is_silent = False
        for link in list(self.links):
            link.work()

    async def received(self) -> Sequence[bytes]:
        return self._payloads

    async def wait_until(self, reached: Callable[[], bool]) -> None:
        """Until a message or the end of a connection makes it true."""
        async with asyncio.timeout(START_S_MAX):
            while not reached():
                self.changed.clear()
                await self.changed.wait()

    def take(self, message: bytes) -> None:
        self.messages.append(message)
        payload = message
        if self.content == "envelope":
            payload = json.loads(message)["data"].encode()
        self._payloads.append(payload)
        self.changed.set()


class TcpProcess(Peer):
    """A receiver in a process of its own, which keeps what comes in a file.

    Args:
        path: of the file; one line for each message, in hexadecimal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def callback(self) -> Callback:
        return Callback(transport="tcp", method="send", uri=f"tcp://127.0.0.1:{self.port}")

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.port), str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    async def kill(self) -> None:
        """With SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    async def pause(self) -> None:
        raise NotImplementedError

    async def resume(self) -> None:
        raise NotImplementedError

    async def received(self) -> Sequence[bytes]:
        # A line that was cut off by the kill was not answered.
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [bytes.fromhex(line.decode()) for line in lines]


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Tcp]:
    transport = Tcp(Tcp.Options(**options))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def send(
    transport: Tcp, peer: TcpPeer | str, payload: bytes = b"hello", timeout_ms: int = 20_000
) -> Outcome:
    """Deliver as a node does."""
    uri = peer if isinstance(peer, str) else peer.uri
    info = DeliveryInfo("id-1", 2, DUE_MS, DUE_MS + 5, timeout_ms, "text/plain; charset=utf-8")
    return await Attempts().attempt(transport, Callback("tcp", "send", uri), payload, info)


async def drained(transport: Tcp) -> None:
    """Until no connection is left."""
    assert transport._pool is not None
    async with asyncio.timeout(20):
        while len(transport._pool):
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any],
) -> AsyncIterator[str]:
    """A receiver that treats each connection as ``handle`` does; its uri."""
    server = await asyncio.start_server(handle, "127.0.0.1", free_port())
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def _serve(port: int, path: Path) -> None:
    """The receiver of `TcpProcess`: it answers when the system has what came."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(4), "big")
                message = await reader.readexactly(length)
                os.write(file, message.hex().encode() + b"\n")
                writer.write(packed(b"ok"))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    await asyncio.start_server(serve, "127.0.0.1", port)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # which ends with the test
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
