"""uvicorn, with the limits it does not have by itself.

uvicorn waits for ever for the rest of a request, takes headers of any size, and counts idle
connections against its concurrency limit; one client could so keep all others out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from skyring.errors import SkyringError
from skyring.http.reply import App
from skyring.settings import HttpSettings

__all__ = ["HttpServer", "ListenError", "within_descriptors"]

logger = logging.getLogger(__name__)

BACKLOG = 2048
PIPELINE_MAX = 100
"""Requests of one connection that may wait for the answer to the one before."""
FIELDS_MAX = 1_000
"""Headers and trailers of one request."""


class ListenError(SkyringError):
    """The address cannot be listened on."""

    code = "listen"


def _raw_problem(status: str, reason: str, extra: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nx-skyring-reason: {reason}\r\n{extra}"
        "content-length: 0\r\nconnection: close\r\n\r\n"
    ).encode()


class GuardedProtocol(HttpToolsProtocol):
    """One connection, which has to get on with its requests.

    A request that arrives in one piece, as nearly all do, costs no timer.
    """

    limits: HttpSettings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_for_body = False
        self._header_bytes = 0
        self._body_bytes = 0
        self._body_bytes_max = 2 * self.limits.bulk_bytes_max + self.limits.header_bytes_max
        self._upgrade_asked = False
        if len(self.connections) > self.limits.connections_max:
            self._refuse(
                "503 Service Unavailable", "too many connections", extra="retry-after: 1\r\n"
            )
        else:
            self._set_alarm(for_body=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_alarm()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.parser.should_upgrade():
            # The parser takes what follows for another protocol: no request can be read after it.
            self._upgrade_asked = True
            self.cycle.keep_alive = False

    def _unsupported_upgrade_warning(self) -> None:
        """The answer says it; uvicorn would log an advice that does not apply here."""

    def data_received(self, data: bytes) -> None:
        if self._upgrade_asked:
            return
        if self._header_bytes + len(data) > self.limits.header_bytes_max and self._has_large(data):
            self._refuse("431 Request Header Fields Too Large", "the headers are too large")
            return
        if len(self.pipeline) > PIPELINE_MAX:
            self.transport.close()  # it asks and asks, and does not read the answers
            return
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        # uvicorn makes a scope when a request begins and a cycle when its headers are complete.
        if cycle is None or cycle.scope is not self.scope:
            self._header_bytes += len(data)
            if self._alarm is None:
                self._set_alarm(for_body=False)
        elif cycle.more_body and not cycle.response_complete:
            self._go_on_with_body(data)
        elif cycle.response_complete:
            # Blank lines, or a body that nobody wanted: they have stopped uvicorn's own clock.
            if self._alarm is None:
                self._set_alarm(for_body=False)
        else:
            self._header_bytes = self._body_bytes = 0
            if self._alarm is not None:
                self._stop_alarm()

    def _has_large(self, data: bytes) -> bool:
        """Do the headers that ``data`` is part of exceed their maximum?"""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.scope is self.scope and cycle.more_body:
            return False  # it is part of a body
        end = data.find(b"\r\n\r\n")
        length = len(data) if end < 0 else end + 4
        return self._header_bytes + length > self.limits.header_bytes_max

    def _go_on_with_body(self, data: bytes) -> None:
        self._header_bytes = 0
        self._body_bytes += len(data)
        if self._body_bytes > self._body_bytes_max or len(self.headers) > FIELDS_MAX:
            self._refuse("413 Content Too Large", "the body and its trailers are too large")
        elif not self._alarm_for_body:
            self._set_alarm(for_body=True)

    def _set_alarm(self, *, for_body: bool) -> None:
        self._stop_alarm()
        limits = self.limits
        timeout_ms = limits.body_timeout_ms if for_body else limits.header_timeout_ms
        self._alarm = self.loop.call_later(timeout_ms / 1000, self._too_slow)
        self._alarm_for_body = for_body

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
            self._alarm_for_body = False

    def _too_slow(self) -> None:
        self._refuse("408 Request Timeout", "the request did not arrive in time")

    def _refuse(self, status: str, reason: str, extra: str = "") -> None:
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_raw_problem(status, reason, extra))
        self.transport.close()


def within_descriptors(settings: HttpSettings) -> HttpSettings:
    """The limits, with no more connections than half of the file descriptors there are.

    The other half is for the storage and the deliveries: without one the storage cannot write.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return settings
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY or settings.connections_max <= descriptors // 2:
        return settings
    fitting = max(1, descriptors // 2)
    logger.warning(
        "http.connections_max is lowered from %d to %d: the process may have %d open files",
        settings.connections_max,
        fitting,
        descriptors,
    )
    return settings.model_copy(update={"connections_max": fitting})


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the process is not always ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Listens on one address.

    Args:
        app: what answers.
        host: address.
        port: 0 takes a free one.
        settings: limits.
        drain_ms: time allowed to requests under way when it is stopped.
    """

    def __init__(
        self, app: App, host: str, port: int, settings: HttpSettings, drain_ms: int
    ) -> None:
        self._host = host
        self._port = port
        config: dict[str, Any] = {
            "http": type("Protocol", (GuardedProtocol,), {"limits": within_descriptors(settings)}),
            "ws": "none",
            "lifespan": "off",
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,
            "timeout_keep_alive": settings.keep_alive_ms / 1000,
            "timeout_graceful_shutdown": max(1, drain_ms // 1000),
        }
        self._server = _Server(uvicorn.Config(app, **config))
        self._socket: socket.socket | None = None

    def bind(self) -> int:
        """Take the address and say which port it is.

        Raises:
            ListenError: somebody else has it, or it is not ours to take.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio switches Nagle's algorithm off for what says that it is TCP: or else the body of
        # an answer would wait 40 ms for the acknowledgement of its headers. uvloop always does.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
            listener.listen(BACKLOG)
        except (OSError, UnicodeError) as error:
            listener.close()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ListenError(f"cannot listen on {self._host}:{self._port}: {reason}") from error
        self._socket = listener
        port: int = listener.getsockname()[1]
        return port

    def unbind(self) -> None:
        """Give the address back, if `run` was never called."""
        if self._socket is not None:
            self._socket.close()

    async def run(self) -> None:
        """Serve until `stop`."""
        assert self._socket is not None
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Accept nothing more; requests under way are answered."""
        self._server.should_exit = True
