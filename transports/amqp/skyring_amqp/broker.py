"""The broker as the transport sees it: connections come and go, deliveries are counted."""

from __future__ import annotations

import asyncio
import logging

from aiormq import spec

from skyring.transports import Outcome, end_tasks
from skyring_amqp.link import STOPPING, Limits, Link
from skyring_amqp.rules import Target, told
from skyring_amqp.server import Server

__all__ = ["Broker"]

logger = logging.getLogger(__name__)


class Broker:
    """Connects when there is something to deliver.

    After a failure it does not try again for a while; what comes in this time fails at once.
    """

    def __init__(self, server: Server, limits: Limits) -> None:
        self._server = server
        self._limits = limits
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failure = ""
        """Why there is no connection."""
        self._pause_end_s = 0.0
        self._in_flight = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._closing = False

    def begin(self) -> None:
        """Connect, so that a fault is logged at the start."""
        self._connecting = asyncio.create_task(self._connect())

    async def publish(
        self, target: Target, body: bytes, properties: spec.Basic.Properties
    ) -> Outcome:
        """Publish a message, and say what became of it."""
        if self._closing:
            return Outcome.retry(STOPPING)
        if self._in_flight >= self._limits.in_flight_max:
            return Outcome.retry(f"{self._in_flight} deliveries are under way to the broker")
        self._in_flight += 1
        self._drained.clear()
        try:
            link = await self._linked()
            if link is None:
                return Outcome.retry(self._failure)
            return await link.publish(target, body, properties)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._drained.set()

    async def close(self) -> None:
        """Wait for the deliveries under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off.
        """
        self._closing = True
        try:
            await self._drained.wait()
        finally:
            self._failure = STOPPING
            if self._connecting is not None:
                await end_tasks(self._connecting)
            link, self._link = self._link, None
            if link is not None:
                await link.close()

    async def _linked(self) -> Link | None:
        if self._link is not None:
            return self._link
        if self._connecting is None:
            if asyncio.get_running_loop().time() < self._pause_end_s:
                return None
            self._connecting = asyncio.create_task(self._connect())
        # It goes on for the others when this delivery is cut off.
        await asyncio.wait([self._connecting])
        return self._link

    async def _connect(self) -> None:
        timeout_s = self._limits.connect_timeout_s
        try:
            connection, socket = await self._server.connect(timeout_s)
        except TimeoutError:
            self._fail(f"cannot connect to {self._server}: no answer in {timeout_s:g} s")
        except Exception as error:  # whatever is listening there, and whatever it says
            self._fail(f"cannot connect to {self._server}: {told(error)}")
        else:
            self._link = Link(connection, socket, self._limits, self._on_lost)
            if self._failure:
                self._failure = ""
                logger.info("connected to %s", self._server)
        finally:
            self._connecting = None

    def _on_lost(self, link: Link, reason: str) -> None:
        if link is self._link:
            self._link = None
            self._fail(f"the connection to {self._server} is lost: {reason}")

    def _fail(self, reason: str) -> None:
        if not self._failure:  # once, and not with each delivery until it is over
            logger.warning("%s; it is tried again with each delivery", reason)
        self._failure = reason
        self._pause_end_s = asyncio.get_running_loop().time() + self._limits.pause_s
