"""``bench ring suspicion``: with all cores busy, is a node that lives held for dead?"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from skyring.bench import process
from skyring.bench.errors import BenchError
from skyring.bench.receiver import Receiver
from skyring.bench.report import Check, Figure, Report, environment
from skyring.bench.ring_events import Event, EventWatch
from skyring.bench.ring_load import LoadShape, RingLoad, await_deliveries
from skyring.bench.ring_processes import RingCommon, RingProcesses, open_ring
from skyring.bench.ring_round import (
    DELIVERY_FIGURES,
    Round,
    finish,
    judge,
    notes,
    safety_checks,
    tallies,
)
from skyring.bench.ring_stats import exactly
from skyring.bench.stats import Delivery, spread

__all__ = ["run"]

POLL_S = 0.5
EVICTED = ("dead", "leave", "left")

FIGURES = (
    *DELIVERY_FIGURES,
    Figure("busy_s", "time with busy cores", "s"),
    Figure("polls", "looks at the ring", total=True),
    Figure("evicted", "members held for dead", total=True, headline=True),
    Figure("suspected", "members suspected", total=True, headline=True),
    Figure("moved", "slots that were claimed anew", total=True, headline=True),
    Figure("lapsed", "leases that have lapsed", total=True),
    Figure("silent_polls", "looks that were not answered in time", total=True),
    Figure("lateness_p50_ms", "lateness p50", "ms"),
    Figure("lateness_p99_ms", "lateness p99", "ms"),
    Figure("lateness_max_ms", "lateness max", "ms"),
)


class _Seen:
    """What the events of the ring told."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.claimed = 0
        self.told: list[str] = []

    def take(self, event: Event) -> None:
        """Events of members and slots; those of timers are of no interest."""
        kind = str(event.get("type"))
        if kind == "claim":
            self.claimed += len(event.get("slots") or ())
        if "member" in event or "slots" in event:
            self.kinds[kind] += 1
            self.told.append(f"{event.get('time')} {event.get('node')}: {kind} {event}"[:200])


async def run(
    common: RingCommon,
    *,
    seconds: float = 600.0,
    busy: int | None = None,
    rate: float = 50.0,
    bound_s: float = 60.0,
    seed: int = 1,
) -> Report:
    """Keep every core busy with a loop, and a light load on the ring; nobody may be held for dead.

    Args:
        seconds: how long.
        busy: processes that loop; None takes one for each core.
        rate: creates per second, through all nodes together.
        bound_s: how long after it is due a timer may take before it is given up.

    Raises:
        BenchError: the ring does not come up.
    """
    loops = int(environment()["cores"]) if busy is None else busy
    shape = LoadShape(rate / common.nodes, (100, 5_000), 16)
    seen, arrived = _Seen(), list[Delivery]()
    async with (
        open_ring(common) as ring,
        Receiver() as receiver,
        EventWatch(ring.nats_url, ring.ring, seen.take),
    ):
        tag = secrets.token_hex(4)
        each = Round(tag, RingLoad(ring.running(), receiver.uri, tag, shape, seed))
        async with each.load:
            with _busy(loops):
                each.figures |= await _look(ring, seconds, common)
            await each.load.stop()
        expected = each.load.acknowledged
        each.pending = await await_deliveries(receiver, expected, arrived, bound_s)
        await finish(receiver, arrived)
        each.figures |= {
            "evicted": max(each.figures["evicted"], sum(seen.kinds[kind] for kind in EVICTED)),
            "suspected": max(each.figures["suspected"], seen.kinds["suspect"]),
            "moved": seen.claimed,
            "lapsed": seen.kinds["lost"],
        }
        parameters = common.parameters() | {"seconds": seconds, "busy": loops, "rate": rate}
        report = Report("ring suspicion", parameters, FIGURES, [])
        for tallied, _, figures in tallies([each], arrived):
            report.rounds.append({**figures, **spread("lateness", tallied.lateness_ms)})
        report.notes += [*notes([each], arrived), *seen.told[:20]]
        checks: list[Check] = [
            exactly("members held for dead", 0, report.summary["evicted"]),
            exactly("slots that were claimed anew", 0, report.summary["moved"]),
            *safety_checks(report, ring),
        ]
    return judge(report, checks, common)


async def _look(ring: RingProcesses, seconds: float, common: RingCommon) -> dict[str, float]:
    """Ask all nodes for the ring, again and again."""
    states: Counter[str] = Counter()
    polls = silent = 0
    began_s = time.monotonic()
    told_s = began_s
    while (now_s := time.monotonic()) - began_s < seconds:
        for node in ring.running():
            polls += 1
            try:
                view = await node.view()
            except BenchError:
                silent += 1
                continue
            states.update(member.state for member in view.members.values())
        if now_s - told_s > 60:
            told_s = now_s
            common.progress(f"{now_s - began_s:.0f} s: {dict(states)}")
        await asyncio.sleep(POLL_S)
    return {
        "busy_s": round(time.monotonic() - began_s, 1),
        "polls": polls,
        "silent_polls": silent,
        "evicted": sum(states[state] for state in EVICTED),
        "suspected": states["suspect"],
    }


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but take processor time."""
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            command = [sys.executable, "-m", "skyring.bench.busy"]
            loops.append(process._popen(command, stdin=subprocess.PIPE))
        yield
    finally:
        for loop in loops:
            loop.kill()
            if loop.stdin is not None:
                loop.stdin.close()
            loop.wait()
