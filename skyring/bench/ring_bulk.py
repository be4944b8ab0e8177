"""Many timers for a ring at once, through ``POST /timers``, with ids of one's own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from urllib.parse import quote

from skyring.bench.bulk import CONTENT_TYPES
from skyring.bench.client import Connection
from skyring.bench.errors import BenchError
from skyring.bench.ring_processes import RingNode
from skyring.bench.target import NOWHERE
from skyring.timers.record import timer_slot

__all__ = ["Entry", "Made", "count_listed", "create_all", "keys_in", "line"]

ENTRIES = 1_000
CONNECTIONS_EACH = 2
ANSWER_TIMEOUT_S = 120.0
AGAIN_PAUSE_S = 0.5
REFUSED_SHARE_MAX = 10
"""So many times the timers may be answered 503 before the ring is given up."""
PAGE = 1_000
STATUS = re.compile(rb'"status":[ ]?(\d{3})\b')


def _silent(message: str) -> None:
    pass


class Entry(NamedTuple):
    """A timer to be made; its id is its key. Exactly one of the two times is not None."""

    key: str
    timeout_ms: int | None = None
    at_ms: int | None = None


def line(entry: Entry, uri: str = NOWHERE) -> bytes:
    """The entry as a line of NDJSON. Written by hand: an encoder takes as long as the server."""
    when = f'"at":{entry.at_ms}' if entry.timeout_ms is None else f'"timeout":{entry.timeout_ms}'
    return (
        f'{{{when},"id":"{entry.key}","data":"{entry.key}","callback":'
        f'{{"transport":"http","method":"post","uri":"{uri}"}}}}'
    ).encode()


def keys_in(tag: str, slots: frozenset[int], slots_total: int) -> Iterator[str]:
    """Keys that begin with the tag and lie in one of the slots, without end."""
    if not slots:
        raise ValueError("no slots")
    number = 0
    while True:
        key = f"{tag}-{number}"
        if timer_slot(key, slots_total) in slots:
            yield key
        number += 1


class Made(NamedTuple):
    """What it took to create many timers."""

    seconds: float
    refused: int
    """Entries that were answered 503, each of which was sent again."""


async def create_all(
    nodes: Sequence[RingNode],
    entries: Iterable[Entry],
    count: int,
    uri: str = NOWHERE,
    progress: Callable[[str], None] = _silent,
) -> Made:
    """Make all of them through several nodes at once. Those that are answered 503 are sent again.

    Args:
        entries: made when they are sent, so that a time-out counts from then.
        count: how many there are.

    Raises:
        BenchError: some were not taken, however often they were sent.
    """
    making = _Making(iter(entries), count, uri, progress)
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for node in nodes:
            for _ in range(CONNECTIONS_EACH):
                group.create_task(making.through(node))
    if making.taken < count:
        raise BenchError(f"the ring took only {making.taken:,} of {count:,} timers")
    return Made(time.monotonic() - began_s, making.refused)


class _Making:
    def __init__(
        self, source: Iterator[Entry], count: int, uri: str, progress: Callable[[str], None]
    ) -> None:
        self._source = source
        self._count = count
        self._uri = uri
        self._progress = progress
        self._again: deque[Entry] = deque()
        self.taken = 0
        self.refused = 0

    async def through(self, node: RingNode) -> None:
        """One connection's share."""
        async with Connection(node.server.host, node.server.port) as connection:
            while part := self._next():
                body = b"\n".join(line(entry, self._uri) for entry in part)
                status, answer = await connection.request(
                    "POST", "/timers", body, CONTENT_TYPES["ndjson"], ANSWER_TIMEOUT_S
                )
                if status == 503:
                    self._refuse(part, answer)
                    await asyncio.sleep(AGAIN_PAUSE_S)
                elif status == 200:
                    await self._note(part, answer)
                else:
                    raise BenchError(f"{node.name} answered {status} to POST /timers: {answer!r}")

    def _next(self) -> list[Entry]:
        part = [self._again.popleft() for _ in range(min(len(self._again), ENTRIES))]
        return part or list(islice(self._source, ENTRIES))

    async def _note(self, part: Sequence[Entry], answer: bytes) -> None:
        statuses = [int(found) for found in STATUS.findall(answer)]
        if len(statuses) != len(part):
            raise BenchError(f"{len(statuses)} results for {len(part)} timers")
        results = zip(part, statuses, answer.splitlines(), strict=True)
        refused = [(entry, status, said) for entry, status, said in results if status > 201]
        wrong = [said for _, status, said in refused if status != 503]
        if wrong:
            raise BenchError(f"a timer was refused: {wrong[0].decode('utf-8', 'replace')}")
        before, self.taken = self.taken, self.taken + len(part) - len(refused)
        if self.taken * 10 // self._count > before * 10 // self._count:
            self._progress(f"{self.taken:,} of {self._count:,} timers created")
        if refused:
            self._refuse([entry for entry, _, _ in refused], refused[0][2])
            await asyncio.sleep(AGAIN_PAUSE_S)

    def _refuse(self, part: Sequence[Entry], said: bytes) -> None:
        self._again.extend(part)
        self.refused += len(part)
        if self.refused > REFUSED_SHARE_MAX * self._count:
            reason = said[:300].decode("utf-8", "replace")
            raise BenchError(f"timers are refused again and again, the last with: {reason}")


async def count_listed(node: RingNode, limit: int) -> int:
    """How many timers ``GET /timers`` lists through a node, page by page; at most ``limit``."""
    found = 0
    path = query = f"/timers?limit={PAGE}"
    async with Connection(node.server.host, node.server.port) as connection:
        while found < limit:
            status, body = await connection.request("GET", path)
            if status != 200:
                raise BenchError(f"{node.name} answered {status} to GET {path}")
            page = json.loads(body)
            found += len(page["timers"])
            if page["next"] is None:
                break
            path = f"{query}&cursor={quote(str(page['next']), safe='')}"
    return found
