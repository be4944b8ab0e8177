"""A state store behind a replicated log: the log is the truth, the store is what it says.

A commit is appended to the log of its slot, then applied to the state store, then acknowledged.
One append of a slot is under way at a time; commits that arrive meanwhile share the next message.
The sequence that has been applied is kept in the same batch as the data, so that after a crash
exactly what is missing is read from the log again.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager

from skyring.errors import Fenced, SkyringError, StorageError, TooLarge, Unavailable, Uncertain
from skyring.storage.appending import PAUSE_S, Appender
from skyring.storage.base import Storage, Write
from skyring.storage.catchup import CatchUp
from skyring.storage.log import Log
from skyring.storage.replica import APPLIED_KEY, KEY_END
from skyring.storage.slot_work import (
    PendingCommit,
    ReplicationLimits,
    SlotWork,
    end_commits,
    fitting,
)

__all__ = ["ReplicatedStorage", "ReplicationLimits"]

logger = logging.getLogger(__name__)

FRAME_BYTES = 1_024  # more than what a message adds to the keys and values of one commit
CLAIM_TRIES = 20  # last entries of the holder before, that may come before one's claim


class ReplicatedStorage(Storage):
    """Slots of which this node is one of several possible holders.

    Args:
        state: materialised state of this node; its own fsync is not needed.
        log: where the truth is.
        node: name of this node.
        new_id: makes ids of entries, different on all nodes and for all time.
        lease: may this node act on its claims now? If not, nothing is written.
        readable: may what is held be read now? Also when the lease has lapsed, perhaps.
        lost: called with the number of a slot that another node has claimed.
        limits: bounds.
        claimed: called with a slot and the node that has claimed it, for each claim that is read.
    """

    def __init__(
        self,
        state: Storage,
        log: Log,
        node: str,
        new_id: Callable[[], bytes],
        lease: Callable[[], bool],
        readable: Callable[[], bool],
        lost: Callable[[int], None],
        limits: ReplicationLimits | None = None,
        claimed: Callable[[int, str], None] = lambda *_: None,
    ) -> None:
        super().__init__()
        self._state = state
        self._log = log
        self._lease = lease
        self._readable = readable
        self._lost = lost
        self._limits = ReplicationLimits() if limits is None else limits
        self._catch_up = CatchUp(state, log, claimed)
        self._appender = Appender(
            log, self._catch_up, node, new_id, self._limits.doubt_ms, self._refuse
        )
        self._slots: dict[int, SlotWork] = {}
        self._held_slots: set[int] = set()
        self._era = 0
        """Rises when the lease lapses."""
        self._busy: dict[int, Future[None]] = {}  # slots that are caught up or claimed just now
        self._pending_bytes = 0
        self._log_is_open = False
        self._closed = False

    async def open(self) -> None:
        self._failure: Future[None] = asyncio.get_running_loop().create_future()
        await self._state.open()

    async def verify(self) -> None:
        """Open the log, or make sure that it is still the same. Nothing is read of it before.

        Raises:
            Unavailable: it cannot be told now.
            StorageError: it can never be used.
        """
        if self._log_is_open:
            await self._log.check()
        else:
            await self._log.open()
            self._log_is_open = True

    async def follow(self, slots: Iterable[int]) -> None:
        """Catch up with the logs of slots that are not held, as preparation for `acquire`.

        Raises:
            Unavailable: the log cannot be read now.
            StorageError: a log has lost what this node has applied.
        """
        async with self._alone(slots) as wanted:
            await self._read_on(wanted)
            for slot in wanted:
                slot.followed_epoch = slot.replica.epoch

    async def acquire(self, slots: Iterable[int]) -> None:
        """Catch up, and begin a new epoch of each slot: whoever held it before is fenced.

        Who has claimed a slot since it was followed has a lease that nobody has counted with.

        Raises:
            Unavailable: the log cannot be reached now, or another node has claimed a slot since it
                was followed; the others may be held.
            StorageError: a log has lost what this node has applied.
        """
        async with self._alone(slots) as wanted:
            await self._read_on(wanted)
            claims = (self._claim(slot) for slot in wanted if slot.number not in self._held_slots)
            for outcome in await asyncio.gather(*claims, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    async def release(self, slots: Iterable[int]) -> None:
        """Finish what was accepted, and hold the slots no more."""
        ending = []
        for slot in (self._slots[number] for number in slots if number in self._slots):
            self._let_go(slot)  # nothing more is accepted
            if slot.task is not None:
                ending.append(slot.task)
        if ending:
            await asyncio.wait(ending)

    def drop(self, slots: Iterable[int]) -> None:
        """Hold slots no more, at once: the lease has lapsed. Nobody is told that they are lost.

        Claims that are under way come to nothing.
        """
        self._era += 1
        for number in slots:
            slot = self._slots.get(number)
            if slot is not None and slot.number in self._held_slots:
                self._let_go(slot)
                self._refuse(slot, Fenced("the lease has lapsed"))

    def epoch(self, slot: int) -> int:
        """Number of the last claim of a slot that is known here."""
        return self._slots[slot].replica.epoch if slot in self._slots else 0

    def held(self) -> Collection[int]:
        """Numbers of the slots that are held."""
        return self._held_slots

    @property
    def commit_bytes_max(self) -> int:
        return self._log.message_bytes_max - FRAME_BYTES

    def commit(self, slot: int, writes: Sequence[Write]) -> Awaitable[None]:
        held = self._checked(slot, self._lease)
        size = sum(len(key) + len(value or b"") for key, value in writes)
        if size > self.commit_bytes_max:
            raise TooLarge(f"{size} bytes are more than NATS takes in one message")
        if self._pending_bytes + size > self._limits.pending_bytes_max and self._pending_bytes:
            raise Unavailable("too many writes are waiting for the log")
        self._pending_bytes += size
        done: Future[None] = asyncio.get_running_loop().create_future()
        held.waiting.append(PendingCommit(writes, size, done))
        if held.task is None:
            held.task = asyncio.create_task(self._work(held), name=f"log-{slot}")
        return done

    async def get(self, slot: int, key: bytes) -> bytes | None:
        held = self._checked(slot, self._readable)
        value = await self._state.get(slot, key)
        self._check_state(held)
        return value

    async def scan(
        self, slot: int, start: bytes, stop: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        held = self._checked(slot, self._readable)
        pairs = await self._state.scan(slot, start, stop, limit)
        self._check_state(held)
        return pairs

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            for slot in self._slots.values():
                self._let_go(slot)
            await self._end_work()
            await self._log.close()
            await self._state.close()

    async def _end_work(self) -> None:
        """Finish what was accepted; a log that does not answer is not waited for any longer."""
        working = [slot.task for slot in self._slots.values() if slot.task is not None]
        if working:
            _, stuck = await asyncio.wait(working, timeout=self._limits.doubt_ms / 1000)
            for task in stuck:
                task.cancel()
            if stuck:
                await asyncio.wait(stuck)

    def not_ready(self) -> str | None:
        return self._state.not_ready()

    async def failed(self) -> None:
        watch = asyncio.ensure_future(self._state.failed())
        try:
            await asyncio.wait([watch, self._failure], return_when=asyncio.FIRST_COMPLETED)
            await (self._failure if self._failure.done() else watch)
        finally:
            watch.cancel()

    @asynccontextmanager
    async def _alone(self, slots: Iterable[int]) -> AsyncIterator[list[SlotWork]]:
        """Keep others from catching up in the same slots: entries must be applied in order."""
        numbers = list(slots)
        while busy := {self._busy[number] for number in numbers if number in self._busy}:
            await asyncio.wait(busy)
        ended: Future[None] = asyncio.get_running_loop().create_future()
        self._busy.update(dict.fromkeys(numbers, ended))
        try:
            yield [self._slots.setdefault(number, SlotWork(number)) for number in numbers]
        finally:
            for number in numbers:
                del self._busy[number]
            ended.set_result(None)

    async def _read_on(self, slots: list[SlotWork]) -> None:
        others = [slot for slot in slots if slot.number not in self._held_slots]
        ending = [slot.task for slot in others if slot.task is not None]
        if ending:  # what was begun under an earlier claim
            await asyncio.wait(ending)
        missing = [slot.number for slot in others]
        await self._state.acquire(missing)
        for number, replica in (await self._catch_up.run(missing)).items():
            self._slots[number].replica = replica

    def _checked(self, number: int, allowed: Callable[[], bool]) -> SlotWork:
        slot = self._slots.get(number)
        if self._closed:
            raise Unavailable("the storage is closed")
        if slot is None or number not in self._held_slots or not allowed():
            raise Fenced(f"slot {number} is not held")
        if slot.doubt is not None:
            raise Unavailable(slot.doubt)
        return slot

    def _check_state(self, slot: SlotWork) -> None:
        """What a damaged state does not have, the log has: the slot is let go, and begun anew."""
        if slot.number in self._state.damage.slots:
            self._fence(slot, f"the state of slot {slot.number} is damaged")
            raise Fenced(f"the state of slot {slot.number} is damaged")

    async def _claim(self, slot: SlotWork) -> None:
        era = self._era
        epoch = slot.replica.epoch if slot.followed_epoch is None else slot.followed_epoch
        for _ in range(CLAIM_TRIES):
            if slot.replica.epoch != epoch:
                raise Unavailable(f"slot {slot.number} was claimed by another node meanwhile")
            entry = self._appender.entry(slot, "claim", [], epoch=epoch + 1)
            until_s = asyncio.get_running_loop().time() + self._limits.claim_ms / 1000
            try:
                await self._appender.append(slot, entry)
            except Fenced:
                slot.replica = (await self._catch_up.run([slot.number]))[slot.number]
            else:
                is_late = asyncio.get_running_loop().time() >= until_s
                if is_late or era != self._era or not self._lease():
                    # Perhaps this node was frozen, and others have claimed it after that.
                    raise Unavailable("the lease ended while slots were claimed")
                slot.doubt = slot.snapshot_from = slot.followed_epoch = None
                slot.cannot_shorten = False
                self._held_slots.add(slot.number)
                return
        raise Unavailable(f"others write to slot {slot.number} again and again")

    # Writing

    async def _work(self, slot: SlotWork) -> None:
        """Append what waits, until nothing does."""
        try:
            while slot.waiting or slot.snapshot_from is not None:
                if slot.waiting:
                    await self._append_commits(slot)
                elif slot.number not in self._held_slots:
                    break  # a snapshot need not be finished
                if slot.snapshot_from is not None:
                    await self._append_snapshot(slot)
                elif (
                    slot.number in self._held_slots
                    and slot.replica.is_bloated(self._limits.spare_bytes)
                    and not slot.cannot_shorten
                ):
                    slot.snapshot_from, slot.snapshot_first, slot.snapshot_keys = b"", 0, 0
                    slot.replica = slot.replica.snapshot_begun()
        except Fenced as error:
            self._fence(slot, str(error))
        except Exception as error:
            self._fence(slot, f"slot {slot.number} has failed")
            if not self._failure.done():
                self._failure.set_exception(error)
        finally:
            slot.task = None

    async def _append_commits(self, slot: SlotWork) -> None:
        commits = self._take(slot)
        writes = [write for commit in commits for write in commit.writes]
        try:
            await self._appender.append(slot, self._appender.entry(slot, "batch", writes), commits)
        except SkyringError as error:
            end_commits(commits, error)
            if isinstance(error, StorageError):  # Fenced, or worse
                raise
        except asyncio.CancelledError:
            end_commits(commits, Uncertain("the node is stopping; it may be done or not"))
            self._refuse(slot, Unavailable("the node is stopping"))
            raise
        else:
            end_commits(commits, None)
        finally:
            self._pending_bytes -= sum(commit.bytes for commit in commits)

    def _message_bytes_max(self) -> int:
        # Less than the log takes: what surrounds keys and values in a message is not counted.
        return min(self._limits.message_bytes_max, 3 * self._log.message_bytes_max // 4)

    def _take(self, slot: SlotWork) -> list[PendingCommit]:
        commits = [slot.waiting.popleft()]
        room = self._message_bytes_max() - commits[0].bytes
        while slot.waiting and slot.waiting[0].bytes <= room:
            commits.append(slot.waiting.popleft())
            room -= commits[-1].bytes
        return commits

    async def _append_snapshot(self, slot: SlotWork) -> None:
        assert slot.snapshot_from is not None
        try:
            pairs = await self._state.scan(
                slot.number, slot.snapshot_from, KEY_END, self._limits.snapshot_keys_max
            )
        except Unavailable:
            await asyncio.sleep(PAUSE_S)
            return
        if slot.number in self._state.damage.slots:  # what is not in it would be purged
            raise Fenced(f"the state of slot {slot.number} is damaged")
        pairs = fitting(pairs, self._message_bytes_max())
        if pairs:
            writes: list[Write] = [(key, value) for key, value in pairs if key != APPLIED_KEY]
            try:
                await self._appender.append(slot, self._appender.entry(slot, "snapshot", writes))
            except Unavailable:
                await asyncio.sleep(PAUSE_S)
                return
            except TooLarge as error:
                logger.error("the log of slot %d cannot be made shorter: %s", slot.number, error)
                slot.snapshot_from, slot.cannot_shorten = None, True
                return
            slot.snapshot_first = slot.snapshot_first or slot.replica.sequence
            slot.snapshot_from = pairs[-1][0] + b"\x00"
            slot.snapshot_keys += len(writes)
            return
        slot.snapshot_from = None
        try:
            await self._log.purge(slot.number, slot.snapshot_first)
        except Unavailable:
            logger.warning("the log of slot %d is not made shorter now", slot.number)
        else:
            slot.replica = slot.replica.compacted(slot.snapshot_keys)

    def _let_go(self, slot: SlotWork) -> None:
        slot.snapshot_from = None
        self._held_slots.discard(slot.number)

    def _fence(self, slot: SlotWork, reason: str) -> None:
        was_held = slot.number in self._held_slots
        self._let_go(slot)
        self._refuse(slot, Fenced(reason))
        if was_held:
            self._lost(slot.number)

    def _refuse(self, slot: SlotWork, error: SkyringError) -> None:
        """Nothing of what waits was appended."""
        commits = list(slot.waiting)
        slot.waiting.clear()
        self._pending_bytes -= sum(commit.bytes for commit in commits)
        end_commits(commits, error)
