"""Many timers for a ring at once, through ``POST /timers``, with ids of one's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from urllib.parse import quote

from skyring.bench.bulk import CONTENT_TYPES, bulk_body, created
from skyring.bench.client import Connection
from skyring.bench.errors import BenchError
from skyring.bench.load import closed_loop
from skyring.bench.process import ServerProcess
from skyring.bench.ring_processes import RingNode
from skyring.bench.target import NOWHERE, Target, refused
from skyring.timers.record import timer_slot

__all__ = ["Entry", "count_listed", "create_all", "keys_in", "line"]

ENTRIES = 1_000
CONNECTIONS_EACH = 2
SECONDS_MAX = 1_800.0
PAGE = 1_000


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


async def create_all(
    nodes: Sequence[RingNode],
    entries: Iterable[Entry],
    count: int,
    uri: str = NOWHERE,
    progress: Callable[[str], None] | None = None,
) -> float:
    """Make all of them through several nodes at once; the seconds that it took.

    Args:
        entries: made when they are sent, so that a time-out counts from then.
        count: how many there are.

    Raises:
        BenchError: some were not taken.
    """
    taken = 0
    refusal = ""
    source = iter(entries)

    def on_answer(status: int, body: bytes) -> None:
        nonlocal taken, refusal
        found = created(body) if status == 200 else 0
        before, taken = taken, taken + found
        if not refusal and found < ENTRIES:
            refusal = _refusal(body)
        if progress is not None and taken * 10 // count > before * 10 // count:
            progress(f"{taken:,} of {count:,} timers created")

    async def through(server: ServerProcess) -> None:
        target = Target(server.host, server.port)

        def next_request() -> bytes | None:
            lines = [line(entry, uri) for entry in islice(source, ENTRIES)]
            if not lines:
                return None
            return target.request("/timers", bulk_body(lines), CONTENT_TYPES["ndjson"])

        result = await closed_loop(
            server.host, server.port, CONNECTIONS_EACH, next_request, SECONDS_MAX, on_answer
        )
        if result.refusal is not None or result.broken:
            raise refused("POST /timers", result)

    began_s = time.monotonic()
    await asyncio.gather(*(through(node.server) for node in nodes))
    if taken < count:
        raise BenchError(f"the ring took only {taken:,} of {count:,} timers: {refusal}")
    return time.monotonic() - began_s


def _refusal(body: bytes) -> str:
    """The first entry of an answer that was not created."""
    return next((each for each in body.decode().splitlines() if not created(each.encode())), "")


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
