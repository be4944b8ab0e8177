"""A real Redis server, as a process of its own, and a consumer that reads its stream."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from skyring.ports import free_port
from skyring.testing import Peer, pause_process, resume_process
from skyring.timers.attempt import Attempts
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_redis import Redis

__all__ = ["CERTIFICATE", "RedisServer", "deliver", "opened", "turns", "until", "until_delivered"]

CERTIFICATE = Path(__file__).parents[3] / "tests" / "contract" / "localhost.pem"
"""Names localhost, signed by itself, valid until 2126; its key is in the same file."""
WAIT_S_MAX = 30
POLL_S = 0.01
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


def program(name: str, package: str) -> str:
    """The path of a program, which the tests cannot do without."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed: apt-get install {package}"
    return found


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[Redis]:
    """A transport with these options, open; short pauses unless said otherwise."""
    given = {"url": url, "reconnect_pause_ms": 50, **options}
    transport = Redis(Redis.Options.model_validate(given))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def deliver(
    transport: Redis,
    payload: bytes = b"hello",
    uri: str = "timers",
    headers: dict[str, str] | None = None,
    **facts: Any,
) -> Outcome:
    """One attempt, as a node makes it."""
    callback = Callback(transport="redis", method="xadd", uri=uri, headers=headers or {})
    usual = {"id": "t-1", "attempt": 1, "due_ms": 1_000, "started_ms": 2_000, "timeout_ms": 20_000}
    info = DeliveryInfo(**{**usual, "content_type": "text/plain", **facts})
    return await Attempts().attempt(transport, callback, payload, info)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Until it is true, which nobody is told of."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not await reached():
            await asyncio.sleep(POLL_S)


async def turns(count: int) -> None:
    """Let everything that waits for nothing outside this process get on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until_delivered(transport: Redis, payload: bytes = b"again") -> list[str]:
    """Deliver until it is taken, and return why it was not before."""
    reasons = []
    async with asyncio.timeout(WAIT_S_MAX):
        while (outcome := await deliver(transport, payload)) != Outcome.delivered():
            assert outcome.kind == "retry"
            reasons.append(outcome.reason)
            await asyncio.sleep(POLL_S)
    return reasons


class RedisServer(Peer):
    """It listens on a port, or with ``tls`` on one with TLS, and on a Unix socket besides.

    Args:
        directory: for its files; what has been written is there again after `kill`.
        arguments: more of the command line.
        password: that of the consumer.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        key: str = "timers",
        tls: bool = False,
        password: str | None = None,
    ) -> None:
        self.port = free_port()
        self.socket = directory / "redis.sock"
        self.key = key
        self.arguments = arguments
        self.log = directory / "redis.log"
        self._directory = directory
        self._password = password
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.asyncio.Redis | None = None
        self._received: list[bytes] = []
        self._last_id = b"-"

    @property
    def callback(self) -> Callback:
        return Callback(transport="redis", method="xadd", uri=self.key)

    @property
    def url(self) -> str:
        if self._tls:
            return f"rediss://localhost:{self.port}"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        process = await self.launch()
        async with asyncio.timeout(WAIT_S_MAX):
            while not await self._is_ready():
                assert process.poll() is None, self.log.read_text()
                await asyncio.sleep(POLL_S)

    async def launch(self) -> subprocess.Popen[bytes]:
        """Start it, and wait for nothing."""
        self._process = self._launched()
        self._client = redis.asyncio.Redis(
            unix_socket_path=str(self.socket),
            password=self._password,
            socket_timeout=WAIT_S_MAX,
            retry=Retry(NoBackoff(), 0),
        )
        return self._process

    async def kill(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # one that is stopped, too
            await asyncio.to_thread(process.wait)

    async def pause(self) -> None:
        assert self._process is not None
        await pause_process(self._process.pid)

    async def resume(self) -> None:
        assert self._process is not None
        resume_process(self._process.pid)

    async def received(self) -> Sequence[bytes]:
        entries: Any = True
        while entries and self._client is not None:
            entries = await self._client.xrange(self.key, min=self._after(), count=1_000)
            for entry, fields in entries:
                self._received.append(fields[b"data"])
                self._last_id = entry
        return self._received

    async def do(self, *command: object) -> Any:
        """A command of the test."""
        assert self._client is not None
        return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def entries(self) -> list[dict[str, str]]:
        """The fields of all entries, as text."""
        assert self._client is not None
        found: Any = await self._client.xrange(self.key)
        return [
            {name.decode(): value.decode() for name, value in fields.items()} for _, fields in found
        ]

    def _launched(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _after(self) -> bytes:
        return self._last_id if self._last_id == b"-" else b"(" + self._last_id

    async def _is_ready(self) -> bool:
        assert self._client is not None
        with suppress(redis.exceptions.RedisError):
            await self._client.xlen(self.key)
            return True
        return False

    def _command(self) -> list[str]:
        command = [program("redis-server", "redis-server"), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._directory), "--unixsocket", str(self.socket), *DURABLE]
        if self._tls:
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            command += ["--tls-cert-file", str(CERTIFICATE), "--tls-key-file", str(CERTIFICATE)]
        else:
            command += ["--port", str(self.port)]
        return [*command, *self.arguments]
