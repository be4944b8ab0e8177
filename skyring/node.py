"""The composition root: the only file that knows every room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from random import Random, SystemRandom
from typing import Any

from skyring.clock import Clock, SystemClock
from skyring.errors import SkyringError, TransportError
from skyring.node_metrics import NodeReadings
from skyring.node_ring import NodeRing, RingConnection, connect_ring, node_name
from skyring.settings import Settings
from skyring.storage.base import Storage
from skyring.storage.registry import make_storage
from skyring.storage.replica import refuse_state_of_a_ring
from skyring.telemetry.metrics import Metrics
from skyring.timers.delivery import Delivery
from skyring.timers.operations import TimerOperations
from skyring.timers.pages import Pages, TimerPages
from skyring.timers.retry import RetryPolicy
from skyring.timers.routed import RoutedPages, RoutedTimers
from skyring.timers.service import TimerService
from skyring.timers.state import TimerState
from skyring.transports.base import Transport, told
from skyring.transports.loading import TransportSpec
from skyring.transports.registry import load_transports

__all__ = ["Node"]

logger = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 5.0
"""Time allowed to what was cancelled."""


class Node:
    """One running Skyring: storage, transports, timers and their delivery, without HTTP.

    Args:
        settings: immutable.
        transports: more transports than those of the settings, as classes, objects, or in any form
            that the setting takes.
        clock: what time it is; None takes the machine's.
        connection: bus and log of a ring; None takes what the settings say, NATS or none.
        storage: where this node keeps its timers; None takes what the settings say.
        random: for ids, and for spreading retries; None takes the machine's.
    """

    service: TimerService | RoutedTimers
    pages: Pages

    def __init__(
        self,
        settings: Settings,
        *,
        transports: Iterable[TransportSpec] = (),
        clock: Clock | None = None,
        connection: RingConnection | None = None,
        storage: Storage | None = None,
        random: Random | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock = SystemClock() if clock is None else clock
        random = SystemRandom() if random is None else random
        retry = settings.retry
        self._ring = _make_ring(settings, connection, storage, clock, random)
        if self._ring is not None:
            self._storage: Storage = self._ring.storage
        elif storage is not None:
            self._storage = storage
        else:
            self._storage = make_storage(settings.storage, settings.slots)
        loaded = load_transports(settings.delivery, settings.transport, transports)
        self._transports = {name: item.transport for name, item in loaded.items()}
        self._state = TimerState(
            self._storage,
            clock,
            settings.slots,
            settings.timers.scheduled_max,
            **({} if self._ring is None else self._ring.timer_options()),
        )
        service = TimerService(
            self._state, self._transports, settings.delivery, retry, random.randbytes
        )
        pages = TimerPages(self._state, settings.http.page_bytes_max)
        if self._ring is None:
            self.service, self.pages = service, pages
        else:
            operations = TimerOperations(service, pages)
            self._ring.tie(self._state, operations.execute, operations.execute_many)
            route = self._ring.member.router
            self.service = RoutedTimers(service, route, random.getrandbits)
            self.pages = RoutedPages(pages, route)
        self._delivery = Delivery(
            self._state,
            self._transports,
            settings.timers,
            settings.delivery,
            RetryPolicy(retry.attempts, retry.backoff_ms, retry.max_ms),
            random.random,
        )
        self.metrics = Metrics()
        self.metrics.add(
            NodeReadings(
                settings,
                lambda: self.not_ready() is None,
                self._state,
                self._delivery,
                self._storage.damage if self._ring is None else self._ring.damage,
                None if self._ring is None else self._ring.standing,
            )
        )
        self._not_ready: str | None = "starting"
        self._opened: list[Transport] = []
        self._stop = asyncio.Event()
        self._ending: asyncio.Future[None] | None = None
        self._started = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open everything and begin to fire timers.

        Raises:
            StorageError: the storage cannot be opened.
            TransportError: a transport cannot be opened.
        """
        if self._started:
            raise RuntimeError("a node is started once; make another one")
        self._started = True
        try:
            await self._storage.open()
            if self._ring is None:
                await self._storage.acquire(range(self.settings.slots))
                await refuse_state_of_a_ring(self._storage, self.settings.slots)
            for transport in self._transports.values():
                await self._open(transport)
                self._opened.append(transport)
        except BaseException:
            await self._close()
            raise
        if self._ring is None:
            self._state.serve(range(self.settings.slots))
        self._group = asyncio.TaskGroup()
        running = asyncio.Event()
        self._task = asyncio.create_task(self._run(running), name="skyring")
        await running.wait()
        self._not_ready = None

    async def _open(self, transport: Transport) -> None:
        timeout_ms = self.settings.delivery.open_timeout_ms
        try:
            async with asyncio.timeout(timeout_ms / 1000) as limit:
                await transport.open()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a transport may be anybody's code
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                raise
            reason = str(error) if isinstance(error, SkyringError) else told(error)
            if limit.expired():
                reason = f"not done after {timeout_ms} ms"
            raise TransportError(
                f"the transport {transport.name} cannot be opened: {reason}"
            ) from error

    def not_ready(self) -> str | None:
        """Why this node should get no requests now; None if it should."""
        if self._not_ready is not None:
            return self._not_ready
        in_ring = None if self._ring is None else self._ring.member.not_ready()
        return self._storage.not_ready() if in_ring is None else in_ring

    def ring(self) -> dict[str, Any]:
        """The ring as this node sees it."""
        if self._ring is None:
            return {
                "mode": "standalone",
                "node": node_name(self.settings),
                "slots": self.settings.slots,
            }
        return self._ring.view()

    def listening(self, port: int) -> None:
        """The API is served on this port."""
        if self._ring is not None:
            self._ring.listening(port)

    async def leave(self) -> None:
        """Give what this node holds to the other nodes of its ring; it goes on serving."""
        self.announce_stop()
        if self._ring is not None and self._task is not None and not self._task.done():
            await self._ring.member.leave(self.settings.shutdown.drain_ms / 1000)

    def announce_stop(self) -> None:
        """Fail readiness; everything goes on working."""
        self._not_ready = "stopping"

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Run a task that belongs to this node: the node fails with it, and ends it."""
        if self._task is None:
            work.close()
            raise RuntimeError("the node is not started yet")
        return self._group.create_task(work, name=name)

    async def wait(self) -> None:
        """Wait until the node has stopped; raises what made it fail."""
        if self._task is None:
            raise RuntimeError("the node is not started yet")
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Leave the ring, end the deliveries under way, then close transports and storage.

        Deliveries that do not end in time are made again after the next start.
        """
        await self.leave()
        self._stop.set()
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._task is not None:
            timeout_s = self.settings.shutdown.drain_ms / 1000 + CANCEL_TIMEOUT_S
            _, stuck = await asyncio.wait([self._task], timeout=timeout_s)
            if stuck:
                logger.error("a delivery does not end though it was cancelled; it is left behind")
            elif not self._task.cancelled() and self._task.exception() is not None:
                logger.debug("stopped after a failure that wait() tells")
        await self._close()

    async def _run(self, running: asyncio.Event) -> None:
        try:
            async with self._group:
                running.set()
                delivering = self._group.create_task(self._delivery.run(), name="delivery")
                others = [self._group.create_task(self._storage.failed(), name="storage")]
                if self._ring is not None:
                    await self._ring.open()
                    others.append(self._group.create_task(self._ring.member.run(), name="ring"))
                await self._stop.wait()
                await self._wind_down(delivering)
                for task in others:
                    task.cancel()
        except BaseExceptionGroup as failures:
            self._not_ready = "failed"
            # The first is the cause, the others were cancelled for it.
            cause = failures.exceptions[0]
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            logger.critical("the node has failed: %s", cause)
            # Nothing would fire any more, so nothing more may be acknowledged.
            await self._storage.close()
            raise cause from failures

    async def _wind_down(self, delivering: asyncio.Task[None]) -> None:
        self._delivery.stop()
        timeout_s = self.settings.shutdown.drain_ms / 1000
        _, late = await asyncio.wait([delivering], timeout=timeout_s)
        if late:
            logger.warning("some deliveries did not end in time; they are made again after a start")
            delivering.cancel()

    async def _close(self) -> None:
        try:
            while self._opened:
                await self._close_transport(self._opened.pop())
        finally:
            await self._storage.close()
            if self._ring is not None:
                await self._ring.close()

    async def _close_transport(self, transport: Transport) -> None:
        timeout_s = self.settings.shutdown.drain_ms / 1000 + CANCEL_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                await transport.close()
        except (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException:  # a transport may be anybody's code
            logger.exception("the transport %s did not close", transport.name)


def _make_ring(
    settings: Settings,
    connection: RingConnection | None,
    storage: Storage | None,
    clock: Clock,
    random: Random,
) -> NodeRing | None:
    if connection is None:
        if not settings.nats.servers:
            return None
        connection = connect_ring(settings)
    if storage is None:
        # The log is the truth; what it says need not be synced here as well.
        store = settings.storage.model_copy(update={"sync": "never"})
        storage = make_storage(store, settings.slots)
    return NodeRing(settings, connection, storage, clock, random)
