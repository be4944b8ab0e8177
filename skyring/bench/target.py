"""The server under test: one that runs already, or one that the benchmark starts for itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyring.bench.client import status_or_none
from skyring.bench.errors import BenchError
from skyring.bench.load import LoadResult
from skyring.bench.process import ServerProcess, Usage
from skyring.bench.wire import build_request, split_url

__all__ = ["Common", "CpuMeter", "Target", "open_target", "own_server", "refused", "timer_body"]

NOWHERE = "http://127.0.0.1:9/"
"""Callback of timers that are not meant to fire: the discard port."""


def _silent(message: str) -> None:
    pass


@dataclass(frozen=True)
class Common:
    """What every benchmark is told."""

    url: str | None = None
    """A running server; None starts one."""
    rounds: int = 3
    server_arguments: Sequence[str] = ()
    server_command: Sequence[str] | None = None
    progress: Callable[[str], None] = _silent
    """Called with one line now and then."""


@dataclass(frozen=True)
class Target:
    """Where the server is. ``server`` is None when it is not ours."""

    host: str
    port: int
    server: ServerProcess | None = None

    @property
    def url(self) -> str:
        """Base URL, for reports."""
        return f"http://{self.host}:{self.port}"

    def request(self, path: str, body: bytes, content_type: str = "application/json") -> bytes:
        """A whole POST request to this server."""
        return build_request("POST", f"{self.host}:{self.port}", path, body, content_type)

    def usage(self) -> Usage | None:
        """What the server uses; None when it is not ours, or this is not Linux."""
        return None if self.server is None else self.server.usage()


class CpuMeter:
    """Share of a core that a process took since this was made."""

    def __init__(self, usage: Callable[[], Usage | None]) -> None:
        self._usage = usage
        self._begin = usage()

    def share(self, seconds: float) -> float | None:
        """1.0 is one core over ``seconds``; None where it cannot be had."""
        end = self._usage()
        if self._begin is None or end is None or seconds <= 0:
            return None
        return round((end.cpu_s - self._begin.cpu_s) / seconds, 3)


@asynccontextmanager
async def open_target(common: Common) -> AsyncIterator[Target]:
    """The server of ``common``, ready; one of our own is stopped at the end.

    Raises:
        BenchError: no server answers there, or it is not ready.
    """
    if common.url is None:
        async with own_server(common) as server:
            await server.start()
            yield Target(server.host, server.port, server)
        return
    host, port = split_url(common.url)
    status = await status_or_none(host, port, "/health/ready", timeout_s=5.0)
    if status is None:
        raise BenchError(
            f"no server answers at {common.url}; start one with `skyring run`,"
            " or leave --url out and the benchmark starts its own"
        )
    if status == 503:
        raise BenchError(f"the server at {common.url} is not ready")
    yield Target(host, port)


@asynccontextmanager
async def own_server(common: Common) -> AsyncIterator[ServerProcess]:
    """A server in a directory of its own, not yet started; stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="skyring-bench-") as directory:
        server = ServerProcess(
            Path(directory),
            arguments=common.server_arguments,
            command=common.server_command,
        )
        try:
            yield server
        finally:
            await server.stop()


def timer_body(
    *, data: str, uri: str = NOWHERE, timeout_ms: int | None = None, at_ms: int | None = None
) -> bytes:
    """The body of a ``POST /timer``; exactly one of ``timeout_ms`` and ``at_ms``."""
    when = {"timeout": timeout_ms} if at_ms is None else {"at": at_ms}
    body: dict[str, Any] = {
        **when,
        "data": data,
        "callback": {"transport": "http", "method": "post", "uri": uri},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def refused(what: str, result: LoadResult) -> BenchError:
    """The error for a server that did not take what it was given."""
    if result.refusal is not None:
        return BenchError(f"the server refused {what}: {result.refusal}")
    return BenchError(f"the server did not answer {what}; {result.broken} connections broke")
