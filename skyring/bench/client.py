"""Single requests of a benchmark, on a connection of their own. For what is not measured."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from skyring.bench.errors import BenchError
from skyring.bench.wire import Framer, build_request, status_of

__all__ = ["Answer", "Connection", "request", "status_or_none"]

READ_BYTES = 256 << 10


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    head: bytes
    body: bytes


class Connection:
    """One kept-alive connection; requests on it one after the other."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
        timeout_s: float = 60.0,
    ) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            BenchError: nobody answers, or not within ``timeout_s``.
        """
        answer = await self.answer(method, path, body, content_type, timeout_s)
        return answer.status, answer.body

    async def answer(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
        timeout_s: float = 60.0,
    ) -> Answer:
        """The whole answer, with its headers. Raises as `request`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(method, path, body, content_type)
        except TimeoutError as error:
            raise BenchError(
                f"no answer to {method} {path} from {self.host}:{self.port} in {timeout_s:g} s"
            ) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise BenchError(f"no server at {self.host}:{self.port}: {reason}") from error

    async def _exchange(self, method: str, path: str, body: bytes, content_type: str) -> Answer:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
        host = f"{self.host}:{self.port}"
        self._writer.write(build_request(method, host, path, body, content_type))
        framer = Framer()
        while data := await self._reader.read(READ_BYTES):
            if messages := framer.feed(data):
                head, content = messages[0]
                return Answer(status_of(head), head, content)
        raise BenchError(f"{host} closed the connection instead of answering {method} {path}")

    async def close(self) -> None:
        """Close the connection; a further request would open a new one."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.transport.abort()

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


async def request(
    host: str,
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    content_type: str = "application/json",
    timeout_s: float = 60.0,
) -> tuple[int, bytes]:
    """One request on a new connection: status and body.

    Raises:
        BenchError: nobody answers, or not within ``timeout_s``.
    """
    async with Connection(host, port) as connection:
        return await connection.request(method, path, body, content_type, timeout_s)


async def status_or_none(host: str, port: int, path: str, timeout_s: float) -> int | None:
    """The status of a GET, or None when nobody answers within ``timeout_s``."""
    try:
        status, _ = await request(host, port, "GET", path, timeout_s=timeout_s)
    except BenchError:
        return None
    return status
