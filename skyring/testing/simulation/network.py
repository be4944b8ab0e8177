"""The simulated NATS server and the connections to it: messages can be late, lost or doubled."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from random import Random
from typing import Any

from skyring.errors import TooLarge, Unavailable, Uncertain
from skyring.ring.bus import Bus, Listener, NobodyThere
from skyring.testing.simulation.loop import Process, SimulatedLoop

__all__ = ["Conditions", "Server", "SimulatedBus", "Wire"]

DELAY_S_MIN, DELAY_S_MAX = 0.000_1, 0.002


class Conditions:
    """How messages fare. Faults change it."""

    def __init__(self) -> None:
        self.delay_s_max = DELAY_S_MAX
        self.lag_s = 0.0
        """What comes from the server is late by so much."""
        self.lost_out = 0.0
        """Part of the messages to the server that get lost."""
        self.lost_in = 0.0
        """The same of those that come from it."""
        self.doubled = 0.0
        self.is_reordered = False


class Server:
    """What the nodes share: the last announcement of each, and who is connected.

    Args:
        loop: whose time it is.
        random: for delays and losses.
        payload_bytes_max: in one message.
    """

    def __init__(self, loop: SimulatedLoop, random: Random, payload_bytes_max: int) -> None:
        self.loop = loop
        self.random = random
        self.payload_bytes_max = payload_bytes_max
        self.is_up = True
        self.kept: dict[str, bytes] = {}
        self.buses: list[SimulatedBus] = []
        self.blocked: set[tuple[str, str]] = set()
        """Pairs of nodes of which the second does not hear the first."""

    def later(self, when_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Have the server do something."""
        self.loop.call_at(when_s, call, *arguments, context=self.loop.nowhere)


class Wire:
    """The connection of one node to the server. Within one connection order is kept.

    Args:
        server: the other end.
        name: of the node.
    """

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.conditions = Conditions()
        self.is_up = False
        self.is_cut = False
        """Can no connection be made?"""
        self.session = 0
        self.process: Process | None = None
        self._last_out_s = 0.0
        self._last_in_s = 0.0
        self._futures: dict[int, Future[Any]] = {}
        self._number = 0
        self._watchers: list[tuple[Callable[[], None], Callable[[str], None]]] = []

    def watch(self, up: Callable[[], None], down: Callable[[str], None]) -> None:
        """Tell the node of connections that are made and lost."""
        self._watchers.append((up, down))
        if self.is_up:
            up()

    def attach(self, process: Process) -> None:
        """A node has been started."""
        self.detach()
        self.process = process
        self.connect()

    def detach(self) -> None:
        """The node is gone."""
        self.session += 1
        self.is_up = False
        self.process = None
        self._watchers.clear()
        self._futures.clear()

    def connect(self) -> None:
        """Make the connection, if that is possible."""
        if self.process is None or self.is_up or self.is_cut or not self.server.is_up:
            return
        self.session += 1
        self.is_up = True
        for up, _ in self._watchers:
            self.process.call_soon(up)

    def disconnect(self, reason: str) -> None:
        """The connection is lost: questions that are under way have no answer."""
        if self.process is None or not self.is_up:
            return
        self.session += 1
        self.is_up = False
        futures, self._futures = self._futures, {}
        for future in futures.values():
            self.process.call_soon(_fail, future, Uncertain(f"the connection is lost: {reason}"))
        for _, down in self._watchers:
            self.process.call_soon(down, reason)

    def calm(self) -> None:
        """Messages fare well again."""
        self.conditions = Conditions()

    def send(self, arrived: Callable[..., object], *arguments: Any) -> None:
        """Have the server told something.

        Raises:
            Unavailable: there is no connection.
        """
        if not self.is_up:
            raise Unavailable("there is no connection")
        for when_s in self._arrivals(self.conditions.lost_out):
            if not self.conditions.is_reordered:
                when_s = self._last_out_s = max(when_s, self._last_out_s)
            self.server.later(when_s, arrived, *arguments)

    def receive(self, arrived: Callable[..., object], *arguments: Any) -> None:
        """Have the node told something, as long as this connection holds."""
        if not self.is_up:
            return
        for when_s in self._arrivals(self.conditions.lost_in):
            when_s += self.conditions.lag_s
            if not self.conditions.is_reordered:
                when_s = self._last_in_s = max(when_s, self._last_in_s)
            self.server.later(when_s, self._receive, self.session, arrived, arguments)

    async def ask(self, asked: Callable[..., object], *arguments: Any, timeout_s: float) -> Any:
        """Ask the server something: it is given a function that takes the answer.

        Raises:
            Unavailable: there is no connection; nothing was asked.
            Uncertain: there is no answer.
        """
        self._number += 1
        number = self._number
        future: Future[Any] = asyncio.get_running_loop().create_future()
        self.send(asked, *arguments, lambda answer: self.receive(_answer, future, answer))
        self._futures[number] = future
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise Uncertain(f"no answer within {timeout_s} s") from None
        finally:
            self._futures.pop(number, None)

    def _receive(self, session: int, arrived: Callable[..., object], arguments: Any) -> None:
        if session == self.session and self.process is not None:
            self.process.call_soon(arrived, *arguments)

    def _arrivals(self, lost: float) -> list[float]:
        random, conditions = self.server.random, self.conditions
        if lost and random.random() < lost:
            return []
        count = 2 if conditions.doubled and random.random() < conditions.doubled else 1
        now_s = self.server.loop.time()
        return [now_s + random.uniform(DELAY_S_MIN, conditions.delay_s_max) for _ in range(count)]


def _answer(future: Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _fail(future: Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class SimulatedBus(Bus):
    """The bus over a simulated connection.

    Args:
        wire: the connection.
        timeout_s: time allowed to the server for an answer of its own.
    """

    def __init__(self, wire: Wire, timeout_s: float) -> None:
        self._wire = wire
        self._server = wire.server
        self._timeout_s = timeout_s
        self._session = wire.process
        self._listener: Listener | None = None
        self._serves = False
        self.node = ""

    @property
    def is_up(self) -> bool:
        return self._wire.is_up and self._wire.process is self._session

    @property
    def payload_bytes_max(self) -> int:
        return self._server.payload_bytes_max

    async def open(self, node: str, listener: Listener) -> None:
        self.node, self._listener = node, listener
        self._server.buses.append(self)
        self._wire.watch(listener.connected, listener.disconnected)

    def serve(self) -> None:
        self._serves = True

    async def drain(self) -> None:
        await self._wire.ask(self._drained, timeout_s=self._timeout_s)

    async def announce(self, announcement: bytes, timeout_ms: int) -> None:
        await self._wire.ask(self._announced, announcement, timeout_s=timeout_ms / 1000)

    async def announcements(self) -> list[bytes]:
        found: list[bytes] = await self._wire.ask(
            lambda answer: answer(list(self._server.kept.values())), timeout_s=self._timeout_s
        )
        return found

    async def ask(self, node: str, question: bytes, timeout_ms: int) -> bytes:
        if len(question) > self.payload_bytes_max:
            raise TooLarge(f"a message may have {self.payload_bytes_max} bytes")
        timeout_s = timeout_ms / 1000
        found: bytes = await self._wire.ask(self._asked, node, question, timeout_s=timeout_s)
        return found

    def emit(self, kind: str, event: bytes) -> None:
        pass  # nobody listens

    async def close(self) -> None:
        self._serves = False
        self.gone()

    def gone(self) -> None:
        """The server has noticed that the node is not there any more."""
        if self in self._server.buses:
            self._server.buses.remove(self)

    # At the server

    def _drained(self, answer: Callable[[Any], None]) -> None:
        self._serves = False
        answer(None)

    def _announced(self, announcement: bytes, answer: Callable[[Any], None]) -> None:
        self._server.kept[self.node] = announcement
        for bus in self._server.buses:
            if bus._listener is not None and (self.node, bus.node) not in self._server.blocked:
                bus._wire.receive(bus._listener.heard, announcement)
        answer(None)

    def _asked(self, node: str, question: bytes, answer: Callable[[Any], None]) -> None:
        found = [bus for bus in self._server.buses if bus._serves and bus.node == node]
        if not any(bus._wire.is_up for bus in found):
            answer(NobodyThere(f"no node {node} is connected"))
        for bus in found:
            if (self.node, node) not in self._server.blocked and bus._listener is not None:
                reply = _Reply(bus._wire, answer)
                bus._wire.receive(bus._listener.asked, question, reply)


class _Reply:
    """Takes the answer of a node to the server, and from there to whoever asked."""

    def __init__(self, wire: Wire, answer: Callable[[Any], None]) -> None:
        self._wire = wire
        self._answer = answer

    def __call__(self, data: bytes) -> None:
        if len(data) > self._wire.server.payload_bytes_max:
            raise TooLarge("an answer is larger than a message may be")
        if self._wire.is_up:
            self._wire.send(self._answer, data)
