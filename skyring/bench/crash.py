"""``bench crash``: kill -9 at random moments; every acknowledged timer must arrive all the same."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections.abc import Sequence

from skyring.bench.errors import BenchError
from skyring.bench.load import PacedResult, Planned, paced
from skyring.bench.process import ServerProcess
from skyring.bench.receiver import Receiver
from skyring.bench.report import Figure, Report
from skyring.bench.stats import Delivery, Figures, tally
from skyring.bench.steady import plan_timers
from skyring.bench.target import Common, Target, own_server, refused

__all__ = ["run"]

POLL_S = 0.1
LINGER_S = 2.0
KILL_AFTER_S_MIN = 0.1

FIGURES = (
    Figure("acknowledged", "timers acknowledged", total=True, headline=True),
    Figure("lost", "lost", total=True, headline=True),
    Figure("overdue", "delivered too late", total=True),
    Figure("delivered_after", "delivered after the kill", total=True),
    Figure("duplicated", "duplicated", total=True),
    Figure("early", "early", total=True),
    Figure("unacknowledged", "delivered, not acknowledged", total=True),
    Figure("not_201", "answers other than 201", total=True),
    Figure("killed_after_s", "killed after", "s"),
    Figure("ready_s", "ready after the restart", "s"),
    Figure("all_after_s", "ready until all delivered", "s"),
)


async def run(
    common: Common,
    *,
    rate: float = 2_000.0,
    kill_after_s_max: float = 2.0,
    timeouts_ms: tuple[int, int] = (100, 2_500),
    bound_s: float = 30.0,
    connections: int = 64,
    seed: int = 1,
) -> Report:
    """Create at ``rate``, kill at a random moment, restart, wait for every timer; and again.

    All rounds share one directory, as a server that crashes again and again would. A timer whose
    request was not answered may be delivered or not; more than one delivery of a timer is allowed
    around a crash, and counted.

    Args:
        kill_after_s_max: latest moment of the kill, seconds after the first request.
        timeouts_ms: least and greatest time-out, so that some timers are due before the kill,
            some while the server is down, and some afterwards.
        bound_s: how long after the restart, and after the last due time, a timer may take.

    Raises:
        BenchError: the server does not start, or takes no timers.
    """
    chance = random.Random(seed)
    async with own_server(common) as server, Receiver() as receiver:
        await server.start()
        rounds = [
            _Round(server, receiver, chance, f"{secrets.token_hex(4)}-{number}")
            for number in range(common.rounds)
        ]
        arrived: list[Delivery] = []
        for number, each in enumerate(rounds):
            await each.load_and_kill(rate, kill_after_s_max, timeouts_ms, connections)
            await each.restart()
            arrived += await each.wait(bound_s)
            common.progress(
                f"round {number + 1}/{common.rounds}: {len(each.result.acknowledged):,}"
                f" acknowledged, killed after {each.killed_after_s:.2f} s,"
                f" {len(each.pending)} not delivered"
            )
        await asyncio.sleep(LINGER_S)
        arrived += await receiver.take()
    parameters = {
        "rounds": common.rounds,
        "rate": rate,
        "kill_after_s_max": kill_after_s_max,
        "timeouts_ms": list(timeouts_ms),
        "bound_s": bound_s,
        "connections": connections,
        "seed": seed,
    }
    report = Report("crash", parameters, FIGURES, _figures(rounds, arrived))
    lost, overdue, early = (report.summary[name] for name in ("lost", "overdue", "early"))
    if lost or overdue or early:
        report.failure = (
            f"{lost} acknowledged timers lost, {overdue} not within {bound_s:g} s, {early} early"
        )
    return report


class _Round:
    """One crash."""

    def __init__(
        self, server: ServerProcess, receiver: Receiver, chance: random.Random, tag: str
    ) -> None:
        self.tag = tag
        self.result = PacedResult()
        self.killed_after_s = 0.0
        self.killed_ms = 0.0
        self.ready_s = 0.0
        self.all_after_s: float | None = None
        self.pending: set[str] = set()
        self._server = server
        self._receiver = receiver
        self._chance = chance

    async def load_and_kill(
        self, rate: float, kill_after_s_max: float, timeouts_ms: tuple[int, int], connections: int
    ) -> None:
        """Create timers until the server is gone."""
        server = self._server
        target = Target(server.host, server.port, server)
        self.killed_after_s = self._chance.uniform(KILL_AFTER_S_MIN, kill_after_s_max)
        # More than can be sent before the kill, so that it always falls into the load.
        count = round(rate * (self.killed_after_s + 5.0)) + 100
        plan = plan_timers(target, self._receiver.uri, self.tag, count, timeouts_ms, self._chance)
        async with asyncio.TaskGroup() as group:
            load = group.create_task(_until_gone(target, connections, plan, rate))
            await asyncio.sleep(self.killed_after_s)
            code = await server.kill()
            self.killed_ms = time.time_ns() / 1e6
        if code != -signal.SIGKILL:
            raise BenchError(f"the server ended by itself with {code}")
        self.result = load.result()
        if not self.result.acknowledged and self.result.refusal is not None:
            raise refused("POST /timer", self.result)

    async def restart(self) -> None:
        """Start the server again on what the killed one has left."""
        self.ready_s = await self._server.start()

    async def wait(self, bound_s: float) -> list[Delivery]:
        """Until every acknowledged timer has arrived, or the bound has passed; what arrived."""
        arrived: list[Delivery] = []
        self.pending = set(self.result.acknowledged)
        began_s = time.monotonic()
        last_due_s = max(self.result.acknowledged.values(), default=0.0) / 1000
        deadline_s = began_s + max(last_due_s - time.time(), 0.0) + bound_s
        while True:
            new = await self._receiver.take()
            arrived += new
            self.pending.difference_update(delivery.key for delivery in new)
            if not self.pending:
                self.all_after_s = time.monotonic() - began_s
                return arrived
            if time.monotonic() >= deadline_s:
                return arrived
            await asyncio.sleep(POLL_S)


async def _until_gone(
    target: Target, connections: int, plan: Sequence[Planned], rate: float
) -> PacedResult:
    try:
        return await paced(target.host, target.port, connections, plan, rate)
    except BenchError:
        return PacedResult()  # killed before all connections stood: nothing was sent


def _figures(rounds: list[_Round], arrived: list[Delivery]) -> list[Figures]:
    by_tag: dict[str, list[Delivery]] = {each.tag: [] for each in rounds}
    for delivery in arrived:
        by_tag.setdefault(delivery.key.rpartition("-")[0], []).append(delivery)
    return [_figures_of(each, by_tag[each.tag]) for each in rounds]


def _figures_of(each: _Round, arrived: list[Delivery]) -> Figures:
    seen = tally(each.result.acknowledged, arrived)
    before = {delivery.key for delivery in arrived if delivery.arrived_ms <= each.killed_ms}
    return {
        "acknowledged": len(each.result.acknowledged),
        "lost": seen.lost,
        "overdue": len(each.pending) - seen.lost,
        "delivered_after": seen.delivered - len(before & each.result.acknowledged.keys()),
        "duplicated": seen.duplicated,
        "early": seen.early,
        "unacknowledged": seen.unexpected,
        "not_201": each.result.statuses.total() - each.result.statuses[201],
        "killed_after_s": round(each.killed_after_s, 3),
        "ready_s": round(each.ready_s, 3),
        "all_after_s": None if each.all_after_s is None else round(each.all_after_s, 3),
    }
