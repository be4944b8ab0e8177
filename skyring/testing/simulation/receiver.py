"""The receivers of a simulation, and the transport that leads to them."""

from __future__ import annotations

import asyncio
from random import Random

from skyring.clock import Clock
from skyring.testing.proof.history import Delivery, History
from skyring.testing.simulation.loop import SimulatedLoop
from skyring.testing.simulation.payload import content_of
from skyring.transports.base import Callback, DeliveryInfo, Outcome, Transport

__all__ = ["SLOW_RECEIVER_S", "Receivers", "SimulatedTransport"]

NEVER_S = 1e6
SLOW_RECEIVER_S = 1.0
"""The most that a message takes there, or back, when receivers are slow."""


class Receivers:
    """Those who take timers, or do not.

    Args:
        loop: whose time it is.
        random: decides.
        history: told of each delivery.
        latency_s_max: how long a message takes there, or back, when all is well.
    """

    def __init__(
        self, loop: SimulatedLoop, random: Random, history: History, latency_s_max: float
    ) -> None:
        self.loop = loop
        self.random = random
        self.history = history
        self._usual_s = latency_s_max
        self.latency_s_max = latency_s_max
        self.failing = 0.0
        """Part of the deliveries that are refused for the moment."""
        self.silent = 0.0
        """Part of those that are never answered; every other one has been taken."""
        self.disowned = 0.0
        """Part of those that are taken and answered with an error."""

    def calm(self) -> None:
        """All take what comes."""
        self.failing = self.silent = self.disowned = 0.0
        self.latency_s_max = self._usual_s


class SimulatedTransport(Transport):
    """``uri`` is the destination; ``reject`` is one that takes nothing, for good.

    Args:
        receivers: where it leads.
        node: name of the node that it belongs to.
        clock: of that node.
    """

    name = "sim"

    def __init__(self, receivers: Receivers, node: str, clock: Clock) -> None:
        self._receivers = receivers
        self._node = node
        self._clock = clock

    def destination(self, callback: Callback) -> str:
        return f"sim:{callback.uri}"

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        receivers = self._receivers
        loop, random = receivers.loop, receivers.random
        content = content_of(payload.decode())
        delivery = Delivery(
            info.id, content, loop.time(), self._clock.now_ms(), info.due_ms, self._node
        )
        receivers.history.deliveries.append(delivery)
        there_s = random.uniform(0, receivers.latency_s_max)
        back_s = random.uniform(0, receivers.latency_s_max)
        fate = random.random()
        if callback.uri == "reject":
            await asyncio.sleep(there_s + back_s)
            return Outcome.rejected("not here")
        if fate < receivers.failing:
            await asyncio.sleep(there_s + back_s)
            return Outcome.retry("not now")
        fate -= receivers.failing
        if fate < receivers.silent:
            if fate < receivers.silent / 2:
                loop.later(there_s, _take, delivery)
            await asyncio.sleep(NEVER_S)
        # What is on its way arrives also when the node has died meanwhile.
        loop.later(there_s, _take, delivery)
        await asyncio.sleep(there_s + back_s)
        if fate - receivers.silent < receivers.disowned and receivers.disowned:
            return Outcome.retry("it was taken, but who knows")
        delivery.told = True
        return Outcome.delivered()


def _take(delivery: Delivery) -> None:
    delivery.taken = True
