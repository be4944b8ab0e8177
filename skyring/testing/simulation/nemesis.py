"""Does to the machines what a plan says, and mends it all at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from skyring.storage.entry import Entry
from skyring.testing.simulation.clock import EPOCH_MS
from skyring.testing.simulation.disk import LATENCY_S_MAX
from skyring.testing.simulation.harm import Harm
from skyring.testing.simulation.log import LogConditions
from skyring.testing.simulation.machine import Machine
from skyring.testing.simulation.network import Conditions
from skyring.testing.simulation.plan import DAY_MS, Planned
from skyring.testing.simulation.receiver import SLOW_RECEIVER_S
from skyring.testing.simulation.watch import FELT_S
from skyring.timers.record import DUE_PREFIX, due_ms_of

__all__ = ["Nemesis"]

RESTART_S_MAX = 3.0
"""After a failure the node is started again, as by a supervisor."""
CLOCK_MS = (50, 5_000, 60_000, 3_600_000, 30 * DAY_MS)
BLACK_HOLE_S_MAX = 4.0
"""A connection in which nothing arrives is given up after this time."""


class Nemesis(Harm):
    """Harms machines, the network, the log, disks, clocks and receivers, as a plan says."""

    def plan(self, faults: Sequence[Planned]) -> None:
        """Have them all come in their time."""
        for fault in faults:
            self._loop.later(fault.start_s, self._begin, fault)

    def failed(self, machine: Machine, reason: str) -> None:
        """A node has failed: it is started again a little later."""
        now_s = self._loop.time()
        broken = any(
            fault.kind == "failing disk"
            and fault.hits(frozenset((machine.name,)), now_s - FELT_S, now_s)
            for fault in self._history.faults
        )
        if broken and reason.startswith("storage"):
            self._history.note(now_s, f"{machine.name} ends: {reason}")
            self._fault("failed", machine, 0.0)
        else:
            self._history.failures.append((now_s, f"{machine.name}: {reason}"))
        self._loop.later(self._random.uniform(0.1, RESTART_S_MAX), machine.start)

    def mend(self) -> None:
        """Everything is well again, and all nodes run."""
        self.is_over = True
        self._server.is_up = True
        self._server.blocked.clear()
        self._log.conditions = LogConditions()
        self._receivers.calm()
        for machine in self._machines:
            self._mend(machine)

    def _mend(self, machine: Machine) -> None:
        machine.disk.failing = 0.0
        machine.disk.latency_s_max = LATENCY_S_MAX
        machine.clock.jump(0)
        if machine.wire is not None:
            machine.wire.conditions = Conditions()
            machine.wire.is_cut = False
            machine.wire.connect()
        if machine.process is not None and machine.process.is_stalled:
            machine.process.resume()
        if not machine.is_stopping:
            machine.start()

    def _begin(self, planned: Planned) -> None:
        if self.is_over:
            return
        begin: Callable[[Planned, Machine], None] = getattr(
            self, "begin_" + planned.kind.replace(" ", "_")
        )
        begin(planned, self._machines[planned.machine])

    # Processes

    def begin_kill(self, planned: Planned, machine: Machine) -> None:
        self._down(planned, machine, power=False)

    def begin_power_cut(self, planned: Planned, machine: Machine) -> None:
        self._down(planned, machine, power=True)

    def begin_kill_in_the_act(self, planned: Planned, machine: Machine) -> None:
        """Kill a node when it has appended an entry of some kind, and before it knows.

        The moments in which a claim or a snapshot is half done are short, and rarely hit by chance.
        """
        wanted = self._random.choice(("claim", "snapshot", "snapshot", "batch"))

        def watch(writer: str, entry: Entry) -> None:
            if entry.kind == wanted and writer.split("/")[0] == machine.name and not self.is_over:
                self._log.watch = None
                self._loop.later(0.0, partial(self._down, planned, machine, power=True))

        self._log.watch = watch

    def begin_kill_all(self, planned: Planned, _: Machine) -> None:
        for machine in self._machines:
            self._down(planned, machine, power=False)

    def begin_power_cut_of_all(self, planned: Planned, _: Machine) -> None:
        for machine in self._machines:
            self._down(planned, machine, power=True)

    def begin_new_disk(self, planned: Planned, machine: Machine) -> None:
        self._down(planned, machine, power=True)
        machine.disk.wipe()

    def _down(self, planned: Planned, machine: Machine, *, power: bool) -> None:
        if machine.process is None:
            return
        self._fault(planned.kind, machine, planned.duration_s)
        machine.kill(power=power)
        self._after(planned.duration_s * self._random.uniform(0.5, 1.0), machine.start)

    def begin_stop(self, planned: Planned, machine: Machine) -> None:
        """A farewell, and a new start later.

        It explains no duplicate, unless deliveries take longer than a node waits for them: slots
        are given away some at a time, and each when its deliveries have ended.
        """
        stopping = machine.stop()
        if stopping is None:
            return
        self._history.note(self._loop.time(), f"{machine.name} is stopped")
        settings = machine.settings
        rounds = math.ceil(settings.slots / settings.ring.moves_max)
        if rounds * 2 * self._receivers.latency_s_max > settings.shutdown.drain_ms / 1000:
            self._fault("hasty stop", machine, planned.duration_s)
        stopping.add_done_callback(
            lambda _: self._loop.later(planned.duration_s, machine.start),
            context=self._loop.nowhere,
        )

    def begin_stall(self, planned: Planned, machine: Machine) -> None:
        process = machine.process
        if process is None or process.is_stalled:
            return
        self._fault("stall", machine, planned.duration_s)
        process.stall()
        self._after(planned.duration_s, process.resume)

    # Network and log

    def begin_cut_off(self, planned: Planned, machine: Machine) -> None:
        """Its connection is refused."""
        self._fault("cut off", machine, planned.duration_s)
        self._cut(machine, planned.duration_s, "cut off")

    def _cut(self, machine: Machine, duration_s: float, reason: str) -> None:
        wire = machine.wire
        if wire is None:
            return
        wire.is_cut = True
        wire.disconnect(reason)

        def mended() -> None:
            wire.is_cut = False
            wire.connect()

        self._after(duration_s, mended)

    def begin_deaf(self, planned: Planned, machine: Machine) -> None:
        """Nothing comes to it; what it says is heard."""
        self._one_way(planned, machine, "lost_in")

    def begin_mute(self, planned: Planned, machine: Machine) -> None:
        """Nothing that it says is heard."""
        self._one_way(planned, machine, "lost_out")

    def begin_lag(self, planned: Planned, machine: Machine) -> None:
        """What comes to it is late by most of a lease; then nothing that it says is heard.

        The answer to its last heartbeat comes when the others are about to take its slots.
        """
        wire = machine.wire
        if wire is None:
            return
        lease_s = machine.settings.ring.lease_ms / 1000
        duration_s = planned.duration_s + 2 * lease_s
        self._fault("lag", machine, duration_s)
        wire.conditions.lag_s = lease_s * self._random.uniform(0.2, 0.95)

        def mute() -> None:
            wire.conditions.lost_out = 1.0

        self._after(planned.duration_s, mute)
        self._after(duration_s, partial(self._calm_wire, machine))

    def _one_way(self, planned: Planned, machine: Machine, way: str) -> None:
        wire = machine.wire
        if wire is None:
            return
        self._fault(planned.kind, machine, planned.duration_s)
        conditions = wire.conditions
        setattr(conditions, way, 1.0)
        noticed_s = self._random.uniform(0.5, BLACK_HOLE_S_MAX)
        if noticed_s < planned.duration_s:
            self._after(
                noticed_s, lambda: self._cut(machine, planned.duration_s - noticed_s, "silence")
            )
        self._after(planned.duration_s, lambda: setattr(conditions, way, 0.0))

    def begin_pair(self, planned: Planned, machine: Machine) -> None:
        """Of two nodes one does not hear the other, though both reach the server."""
        other = self._machines[planned.other]
        if other is machine:
            other = self._machines[(planned.other + 1) % len(self._machines)]
        pair = (machine.name, other.name)
        self._fault("pair", machine, planned.duration_s)
        self._fault("pair", other, planned.duration_s)
        self._server.blocked.add(pair)
        self._after(planned.duration_s, lambda: self._server.blocked.discard(pair))

    def begin_split(self, planned: Planned, _: Machine) -> None:
        """Two groups of nodes do not hear each other, though all reach the server."""
        names = [machine.name for machine in self._machines]
        group = set(self._random.sample(names, self._random.randint(1, len(names) - 1)))
        pairs = {(a, b) for a in names for b in names if (a in group) != (b in group)}
        self._fault("split", None, planned.duration_s)
        self._server.blocked |= pairs
        self._after(planned.duration_s, lambda: self._server.blocked.difference_update(pairs))

    def begin_rivals(self, planned: Planned, machine: Machine) -> None:
        """Two nodes that do not hear each other want the slots of one that dies.

        Each takes the other for dead first, and the log is slow when they claim.
        """
        rivals = [each for each in self._machines if each is not machine]
        a, b = self._random.sample(rivals, 2)
        ring = machine.settings.ring
        dead_s, lease_s = ring.dead_ms / 1000, ring.lease_ms / 1000
        duration_s = dead_s + 2 * lease_s + planned.duration_s
        pairs = {(a.name, b.name), (b.name, a.name)}
        self._fault("rivals", a, duration_s)
        self._fault("rivals", b, duration_s)
        self._server.blocked |= pairs
        self._after(duration_s, lambda: self._server.blocked.difference_update(pairs))
        delay_s = self._random.choice((0.02, 0.1, 0.3)) * lease_s

        def die() -> None:
            self._down(planned, machine, power=False)
            self._log_fault(replace(planned, duration_s=2 * lease_s), "delay_s", delay_s)

        self._after(dead_s * self._random.uniform(1.0, 1.5), die)

    def begin_no_connections(self, planned: Planned, _: Machine) -> None:
        """The server is gone, with its data, and comes back with it."""
        self._fault("no connections", None, planned.duration_s)
        self._server.is_up = False
        for machine in self._machines:
            if machine.wire is not None:
                machine.wire.disconnect("the server is down")

        def back() -> None:
            self._server.is_up = True
            for machine in self._machines:
                if machine.wire is not None:
                    delay_s = self._random.uniform(0, 0.5)
                    self._loop.later(delay_s, machine.wire.connect)

        self._after(planned.duration_s, back)

    def begin_bad_network(self, planned: Planned, machine: Machine) -> None:
        """Messages of a node, or of all, are late, lost, doubled, and out of order."""
        hit = self._machines if planned.force < 0.5 else [machine]
        self._fault("bad network", None if len(hit) > 1 else machine, planned.duration_s)
        for each in hit:
            if each.wire is None:
                continue
            conditions = each.wire.conditions
            conditions.delay_s_max = self._random.choice((0.002, 0.05, 0.5, 3.0))
            conditions.lost_out = self._random.choice((0.0, 0.02, 0.2))
            conditions.lost_in = self._random.choice((0.0, 0.02, 0.2))
            conditions.doubled = self._random.choice((0.0, 0.1))
            conditions.is_reordered = self._random.random() < 0.5
            self._after(planned.duration_s, partial(self._calm_wire, each))

    def begin_log_away(self, planned: Planned, _: Machine) -> None:
        """The log has no leader, or nobody hears what it answers."""
        if self._random.random() < 0.5:
            self._log_fault(planned, "is_away", True)
        else:
            self._log_fault(planned, "unanswered", 1.0)

    def begin_silent_log(self, planned: Planned, _: Machine) -> None:
        """From the act of storing an entry on it does what it is asked, and answers nothing.

        Mostly one that cancels or updates timers, which come due while nobody knows of it.
        """
        changes_min = self._random.choice((0, 1, 2, 2))
        soon_ms = int(1000 * planned.duration_s)

        def watch(_: str, entry: Entry) -> None:
            now_ms = EPOCH_MS + int(1000 * self._loop.time())
            changes = sum(
                value is None
                and key.startswith(DUE_PREFIX)
                and now_ms < due_ms_of(key) <= now_ms + soon_ms
                for key, value in entry.writes
            )
            if not self.is_over and entry.kind == "batch" and changes >= changes_min:
                self._log.watch = None
                self._log_fault(planned, "unanswered", 1.0)

        self._log.watch = watch

    def begin_slow_log(self, planned: Planned, _: Machine) -> None:
        self._log_fault(planned, "delay_s", self._random.choice((0.05, 0.5, 3.0)))

    def begin_bad_log(self, planned: Planned, _: Machine) -> None:
        """It refuses without a reason, and does not answer what it has done."""
        self._log.conditions.refused = self._random.choice((0.0, 0.2))
        self._log_fault(planned, "unanswered", self._random.choice((0.05, 0.3)))

    # Machines

    def begin_slow_disk(self, planned: Planned, machine: Machine) -> None:
        """That explains no duplicate."""
        now_s = self._loop.time()
        self._history.note(now_s, f"the disk of {machine.name} is slow: {planned.duration_s:.3f} s")
        machine.disk.latency_s_max = self._random.choice((0.02, 0.2))
        self._after(
            planned.duration_s, lambda: setattr(machine.disk, "latency_s_max", LATENCY_S_MAX)
        )

    def begin_failing_disk(self, planned: Planned, machine: Machine) -> None:
        self._fault("failing disk", machine, planned.duration_s)
        machine.disk.failing = self._random.choice((0.01, 0.1, 1.0))
        self._after(planned.duration_s, lambda: setattr(machine.disk, "failing", 0.0))

    def begin_clock(self, planned: Planned, machine: Machine) -> None:
        """Its wall clock is set. That explains no duplicate either."""
        jump_ms = int(self._random.choice(CLOCK_MS) * self._random.uniform(-1, 1))
        self._history.note(self._loop.time(), f"the clock of {machine.name} jumps to {jump_ms} ms")
        machine.clock.jump(jump_ms)

    def begin_receivers(self, planned: Planned, _: Machine) -> None:
        """They fail, are silent, or take what they refuse."""
        receivers = self._receivers
        self._history.note(self._loop.time(), f"receivers fail for {planned.duration_s:.3f} s")
        receivers.failing = self._random.choice((0.0, 0.2, 1.0))
        receivers.silent = self._random.choice((0.0, 0.2))
        receivers.disowned = self._random.choice((0.0, 0.2))
        receivers.latency_s_max = self._random.choice((0.005, 0.1, SLOW_RECEIVER_S))
        self._after(planned.duration_s, receivers.calm)
