"""Plays one seed: a ring, its load and its faults, then peace, and the check of what happened."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from threading import Thread
from typing import Any

from skyring.testing.proof.checker import Allowance, Violation, check
from skyring.testing.proof.history import History
from skyring.testing.simulation.clients import CLIENT_TIMEOUT_S, Clients
from skyring.testing.simulation.indexes import index_faults
from skyring.testing.simulation.log import LogServer
from skyring.testing.simulation.loop import Deadlock, SimulatedLoop
from skyring.testing.simulation.machine import Machine
from skyring.testing.simulation.nemesis import Nemesis
from skyring.testing.simulation.network import Server, Wire
from skyring.testing.simulation.plan import SeedPlan, make_plan
from skyring.testing.simulation.receiver import SLOW_RECEIVER_S, Receivers
from skyring.testing.simulation.watch import watching
from skyring.timers.pages import Page

__all__ = ["Played", "Simulation", "allowance_of", "run_seed"]

SETTLE_S = 10.0
"""Time allowed after the last fault, beside two leases and a request to the log."""
READ_S = 60.0
"""Time allowed to a list of all timers."""
LATE_S = 1.0
"""When all is well a timer is delivered so soon after it is due."""
SLOW_WRITE_S = 2.0
"""A write to the log and to a slow disk has taken less; slow disks are not among the faults."""
PROBE_S_MAX = 3.0
PROBES = 3
"""Timers made at each node when all is well."""
POLL_S = 0.25
HOLDERS_PER_LEASE = 0.02
"""Part of a lease after which it is looked again who acts for which slot."""
AFTER_CLAIM_S = (0.003, 0.01)
"""So soon after a claim as well."""
HARMLESS = ("stop",)
"""Kinds of faults with which no request to a node that runs may fail."""
PAGE = 1_000


@dataclass
class Played:
    """What came of one seed."""

    plan: SeedPlan
    history: History
    violations: list[Violation]
    simulated_s: float
    real_s: float
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def seed(self) -> int:
        return self.plan.seed

    def digest(self) -> str:
        """The same whenever the same has happened."""
        return hashlib.sha256("\n".join(self.history.lines()).encode()).hexdigest()[:16]


class Simulation:
    """One seed.

    Args:
        plan: what is to happen.
        loop: where it happens.
    """

    def __init__(self, plan: SeedPlan, loop: SimulatedLoop) -> None:
        self.plan = plan
        self.loop = loop
        self.history = History()
        self._settled_s: float | None = None
        self._contested: set[int] = set()
        self.server = Server(loop, Random(f"network {plan.seed}"), plan.payload_bytes_max)
        self.log = LogServer(self.server, self.history)
        self.receivers = Receivers(
            loop, Random(f"receivers {plan.seed}"), self.history, plan.latency_s_max
        )
        self.machines = [self._machine(number) for number in range(plan.machines)]
        self.nemesis = Nemesis(
            loop,
            Random(f"faults {plan.seed}"),
            self.machines,
            self.server,
            self.log,
            self.receivers,
            self.history,
        )
        self.clients = Clients(
            plan, loop, Random(f"clients {plan.seed}"), self.machines, self.history
        )

    def _machine(self, number: int) -> Machine:
        name = f"n{number + 1}"
        return Machine(
            self.plan.settings.model_copy(update={"node": name}),
            self.plan.limits,
            self.loop,
            Random(f"machine {number} {self.plan.seed}"),
            Wire(self.server, name) if self.plan.is_ring else None,
            self.log if self.plan.is_ring else None,
            self.receivers,
            lambda machine, reason: self.nemesis.failed(machine, reason),
        )

    async def play(self) -> None:
        """From the first start to the last timer."""
        plan = self.plan
        for number, machine in enumerate(self.machines):
            join_s = 0.0 if number >= plan.absent else plan.load_s / 2
            self.loop.later(join_s, machine.start)
        self.nemesis.plan(plan.faults)
        if plan.is_ring:
            self.log.claimed = self._claimed
            self._watch_holders()
        watch = asyncio.create_task(self._until(self._is_settled, plan.load_s))
        await self.clients.run()
        await watch
        if not plan.absent and all(fault.kind in HARMLESS for fault in plan.faults):
            self._check_answers()
        self.nemesis.mend()
        request_s = plan.settings.nats.request_timeout_ms / 1000
        patience_s = SETTLE_S + request_s + 2 * plan.lease_s
        self.history.note(self.loop.time(), "all is mended")
        # What was asked of the log in the last moment of a fault has its time.
        await asyncio.sleep(request_s)
        if not await self._until(self._is_settled, patience_s):
            self._fail("the ring has not settled")
            return
        if not await self._until(self._is_up_to_date, patience_s + plan.backlog_s):
            self._fail("what is due is not delivered")
        self._check_indexes()
        self.history.calm_s = self.loop.time()
        calm_ms = self.machines[0].clock.ceil_ms()
        self.history.note(self.loop.time(), "all is calm")
        await asyncio.gather(
            *(
                self.clients.probe(machine, PROBE_S_MAX)
                for machine in self.machines
                for _ in range(PROBES)
            )
        )
        await asyncio.sleep(PROBE_S_MAX + 2 * LATE_S)
        self.history.calm_ms = (calm_ms, self.machines[0].clock.now_ms())
        self._go_to_the_end()
        if not await self._until(self._is_empty, patience_s + plan.backlog_s):
            self._fail(f"{len(self.history.pending)} timers are pending when all are due")
        self._check_indexes()
        await self._read_dead_letters()
        await self._stop_all(patience_s + plan.settings.shutdown.drain_ms / 1000)

    def _claimed(self) -> None:
        for after_s in AFTER_CLAIM_S:
            self.loop.later(after_s, self._check_holders)

    def _watch_holders(self) -> None:
        self._check_holders()
        self.loop.later(self.plan.lease_s * HOLDERS_PER_LEASE, self._watch_holders)

    def _check_holders(self) -> None:
        """No two nodes may act for one slot at the same time."""
        holders: dict[int, str] = {}
        for machine in self.machines:
            for slot in machine.acts_for():
                other = holders.setdefault(slot, machine.name)
                if other != machine.name and slot not in self._contested:
                    self._contested.add(slot)
                    self._fail(f"{other} and {machine.name} both act for slot {slot}")

    def _check_answers(self) -> None:
        """Without a fault that harms, every request to a ring that has settled is answered.

        A node that has been stopped hears of none, and what waits at one for another node that is
        to take a slot may be cut off when it is stopped.
        """
        stopped_s = {machine.name: machine.stopped_s for machine in self.machines}
        for operation in self.history.operations:
            has_settled = self._settled_s is not None and operation.sent_s > self._settled_s
            end_s = operation.answered_s or operation.sent_s + CLIENT_TIMEOUT_S
            may_be_refused = (
                operation.is_large
                or id(operation) in self.clients.unheard
                or any(operation.sent_s <= at <= end_s for at in stopped_s.get(operation.node, ()))
            )
            if has_settled and not may_be_refused and operation.answer in ("refused", "unknown"):
                self._fail(
                    f"{operation.kind} {operation.id} at {operation.node} was answered"
                    f" {operation.answer!r} without any fault"
                )

    def _check_indexes(self) -> None:
        for machine in self.machines:
            for fault in index_faults(machine.disk, self.plan.settings.slots):
                self._fail(f"{machine.name}: {fault}")

    def _go_to_the_end(self) -> None:
        """Set all clocks to when everything is due."""
        last_ms = max((op.due_ms for op in self.history.operations), default=0)
        far_ms = 50 * 86_400_000
        self.history.note(self.loop.time(), f"all clocks jump to the end, {last_ms}")
        for machine in self.machines:
            machine.clock.jump(far_ms)

    def _is_settled(self) -> bool:
        for machine in self.machines:
            if machine.node is None or machine.node.not_ready() is not None:
                return False
            view = machine.node.ring()
            if self.plan.is_ring and any(
                item["owner"] is None or item["owner"] != item["holder"]
                for item in view["slots_detail"]
            ):
                return False
        self._settled_s = self._settled_s or self.loop.time()
        return True

    async def _is_empty(self) -> bool:
        page = await self._page("pending")
        if page is not None:
            self.history.pending = {str(item["id"]) for item in page}
        return page is not None and not page

    async def _is_up_to_date(self) -> bool:
        """Is nothing due any more?"""
        page = await self._page("pending")
        now_ms = self.machines[0].clock.now_ms()
        return page is not None and all(item["next"] > now_ms for item in page)

    async def _page(self, kind: str) -> list[dict[str, Any]] | None:
        """All timers, or all dead letters; None if they cannot be read now."""
        machine = next((each for each in self.machines if each.is_ready), None)
        if machine is None or machine.node is None or machine.process is None:
            return None
        pages = machine.node.pages
        read = pages.pending if kind == "pending" else pages.dead_letters
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            task = machine.process.spawn(read(PAGE, cursor))
            await asyncio.wait([task], timeout=READ_S)
            if not task.done() or task.cancelled() or task.exception() is not None:
                return None
            page: Page = task.result()
            found += page.timers
            cursor = page.cursor
            if cursor is None:
                return found

    async def _read_dead_letters(self) -> None:
        found = await self._page("dead")
        if found is None:
            self._fail("the dead letters cannot be read")
        self.history.dead = {str(item["id"]) for item in found or ()}

    async def _stop_all(self, patience_s: float) -> None:
        stopping = [task for task in (each.stop() for each in self.machines) if task is not None]
        if stopping:
            _, late = await asyncio.wait(stopping, timeout=patience_s)
            if late:
                self._fail(f"{len(late)} nodes do not stop")
            for task in stopping:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    self._fail(f"a stop has failed: {task.exception()!r}")

    async def _until(
        self, reached: Callable[[], bool | Coroutine[Any, Any, bool]], patience_s: float
    ) -> bool:
        end_s = self.loop.time() + patience_s
        while self.loop.time() < end_s:
            found = reached()
            if found if isinstance(found, bool) else await found:
                return True
            await asyncio.sleep(POLL_S)
        return False

    def _fail(self, why: str) -> None:
        self.history.failures.append((self.loop.time(), why))


def run_seed(seed: int, *, verbose: bool = False) -> Played:
    """Play a seed, and check what has happened.

    Args:
        verbose: the history tells all that the nodes log.
    """
    plan = make_plan(seed)
    began_s = time.perf_counter()
    with _collecting_later():
        history, simulated_s = _play(plan, verbose=verbose)
    violations = check(history, allowance_of(plan))
    answers = Counter(f"{op.kind} {op.answer}" for op in history.operations)
    real_s = time.perf_counter() - began_s
    return Played(plan, history, violations, simulated_s, real_s, answers)


def allowance_of(plan: SeedPlan) -> Allowance:
    """What cannot be told exactly of a run of a plan."""
    # A receiver takes its time, at most until the attempt is given up. Then a disk may be slow.
    answer_s = min(
        plan.settings.delivery.timeout_ms / 1000, 2 * max(SLOW_RECEIVER_S, plan.latency_s_max)
    )
    return Allowance(
        fault_s=2 * plan.lease_s + 2.0,
        record_s=answer_s + SLOW_WRITE_S,
        late_s=LATE_S,
        queue_s=plan.queue_s,
    )


def _play(plan: SeedPlan, *, verbose: bool) -> tuple[History, float]:
    loop = SimulatedLoop()
    simulation = Simulation(plan, loop)
    history = simulation.history
    with watching(loop, history, everything=verbose):
        try:
            loop.run_until_complete(simulation.play())
        except Deadlock as error:
            history.failures.append((loop.time(), str(error)))
    for context in loop.errors:
        why = f"{context['message']}: {context.get('exception')!r}"
        history.failures.append((loop.time(), why))
    simulation.clients.set_due()
    for machine in simulation.machines:
        for process in machine.processes:
            process.forget()
    loop.end()
    return history, loop.time()


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Nothing is collected before the end: at any other moment it would run last lines of code.

    What is left then are the tasks of processes that were killed. They must end, and cannot.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()  # what was there before is not looked at
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
        with warnings.catch_warnings():
            # A process can be killed before a task of it has begun.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            collecting = Thread(target=_collect)
            collecting.start()
            collecting.join()
    finally:
        sys.unraisablehook = hook
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _collect() -> None:
    """In a thread of its own: in the main one, asyncio makes a loop for a task that asks for it."""
    gc.collect()
    gc.collect()
