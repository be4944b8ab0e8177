"""Timers for a ring: made at a steady rate through several nodes, and awaited.

Each timer's id is its key, so its slot is known before it is sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from skyring.bench.errors import BenchError
from skyring.bench.load import PacedResult, Planned, paced
from skyring.bench.process import ServerProcess
from skyring.bench.receiver import Receiver
from skyring.bench.ring_processes import RingNode
from skyring.bench.stats import Delivery
from skyring.bench.target import timer_body
from skyring.bench.wire import build_request

__all__ = ["LoadShape", "RingLoad", "TimerPlan", "await_deliveries", "by_tag", "create_request"]

POLL_S = 0.1
SECONDS_MAX = 3_600.0
"""A load that is never stopped ends after this time."""
CONNECT_S_MAX = 30.0


def create_request(server: ServerProcess, key: str, body: bytes) -> bytes:
    """A ``POST /timer`` whose timer has the key as its id."""
    host = f"{server.host}:{server.port}"
    return build_request("POST", host, "/timer", body, headers={"x-timer-id": key})


class TimerPlan(Sequence[Planned]):
    """Requests that are written when they are sent, with keys ``{tag}-0`` and so on.

    Args:
        server: which takes them.
        uri: of the receiver.
        tag: what the keys begin with.
        count: of requests.
        timeouts_ms: least and greatest time-out, between which each is drawn.
        seed: of the time-outs.
    """

    def __init__(
        self,
        server: ServerProcess,
        uri: str,
        tag: str,
        count: int,
        timeouts_ms: tuple[int, int],
        seed: int,
    ) -> None:
        self._server = server
        self._uri = uri
        self._tag = tag
        self._count = count
        self._timeouts_ms = timeouts_ms
        self._chance = random.Random(seed)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Planned: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Planned]: ...

    def __getitem__(self, at: int | slice) -> Planned | Sequence[Planned]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(self._count))]
        if not 0 <= at < self._count:
            raise IndexError(at)
        key = f"{self._tag}-{at}"
        timeout_ms = self._chance.randint(*self._timeouts_ms)
        body = timer_body(data=key, uri=self._uri, timeout_ms=timeout_ms)
        return Planned(key, timeout_ms, create_request(self._server, key, body))


@dataclass(frozen=True)
class LoadShape:
    """What a load is like."""

    rate_each: float
    """Creates per second through each node."""
    timeouts_ms: tuple[int, int]
    connections: int = 256
    """To each node: a request whose slot nobody holds waits on one of them."""


@dataclass
class RingLoad:
    """Creates through several nodes at once, from `start` until `stop`."""

    nodes: Sequence[RingNode]
    uri: str
    tag: str
    shape: LoadShape
    seed: int
    results: dict[str, PacedResult] = field(default_factory=dict)
    """By node, after the end."""

    async def start(self) -> None:
        """Begin."""
        self._stop = asyncio.Event()
        self._tasks = {
            node.name: asyncio.create_task(self._through(node, number), name=f"load-{node.name}")
            for number, node in enumerate(self.nodes)
        }

    async def stop(self) -> None:
        """Send nothing more, wait for the answers that are under way.

        Raises:
            BenchError: not one timer was taken.
        """
        self._stop.set()
        await asyncio.gather(*self._tasks.values())
        self.results = {name: task.result() for name, task in self._tasks.items()}
        if not self.acknowledged:
            refusals = {name: result.refusal for name, result in self.results.items()}
            raise BenchError(f"the ring took no timers: {refusals}")

    async def abandon(self) -> None:
        """End it at once. May be called after `stop`."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def __aenter__(self) -> RingLoad:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.abandon()

    @property
    def acknowledged(self) -> dict[str, float]:
        """By key, the earliest time at which the timer may fire, epoch milliseconds."""
        found: dict[str, float] = {}
        for result in self.results.values():
            found.update(result.acknowledged)
        return found

    def failed(self, nodes: Collection[str]) -> int:
        """Requests to these nodes that were not taken, and connections that broke."""
        chosen = [self.results[name] for name in nodes if name in self.results]
        taken = sum(each.statuses[201] + each.statuses[200] for each in chosen)
        return sum(each.statuses.total() + each.broken for each in chosen) - taken

    @property
    def statuses(self) -> Counter[int]:
        """Of all answers."""
        return sum((each.statuses for each in self.results.values()), Counter())

    @property
    def refusal(self) -> str | None:
        """The first answer of any node that was not a success."""
        found = [each.refusal for each in self.results.values() if each.refusal is not None]
        return found[0] if found else None

    @property
    def behind_max(self) -> int:
        """Most requests that waited for a free connection."""
        return max((each.behind_max for each in self.results.values()), default=0)

    async def _through(self, node: RingNode, number: int) -> PacedResult:
        shape, server = self.shape, node.server
        count = int(shape.rate_each * SECONDS_MAX)
        tag = f"{self.tag}-{node.name}"
        plan = TimerPlan(server, self.uri, tag, count, shape.timeouts_ms, self.seed * 100 + number)
        try:
            return await paced(
                server.host, server.port, shape.connections, plan, shape.rate_each, self._stop
            )
        except BenchError:
            return PacedResult()  # gone before all connections stood: nothing was sent


async def await_deliveries(
    receiver: Receiver,
    expected: Mapping[str, float],
    arrived: list[Delivery],
    bound_s: float,
) -> set[str]:
    """Wait until every expected timer has arrived; add what arrives to ``arrived``.

    Args:
        bound_s: how long after the last due time to wait.

    Returns:
        The keys that have not arrived.
    """
    pending = set(expected) - {delivery.key for delivery in arrived}
    last_due_s = max(expected.values(), default=0.0) / 1000
    deadline_s = time.monotonic() + max(last_due_s - time.time(), 0.0) + bound_s
    while True:
        new = await receiver.take()
        arrived += new
        pending.difference_update(delivery.key for delivery in new)
        if not pending or time.monotonic() >= deadline_s:
            return pending
        await asyncio.sleep(POLL_S)


def by_tag(arrived: Iterable[Delivery], tags: Collection[str]) -> dict[str, list[Delivery]]:
    """The deliveries of each round: keys begin with the tag of their round and a dash."""
    found: dict[str, list[Delivery]] = {tag: [] for tag in tags}
    for delivery in arrived:
        tag = delivery.key.partition("-")[0]
        if tag in found:
            found[tag].append(delivery)
    return found
