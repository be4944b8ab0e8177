"""``bench ring nats``: NATS goes away under load and comes back, at last empty-handed."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from skyring.bench.client import Answer, Connection
from skyring.bench.errors import BenchError
from skyring.bench.receiver import Receiver
from skyring.bench.report import Check, Figure, Report
from skyring.bench.ring_bulk import Entry, create_all, keys_in
from skyring.bench.ring_load import LoadShape, RingLoad, await_deliveries
from skyring.bench.ring_processes import RingCommon, RingNode, RingProcesses, open_ring
from skyring.bench.ring_round import (
    DELIVERY_FIGURES,
    Round,
    finish,
    judge,
    notes,
    safety_checks,
    tallies,
)
from skyring.bench.ring_stats import Blow, exactly
from skyring.bench.stats import Delivery, Figures
from skyring.bench.target import timer_body
from skyring.bench.wire import header

__all__ = ["Outage", "run"]

READS_EACH = 20
"""Timers of each node that are read while NATS is away."""
PAUSE_S = 0.2
ANSWER_TIMEOUT_S = 30.0
FAR_MS = 24 * 3_600_000
LEASE_MS = 3_000
"""So long a node goes on delivering; whether it can say so in the log depends on when NATS comes
back."""
RECOVER_S_MAX = 60.0
EXIT_S_MAX = 60.0

FIGURES = (
    *DELIVERY_FIGURES,
    Figure("down_s", "NATS was away", "s"),
    Figure("reads", "reads of own timers meanwhile", total=True, headline=True),
    Figure("reads_not_200", "… not answered 200", total=True, headline=True),
    Figure("writes", "creates meanwhile", total=True, headline=True),
    Figure("writes_taken", "… answered 201", total=True),
    Figure("writes_503", "… answered 503", total=True),
    Figure("writes_other", "… answered otherwise, or not at all", total=True),
    Figure("no_retry_after", "… 503 without Retry-After", total=True),
    Figure("write_s_max", "longest that a create waited for its answer", "s"),
    Figure("back_s", "NATS up until a create is taken", "s", headline=True),
    Figure("whole_s", "NATS up until the ring is whole", "s"),
)


class Outage:
    """What requests met with while NATS was away. Pure."""

    def __init__(self) -> None:
        self.reads: Counter[int] = Counter()
        self.writes: Counter[int] = Counter()
        self.no_retry_after = 0
        self.write_s_max = 0.0
        self.told: list[str] = []

    def read(self, answer: Answer | None) -> None:
        """The answer to a GET; None for none."""
        self.reads[0 if answer is None else answer.status] += 1
        if answer is None or answer.status != 200:
            self._tell("GET", answer)

    def written(self, answer: Answer | None, seconds: float) -> None:
        """The answer to a create, and how long it took; None for none."""
        self.writes[0 if answer is None else answer.status] += 1
        self.write_s_max = max(self.write_s_max, seconds)
        if answer is not None and answer.status == 503:
            self.no_retry_after += header(answer.head, "retry-after") is None
        elif answer is None or answer.status != 201:
            self._tell("POST", answer)

    def figures(self) -> Figures:
        """For the report."""
        writes = self.writes.total()
        return {
            "reads": self.reads.total(),
            "reads_not_200": self.reads.total() - self.reads[200],
            "writes": writes,
            "writes_taken": self.writes[201],
            "writes_503": self.writes[503],
            "writes_other": writes - self.writes[201] - self.writes[503],
            "no_retry_after": self.no_retry_after,
            "write_s_max": round(self.write_s_max, 3),
        }

    def _tell(self, what: str, answer: Answer | None) -> None:
        if len(self.told) < 5:
            said = "no answer" if answer is None else f"{answer.status} {answer.body[:200]!r}"
            self.told.append(f"{what}: {said}")


async def run(
    common: RingCommon,
    *,
    rounds: int = 10,
    downs_s: Sequence[float] = (1.5, 8.0),
    rate: float = 200.0,
    timeouts_ms: tuple[int, int] = (100, 5_000),
    empty: bool = True,
    bound_s: float = 60.0,
    connections: int = 256,
    seed: int = 1,
) -> Report:
    """Kill NATS under load, start it again with its files; at the end without them.

    With three servers all of them are killed.

    Args:
        downs_s: how long NATS stays away, in turns: less than a lease, and more.
        rate: creates per second, through all nodes together.
        empty: at the end, start NATS without its files: every node must end and say why.
        bound_s: how long after it is due a timer may take before it is given up.

    Raises:
        BenchError: the ring does not come up, or not again.
    """
    shape = LoadShape(rate / common.nodes, timeouts_ms, connections)
    done: list[Round] = []
    arrived: list[Delivery] = []
    told: list[str] = []
    async with open_ring(common) as ring, Receiver() as receiver:
        own = await _own_timers(ring)
        for number in range(rounds):
            tag = secrets.token_hex(4)
            load = RingLoad(ring.running(), receiver.uri, tag, shape, seed + number)
            each = Round(tag, load)
            down_s = downs_s[number % len(downs_s)]
            async with load:
                await asyncio.sleep(1.0)
                told += await _outage(ring, each, own, down_s)
                await asyncio.sleep(1.0)
                await load.stop()
            each.pending = await await_deliveries(receiver, load.acknowledged, arrived, bound_s)
            done.append(each)
            common.progress(
                f"round {number + 1}/{rounds}: NATS away for {down_s:g} s,"
                f" {each.figures['reads_not_200']} of {each.figures['reads']} reads failed,"
                f" {len(load.acknowledged):,} acknowledged, {len(each.pending)} not delivered"
            )
        await finish(receiver, arrived)
        parameters = common.parameters() | {"rounds": rounds, "rate": rate}
        report = Report("ring nats", parameters, FIGURES, [])
        report.rounds += [figures for _, _, figures in tallies(done, arrived)]
        report.notes += [*notes(done, arrived), *told[:10]]
        checks = [*_checks(report), *safety_checks(report, ring)]
        if empty:
            checks += await _empty_handed(ring, report)
    return judge(report, checks, common)


def _checks(report: Report) -> list[Check]:
    labels = {
        "reads_not_200": "reads of own timers that failed while NATS was away",
        "writes_other": "creates answered neither 201 nor 503 meanwhile",
        "no_retry_after": "503 without Retry-After",
    }
    return [exactly(label, 0, report.summary[name]) for name, label in labels.items()]


async def _own_timers(ring: RingProcesses) -> dict[str, list[str]]:
    """By node, ids of timers that it will be asked for while it holds them."""
    view = await ring.view()
    own = {}
    for name in ring.nodes:
        tag = secrets.token_hex(4)
        keys = list(islice(keys_in(tag, view.held_by(name), view.slots), READS_EACH))
        entries = [Entry(key, timeout_ms=FAR_MS) for key in keys]
        await create_all(ring.running(), entries, len(keys))
        own[name] = keys
    return own


async def _outage(
    ring: RingProcesses, each: Round, own: dict[str, list[str]], down_s: float
) -> list[str]:
    outage = Outage()
    slots = (await ring.view()).slots
    began_s = time.monotonic()
    each.blows.append(Blow(time.time_ns() / 1e6, range(slots), slots, LEASE_MS))
    for server in ring.nats:
        server.kill()
    await asyncio.gather(
        *(_ask(node, own[node.name], outage, began_s + down_s) for node in ring.running())
    )
    each.figures["down_s"] = round(time.monotonic() - began_s, 3)
    began_s = time.monotonic()
    for server in ring.nats:
        server.spawn()
    for server in ring.nats:
        await server.until(server.answers)
    each.figures["back_s"] = round(await _until_taken(ring.running()[0], began_s), 3)
    await ring.whole()
    each.figures["whole_s"] = round(time.monotonic() - began_s, 3)
    each.figures |= outage.figures()
    return outage.told


async def _ask(node: RingNode, own: Sequence[str], outage: Outage, until_s: float) -> None:
    """Read and create through one node until then; each create on a connection of its own."""
    creates: list[asyncio.Task[None]] = []
    async with Connection(node.server.host, node.server.port) as reading:
        number = 0
        while time.monotonic() < until_s:
            creates.append(asyncio.create_task(_create(node, outage)))
            outage.read(await _answer(reading, "GET", f"/timer/{own[number % len(own)]}"))
            number += 1
            await asyncio.sleep(PAUSE_S)
    # Those that wait for NATS would be taken when it is back: they are answered before.
    await asyncio.gather(*creates)


async def _create(node: RingNode, outage: Outage) -> None:
    began_s = time.monotonic()
    async with Connection(node.server.host, node.server.port) as connection:
        body = timer_body(data="outage", timeout_ms=FAR_MS)
        answer = await _answer(connection, "POST", "/timer", body)
    outage.written(answer, time.monotonic() - began_s)


async def _answer(
    connection: Connection, method: str, path: str, body: bytes = b""
) -> Answer | None:
    try:
        return await connection.answer(method, path, body, timeout_s=ANSWER_TIMEOUT_S)
    except BenchError:
        await connection.close()
        return None


async def _until_taken(node: RingNode, began_s: float) -> float:
    """Seconds until a create is answered 201; raises BenchError."""
    said = ""
    body = timer_body(data="outage", timeout_ms=FAR_MS)
    while time.monotonic() - began_s < RECOVER_S_MAX:
        async with Connection(node.server.host, node.server.port) as connection:
            answer = await _answer(connection, "POST", "/timer", body)
        if answer is not None and answer.status == 201:
            return time.monotonic() - began_s
        said = "no answer" if answer is None else f"{answer.status} {answer.body.decode()}"
        await asyncio.sleep(PAUSE_S)
    raise BenchError(f"{node.name} takes no timer {RECOVER_S_MAX:g} s after NATS is back: {said}")


async def _empty_handed(ring: RingProcesses, report: Report) -> list[Check]:
    """NATS comes back without what it had: all nodes must refuse to go on."""
    for server in ring.nats:
        server.kill()
        server.erase()
    for server in ring.nats:
        server.spawn()
    for server in ring.nats:
        await server.until(server.answers)
    codes = {}
    for name in sorted(ring.nodes):
        try:
            codes[name] = await ring.ended(name, EXIT_S_MAX)
        except BenchError:
            codes[name] = 0
    said = {
        name: next((line for line in reversed(node.server.log.splitlines()) if line.strip()), "")
        for name, node in ring.nodes.items()
    }
    report.notes += [f"NATS without its files: {name}: {line}" for name, line in said.items()]
    refused = sum(code > 0 for code in codes.values())
    return [exactly("nodes that refuse a NATS without its files", len(ring.nodes), refused)]
