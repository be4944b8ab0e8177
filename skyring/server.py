"""A node with its HTTP API: what the program runs, and what others embed."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from skyring.clock import Clock
from skyring.errors import SkyringError
from skyring.http.app import build_app
from skyring.http.reply import App
from skyring.http.server import HttpServer
from skyring.node import Node
from skyring.settings import Settings
from skyring.telemetry.logs import set_up_logging
from skyring.timers.facade import Timers
from skyring.transports.loading import TransportSpec

__all__ = ["Skyring", "serve"]

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""A thread of the storage may hold the interpreter this long while the event loop wants it."""


class Skyring:
    """One node, to be embedded.

    >>> async with Skyring(settings) as sky:
    ...     await sky.timers.create(timeout=3000, callback={...})

    Args:
        settings: None takes the defaults, without a look at the environment.
        transports: more transports, as classes, objects, names of installed ones,
            ``package.module:Class``, ``./file.py`` or ``./file.py:Class``.
        clock: what time it is; None takes the machine's.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        transports: Iterable[TransportSpec] = (),
        clock: Clock | None = None,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        self._node = Node(self.settings, transports=transports, clock=clock)
        self.timers = Timers(self._node.service, self._node.pages)
        self._app = build_app(self._node)
        self._servers: list[tuple[HttpServer, asyncio.Task[None]]] = []
        self._ending: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open everything and begin to fire timers.

        Raises:
            StorageError: the storage cannot be opened.
            TransportError: a transport cannot be opened.
        """
        await self._node.start()

    async def listen(self, port: int | None = None, host: str | None = None) -> int:
        """Serve HTTP until `stop`; returns the port. None takes what the settings say.

        Raises:
            ListenError: the address is taken.
        """
        server = HttpServer(
            self._app,
            self.settings.host if host is None else host,
            self.settings.port if port is None else port,
            self.settings.http,
            self.settings.shutdown.drain_ms,
        )
        bound = server.bind()
        try:
            task = self._node.spawn(server.run(), "http")
        except BaseException:
            server.unbind()
            raise
        self._servers.append((server, task))
        self._node.listening(bound)
        return bound

    def asgi(self) -> App:
        """The HTTP API, to be mounted in an ASGI app of yours."""
        return self._app

    async def wait(self) -> None:
        """Wait until the node has stopped; raises what made it fail."""
        await self._node.wait()

    async def stop(self) -> None:
        """Stop in order: fail readiness, answer requests, end deliveries, close the storage."""
        self._node.announce_stop()
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._servers:
            await asyncio.sleep(self.settings.shutdown.ready_delay_ms / 1000)
            await self._node.leave()  # and serve meanwhile
            for server, _ in self._servers:
                server.stop()
            await asyncio.wait([task for _, task in self._servers])
            self._servers.clear()
        await self._node.stop()


def serve(settings: Settings) -> int:
    """Run one node until a signal; returns the exit code."""
    set_up_logging(settings.log)
    _fill_standard_streams()
    _allow_many_connections()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if sys.platform == "win32":
        factory = None
    else:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(settings))


def _fill_standard_streams() -> None:
    """Open what of 0, 1 and 2 is closed: a socket would take the number, and be mistaken for it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _allow_many_connections() -> None:
    """Take all the file descriptors that the system gives; the usual 1,024 are soon used up."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: Settings) -> int:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            logger.warning("stopping at once")
            os._exit(1)
        logger.info("stopping; once more stops at once")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    sky = Skyring(settings)
    stopping = asyncio.create_task(stop.wait(), name="signal")
    if not await _started(sky, stopping):
        logger.info("stopped before it was ready")
        return 0
    try:
        port = await sky.listen()
        _announce(settings, port)
        # What is there now stays until the end: the garbage collector need not look at it again.
        gc.collect()
        gc.freeze()
        running = asyncio.create_task(sky.wait(), name="node")
        await asyncio.wait([stopping, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            try:
                running.result()
            except SkyringError:
                return 1  # the node has said why
        running.cancel()
    finally:
        stopping.cancel()
        await sky.stop()
    logger.info("stopped")
    return 0


async def _started(sky: Skyring, stopping: asyncio.Task[Any]) -> bool:
    """Start, unless a signal comes first: a transport may take its time to open."""
    starting = asyncio.create_task(sky.start(), name="start")
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
    if starting.cancelled():
        return False
    starting.result()
    return True


def _announce(settings: Settings, port: int) -> None:
    store = settings.storage
    if settings.nats.servers:
        where = f"ring {settings.ring.name} over NATS"
    elif store.backend == "leveldb":
        where = f"timers in {store.path}, fsync {store.sync}"
    else:
        where = "timers in memory: they are forgotten at exit"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    logger.info("listening on http://%s:%d; %s", host, port, where)
