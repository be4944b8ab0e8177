"""The bus between nodes of one process: the reference implementation, for tests and simulation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from skyring.errors import TooLarge, Unavailable, Uncertain
from skyring.ring.bus import Bus, Listener, NobodyThere

__all__ = ["MemoryBus", "MemoryNetwork"]


class MemoryNetwork:
    """What the buses of one ring share."""

    def __init__(self, payload_bytes_max: int = 1 << 20) -> None:
        self.payload_bytes_max = payload_bytes_max
        self.buses: list[MemoryBus] = []
        self.kept: dict[str, bytes] = {}
        self.events: list[tuple[str, bytes]] = []
        """What was emitted."""
        self.is_cut: Callable[[str, str], bool] = lambda source, target: False
        """Is the way from one node to another cut?"""


class MemoryBus(Bus):
    """One node's way into the network.

    Args:
        network: shared with the others.
    """

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._node = ""
        self._listener: Listener | None = None
        self._serves = False
        self._is_up = False

    @property
    def is_up(self) -> bool:
        return self._is_up

    @property
    def payload_bytes_max(self) -> int:
        return self._network.payload_bytes_max

    async def open(self, node: str, listener: Listener) -> None:
        self._node, self._listener = node, listener
        self._network.buses.append(self)
        self.connect()

    def serve(self) -> None:
        self._serves = True

    async def drain(self) -> None:
        await self._pass(1_000)
        self._serves = False

    def connect(self) -> None:
        """The connection is there (again)."""
        if not self._is_up and self._listener is not None:
            self._is_up = True
            self._listener.connected()

    def disconnect(self, reason: str = "cut") -> None:
        """The connection is lost."""
        if self._is_up and self._listener is not None:
            self._is_up = False
            self._listener.disconnected(reason)

    async def announce(self, announcement: bytes, timeout_ms: int) -> None:
        await self._pass(timeout_ms)
        self._network.kept[self._node] = announcement
        for bus in list(self._network.buses):
            if bus._is_up and bus._listener is not None and not self._is_cut_to(bus):
                bus._listener.heard(announcement)

    async def announcements(self) -> list[bytes]:
        await self._pass(1_000)
        return list(self._network.kept.values())

    async def ask(self, node: str, question: bytes, timeout_ms: int) -> bytes:
        if len(question) > self.payload_bytes_max:
            raise TooLarge(f"a message may have {self.payload_bytes_max} bytes")
        await self._pass(timeout_ms)
        found = [bus for bus in self._network.buses if bus._hears(node)]
        if not found:
            raise NobodyThere(f"no node {node} is connected")
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        for bus in found:
            if bus._listener is not None and not self._is_cut_to(bus):
                bus._listener.asked(question, partial(self._take, bus, answered))
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await answered
        except TimeoutError:
            raise Uncertain(f"{node} has not answered within {timeout_ms} ms") from None

    def emit(self, kind: str, event: bytes) -> None:
        if self._is_up:
            self._network.events.append((kind, event))

    async def close(self) -> None:
        self._is_up = self._serves = False
        if self in self._network.buses:
            self._network.buses.remove(self)

    async def _pass(self, timeout_ms: int) -> None:
        """Every message takes a turn of the event loop."""
        if not self._is_up:
            raise Unavailable("there is no connection")
        await asyncio.sleep(0)
        if self._network.is_cut(self._node, ""):
            await asyncio.sleep(timeout_ms / 1000)
            raise Uncertain("no answer")

    def _hears(self, node: str) -> bool:
        return self._is_up and self._serves and self._node == node

    def _is_cut_to(self, bus: MemoryBus) -> bool:
        return self._network.is_cut(self._node, bus._node)

    def _take(self, source: MemoryBus, answered: asyncio.Future[bytes], answer: bytes) -> None:
        if not answered.done() and source._is_up and not source._is_cut_to(self):
            answered.set_result(answer)
