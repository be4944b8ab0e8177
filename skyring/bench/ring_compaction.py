"""``bench ring log``: a million short timers come and go; how much of them does the log keep?"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from skyring.bench.errors import BenchError
from skyring.bench.receiver import Receiver
from skyring.bench.report import Check, Figure, Report
from skyring.bench.ring_bulk import Entry, create_all
from skyring.bench.ring_log import SlotLive, read_slots
from skyring.bench.ring_processes import RingCommon, RingProcesses, open_ring
from skyring.bench.ring_round import judge, safety_checks
from skyring.bench.ring_stats import exactly
from skyring.bench.stats import Figures

__all__ = ["Coming", "run", "slot_limit_bytes"]

LIVE_FACTOR = 4
SLOT_BYTES = 1_000_000
AT_ONCE = 20_000
"""Timers that are made before those before them are looked for again."""
FAR_MS = (24 * 3_600_000, 48 * 3_600_000)
POLL_S = 0.2
LINGER_S = 3.0

FIGURES = (
    Figure("timers", "short timers that came and went", headline=True),
    Figure("live_timers", "timers that stay"),
    Figure("lost", "lost", total=True),
    Figure("duplicated", "duplicated", total=True),
    Figure("log_bytes", "all logs", "bytes", headline=True),
    Figure("live_bytes", "… of it live keys and values", "bytes"),
    Figure("slot_bytes_max", "largest log of a slot", "bytes", headline=True),
    Figure("slots_over", "slots above 4 × live + 1 MB", total=True),
    Figure("live_keys_wrong", "live keys too many or too few", total=True),
    Figure("messages", "messages in all logs"),
    Figure("nats_bytes", "files of NATS, each server", "bytes"),
    Figure("store_bytes", "LevelDB files of all nodes", "bytes"),
    Figure("refused", "entries answered 503, and sent again", total=True),
    Figure("seconds", "time taken", "s"),
    Figure("timers_per_s", "timers created and delivered", "rate"),
)


class Coming:
    """Which of the short timers have arrived: a byte for each. Pure.

    Args:
        tag: what their keys begin with.
        count: how many there are.
    """

    def __init__(self, tag: str, count: int) -> None:
        self._tag = tag
        self._seen = bytearray(count)
        self.arrived = 0
        self.duplicated = 0

    def add(self, key: str) -> None:
        """One of them, or one that is not ours."""
        tag, _, number = key.rpartition("-")
        if tag != self._tag or not number.isdigit() or int(number) >= len(self._seen):
            return
        if self._seen[int(number)]:
            self.duplicated += 1
        else:
            self._seen[int(number)] = 1
            self.arrived += 1


def slot_limit_bytes(live_bytes: int) -> int:
    """The goal: how large the log of a slot may be, with so much that is live."""
    return LIVE_FACTOR * live_bytes + SLOT_BYTES


async def run(
    common: RingCommon,
    *,
    count: int = 1_000_000,
    live: int = 10_000,
    timeouts_ms: tuple[int, int] = (1, 1_000),
    patience_s: float = 60.0,
    seed: int = 1,
) -> Report:
    """Create short timers in bulk and wait for their webhooks, then measure each slot's log.

    Args:
        count: timers that come and go.
        live: timers that stay, due in a day.
        timeouts_ms: least and greatest time-out of the short ones.
        patience_s: how long to go on when nothing more arrives.

    Raises:
        BenchError: the ring does not come up, or does not take the timers.
    """
    chance = random.Random(seed)
    tag = secrets.token_hex(4)
    coming = Coming(tag, count)
    async with open_ring(common) as ring, Receiver() as receiver:
        now_ms = time.time_ns() // 1_000_000
        far = (Entry(f"{tag}-far-{n}", at_ms=now_ms + chance.randint(*FAR_MS)) for n in range(live))
        if live:
            await create_all(ring.running(), far, live)
        short = (Entry(f"{tag}-{n}", timeout_ms=chance.randint(*timeouts_ms)) for n in range(count))
        began_s = time.monotonic()
        refused = await _pass_through(ring, receiver, short, coming, count, patience_s, common)
        seconds = time.monotonic() - began_s
        await asyncio.sleep(LINGER_S)
        for delivery in await receiver.take():
            coming.add(delivery.key)
        slots = await read_slots(ring.nats_url, ring.ring)
        figures = _figures(ring, slots, live) | {
            "timers": count,
            "live_timers": live,
            "lost": count - coming.arrived,
            "duplicated": coming.duplicated,
            "refused": refused,
            "seconds": round(seconds, 2),
            "timers_per_s": round(count / seconds, 1),
        }
        parameters = common.parameters() | {"count": count, "live": live}
        report = Report("ring log", parameters, FIGURES, [figures])
        report.notes.append("the short timers were created in bulk and delivered to a receiver")
        checks: list[Check] = [
            exactly("slots with a log above 4 × live + 1 MB", 0, figures["slots_over"]),
            exactly("live keys too many or too few", 0, figures["live_keys_wrong"]),
            *safety_checks(report, ring),
        ]
    return judge(report, checks, common)


async def _pass_through(
    ring: RingProcesses,
    receiver: Receiver,
    entries: Iterator[Entry],
    coming: Coming,
    count: int,
    patience_s: float,
    common: RingCommon,
) -> int:
    """Create them, never many more than have been delivered, and wait for the last.

    Returns:
        How many entries were answered 503, and sent again.
    """
    made = refused = 0
    seen_s = time.monotonic()
    while coming.arrived < count:
        if made < count and made - coming.arrived < 2 * AT_ONCE:
            part = list(islice(entries, min(AT_ONCE, count - made)))
            refused += (await create_all(ring.running(), part, len(part), receiver.uri)).refused
            made += len(part)
        before = coming.arrived
        for delivery in await receiver.take():
            coming.add(delivery.key)
        if coming.arrived > before:
            seen_s = time.monotonic()
            if coming.arrived * 10 // count > before * 10 // count:
                common.progress(f"{coming.arrived:,} of {count:,} delivered")
        elif time.monotonic() - seen_s > patience_s:
            if made < count:
                raise BenchError(f"{made - coming.arrived:,} timers are not delivered")
            break
        else:
            await asyncio.sleep(POLL_S)
    return refused


def _figures(ring: RingProcesses, slots: dict[int, SlotLive], live: int) -> Figures:
    nats = [_bytes_in(server.store) for server in ring.nats]
    keys = sum(len(slot.live) for slot in slots.values())
    return {
        "log_bytes": sum(slot.log_bytes for slot in slots.values()),
        "live_bytes": sum(slot.live_bytes for slot in slots.values()),
        "slot_bytes_max": max((slot.log_bytes for slot in slots.values()), default=0),
        "slots_over": sum(
            slot.log_bytes > slot_limit_bytes(slot.live_bytes) for slot in slots.values()
        ),
        "live_keys_wrong": abs(keys - 2 * live),  # a record and its place in the due index
        "messages": sum(slot.messages for slot in slots.values()),
        "nats_bytes": max(nats),
        "store_bytes": sum(_bytes_in(node.server.storage_path) for node in ring.nodes.values()),
    }


def _bytes_in(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
