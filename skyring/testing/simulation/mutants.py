"""Safety rules, switched off one at a time: a simulator that does not miss them is not worth much.

Each mutant replaces one piece of the real code, for as long as `mutated` is entered. What it breaks
is a rule of docs/ARCHITECTURE.md; which check finds that stands in docs/SIMULATION.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from typing import Any

import skyring.timers.delivery
from skyring.errors import Fenced, SkyringError, Unavailable, Uncertain
from skyring.node_ring import NodeRing
from skyring.ring.lease import Lease
from skyring.ring.mover import Mover
from skyring.ring.ownership import Holder, Ownership
from skyring.ring.presence import Presence
from skyring.storage.appending import Appender
from skyring.storage.catchup import CatchUp
from skyring.storage.leveldb import LevelDBStorage
from skyring.storage.log import LogConflict
from skyring.storage.replica import APPLIED_KEY, write_replica
from skyring.storage.replicated import ReplicatedStorage
from skyring.testing.simulation.disk import Disk
from skyring.testing.simulation.found import FOUND, put
from skyring.testing.simulation.log import LogServer
from skyring.timers.delivery import Delivery
from skyring.timers.record import due_key, split_due_key, timer_key
from skyring.timers.retry import Gone
from skyring.timers.schedule import Schedule
from skyring.timers.state import TimerState

__all__ = ["MUTANTS", "mutated"]

Switch = Callable[[ExitStack], None]


def _no_fence(stack: ExitStack) -> None:
    """The log takes what a stale holder appends."""
    real = LogServer.append

    def append(self: LogServer, writer: str, slot: int, data: bytes, _: int, answer: Any) -> None:
        real(self, writer, slot, data, self.last_sequence(slot), answer)

    put(stack, LogServer, "append", append)


def _no_lease(stack: ExitStack) -> None:
    """A node delivers, and serves, whatever became of its lease."""
    put(stack, Presence, "may_act", lambda self: self.lease._until_ms is not None)
    put(stack, Lease, "has_lapsed", lambda self, now_ms: False)


def _no_lease_in_the_last_moment(stack: ExitStack) -> None:
    """A node delivers what it has read, whatever became of its lease."""
    real = NodeRing.timer_options
    put(stack, NodeRing, "timer_options", lambda self: {**real(self), "may_deliver": lambda: True})


def _no_sync(stack: ExitStack) -> None:
    """A write is acknowledged when the operating system has it."""
    real = LevelDBStorage.__init__

    def init(self: LevelDBStorage, files: Any, **options: Any) -> None:
        real(self, files, **{**options, "sync": False})

    put(stack, LevelDBStorage, "__init__", init)


def _applied_before_data(stack: ExitStack) -> None:
    """What has been applied is noted in a commit of its own."""

    async def both(self: CatchUp, slot: int, after: Any, entry: Any) -> None:
        await self._state.commit(slot, [(APPLIED_KEY, write_replica(after))])
        await self._state.commit(slot, entry.writes)

    def apply(self: CatchUp, replica: Any, entry: Any, message: Any) -> Any:
        after = replica.after(entry, message.sequence, len(message.data))
        return after, both(self, message.slot, after, entry)

    put(stack, CatchUp, "apply", apply)


def _delete_before_delivery(stack: ExitStack) -> None:
    """A timer is gone before its receiver has it."""
    real = Delivery._attempt

    async def attempt(self: Delivery, timer_id: str, record: Any, started_ms: int) -> Any:
        hint = self._state.slot(timer_id)
        writes = [(b"t/" + timer_id.encode(), None)]
        with suppress(Unavailable, Fenced):
            await self._storage.commit(hint, writes)
        return await real(self, timer_id, record, started_ms)

    put(stack, Delivery, "_attempt", attempt)


def _no_barrier_of_cancel(stack: ExitStack) -> None:
    """A delivery may begin while its timer is being cancelled."""

    def begin(self: TimerState, hint: Any) -> bool:
        self._work.pop(hint.id, None)
        return real(self, hint)

    def end(self: TimerState, timer_id: str) -> None:
        if timer_id in self._work:
            real_end(self, timer_id)

    real, real_end = TimerState.begin_delivery, TimerState._end
    put(stack, TimerState, "begin_delivery", begin)
    put(stack, TimerState, "_end", end)


def _no_replay(stack: ExitStack) -> None:
    """A new holder does not read what others have written before its claim."""

    def apply(self: CatchUp, replica: Any, entry: Any, message: Any) -> Any:
        after = replica.after(entry, message.sequence, len(message.data))
        mark = (APPLIED_KEY, write_replica(after))
        mine = entry.node == vars(self)["mutant_node"]
        return after, self._state.commit(message.slot, [*(entry.writes if mine else ()), mark])

    real = ReplicatedStorage.__init__

    def init(self: ReplicatedStorage, state: Any, log: Any, node: str, *more: Any) -> None:
        real(self, state, log, node, *more)
        vars(self._catch_up)["mutant_node"] = node

    put(stack, CatchUp, "apply", apply)
    put(stack, ReplicatedStorage, "__init__", init)


def _purge_before_snapshot(stack: ExitStack) -> None:
    """A log is made shorter before what is live has been written again."""
    real = ReplicatedStorage._append_snapshot

    async def append(self: ReplicatedStorage, slot: Any) -> None:
        if slot.snapshot_from == b"":
            try:
                await self._log.purge(slot.number, slot.replica.sequence)
            except Unavailable:
                return
            if slot.snapshot_from is None:
                return
        await real(self, slot)

    put(stack, ReplicatedStorage, "_append_snapshot", append)


def _no_waiting_for_leases(stack: ExitStack) -> None:
    """Slots are claimed as soon as their holder is silent, not when its lease is over.

    That is looked at twice, the second time with what NATS keeps.
    """
    real = Ownership.step

    def step(self: Ownership, holders: Any, claimants: Any, now_ms: int) -> Any:
        silent = {
            slot: [each if each.is_listening else Holder(each.name, 0, False) for each in found]
            for slot, found in holders.items()
        }
        self._left_alone_until_ms = [0] * len(self._left_alone_until_ms)
        return real(self, silent, claimants, now_ms)

    async def taken(self: Mover, slots: Any) -> frozenset[int]:
        return frozenset()

    put(stack, Ownership, "step", step)
    put(stack, Mover, "_taken", taken)


def _lease_from_the_answer(stack: ExitStack) -> None:
    """A lease counts from when its heartbeat was acknowledged."""
    real = Lease.renewed
    put(stack, Lease, "renewed", lambda self, sent_ms, now_ms: real(self, now_ms, now_ms))


def _guess_of_success(stack: ExitStack) -> None:
    """An append without an answer is taken for made."""

    async def resolve(
        self: Appender, slot: Any, entry: Any, data: bytes, commits: Any, error: SkyringError
    ) -> int:
        if isinstance(error, Uncertain):
            return int(slot.replica.sequence) + 1
        found = await real(self, slot, entry, data, commits, error)
        return int(found)

    real = Appender._resolve
    put(stack, Appender, "_resolve", resolve)


def _guess_of_failure(stack: ExitStack) -> None:
    """An append without an answer is taken for not made."""

    async def resolve(
        self: Appender, slot: Any, entry: Any, data: bytes, commits: Any, error: SkyringError
    ) -> int:
        if isinstance(error, LogConflict):
            found = await real(self, slot, entry, data, commits, error)
            return int(found)
        raise Unavailable("it is not there, or is it")

    real = Appender._resolve
    put(stack, Appender, "_resolve", resolve)


def _no_reopening(stack: ExitStack) -> None:
    """After a failed write the database is used as if nothing had been."""

    def written(self: LevelDBStorage, group: Any, _: None, error: Exception | None) -> None:
        if error is not None:
            group.fail(Uncertain("it may be stored or not"))
            self._pending_bytes -= group.bytes
            self._writing = bool(self._groups)
            if self._groups:
                self._write()
            return
        real(self, group, None, None)

    real = LevelDBStorage._written
    put(stack, LevelDBStorage, "_written", written)


def _mark_after_reading(stack: ExitStack) -> None:
    """The low-water mark rises when a slot has been read, and not before."""
    real_begin, real_end = Schedule.begin_load, Schedule.end_load

    def begin(self: Schedule, slot: int, until_ms: int, limit: int) -> Any:
        before = self._marks.get(slot)
        load = real_begin(self, slot, until_ms, limit)
        if load is not None and before is not None:
            self._set_mark(slot, before)
        return load

    def end(self: Schedule, load: Any, found: Any) -> None:
        if load.slot in self._marks:
            self._set_mark(load.slot, load.stop)
        real_end(self, load, found)

    put(stack, Schedule, "begin_load", begin)
    put(stack, Schedule, "end_load", end)


def _no_second_look_at_the_clock(stack: ExitStack) -> None:
    """What was due when it was queued is delivered, also if the clock has been set back."""
    real = Delivery._deliver

    async def deliver(self: Delivery, hint: Any) -> None:
        other = copy(self)
        other._clock = _Standing(self._clock, max(self._clock.now_ms(), hint.due_ms))
        await real(other, hint)

    put(stack, Delivery, "_deliver", deliver)


class _Standing:
    """A clock that shows at least some time."""

    def __init__(self, clock: Any, least_ms: int) -> None:
        self._clock = clock
        self._least_ms = least_ms

    def now_ms(self) -> int:
        return max(self._least_ms, int(self._clock.now_ms()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


def _passed_over_and_forgotten(stack: ExitStack) -> None:
    """A due timer that is being changed is not looked at again."""
    real = TimerState._end

    def end(self: TimerState, timer_id: str) -> None:
        self._work[timer_id].passed_over.clear()
        real(self, timer_id)

    put(stack, TimerState, "_end", end)


def _no_term(stack: ExitStack) -> None:
    """What was read under one claim is written under another."""

    def term(self: Schedule, slot: int) -> int:
        return 1

    async def commit(self: Delivery, slot: int, _: int, writes: Any) -> bool:
        for _try in range(100):
            try:
                await self._storage.commit(slot, writes)
            except (Unavailable, Fenced):
                await asyncio.sleep(0.2)
            else:
                return True
        return False

    put(stack, Schedule, "term", term)
    put(stack, Delivery, "_commit", commit)


def _failed_is_done(stack: ExitStack) -> None:
    """A delivery that has failed is not made again."""
    put(stack, skyring.timers.delivery, "decide", lambda *_: Gone())


def _deletes_not_replayed(stack: ExitStack) -> None:
    """Who reads a log from its beginning on a new disk passes over what deliveries have deleted."""
    real_wipe, real_conclude = Disk.wipe, Delivery._conclude
    real_apply, real_all = CatchUp.apply, CatchUp._apply_all

    def wipe(self: Disk) -> None:
        vars(self)["mutant_new"] = True
        real_wipe(self)

    async def conclude(self: Delivery, hint: Any, term: int, record: Any, transition: Any) -> bool:
        if isinstance(transition, Gone):
            _of_loop("mutant_gone").add(due_key(record.next_ms, hint.id))
        return await real_conclude(self, hint, term, record, transition)

    async def apply_all(self: CatchUp, after: Any, *more: Any) -> None:
        files: Any = vars(self._state)["_files"]
        is_new = vars(files.disk).get("mutant_new", False)
        new = {slot for slot, sequence in after.items() if is_new and not sequence}
        vars(self)["mutant_slots"] = new
        try:
            await real_all(self, after, *more)
        finally:
            vars(self)["mutant_slots"] = set()

    def apply(self: CatchUp, replica: Any, entry: Any, message: Any) -> Any:
        if message.slot not in vars(self).get("mutant_slots", ()):
            return real_apply(self, replica, entry, message)
        after = replica.after(entry, message.sequence, len(message.data))
        gone = _of_loop("mutant_gone")
        kept = {key for key, value in entry.writes if value is None and key in gone}
        kept |= {timer_key(split_due_key(key)[1]) for key in kept}
        writes = [write for write in entry.writes if write[0] not in kept]
        mark = (APPLIED_KEY, write_replica(after))
        return after, self._state.commit(message.slot, [*writes, mark])

    put(stack, Disk, "wipe", wipe)
    put(stack, Delivery, "_conclude", conclude)
    put(stack, CatchUp, "_apply_all", apply_all)
    put(stack, CatchUp, "apply", apply)


def _of_loop(name: str) -> set[bytes]:
    """A set that belongs to one simulation."""
    found: set[bytes] = vars(asyncio.get_running_loop()).setdefault(name, set())
    return found


MUTANTS: dict[str, Switch] = {
    "expected-sequence fence": _no_fence,
    "lease": _no_lease,
    "lease check before delivery": _no_lease_in_the_last_moment,
    "fsync before acknowledgement": _no_sync,
    "applied sequence in the batch": _applied_before_data,
    "delete after success": _delete_before_delivery,
    "cancel's barrier": _no_barrier_of_cancel,
    "claim replay": _no_replay,
    "compaction order": _purge_before_snapshot,
    "waiting out a lease": _no_waiting_for_leases,
    "lease from the sending": _lease_from_the_answer,
    "never guess success": _guess_of_success,
    "never guess failure": _guess_of_failure,
    "reopening after a failed write": _no_reopening,
    "mark before reading": _mark_after_reading,
    "second look at the clock": _no_second_look_at_the_clock,
    "passed over, not forgotten": _passed_over_and_forgotten,
    "term of a slot": _no_term,
    "retry after failure": _failed_is_done,
    "deletes on a new disk": _deletes_not_replayed,
    **FOUND,
}
"""Safety rules by name, and what switches each off."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Switch off a safety rule; none if the name is empty.

    Raises:
        ValueError: there is no rule of this name.
    """
    if name and name not in MUTANTS:
        raise ValueError(f"no such rule: {name}; there are: {', '.join(MUTANTS)}")
    with ExitStack() as stack:
        if name:
            MUTANTS[name](stack)
        yield
