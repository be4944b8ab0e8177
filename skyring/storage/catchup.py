"""Reading a log into the state store, from where the store is."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Mapping

from skyring.errors import StorageError
from skyring.storage.base import Storage, Write
from skyring.storage.entry import Entry, NoEntry, decode_entry
from skyring.storage.log import Log, Message
from skyring.storage.replica import APPLIED_KEY, KEY_END, Replica, read_replica, write_replica

__all__ = ["CatchUp"]

logger = logging.getLogger(__name__)

KEYS_PER_SCAN = 1_000
MESSAGES_PER_TURN = 32
COMMITS_MAX = 1_000
"""Entries that are applied at once."""


class CatchUp:
    """Brings slots up to their logs.

    Args:
        state: where entries are applied.
        log: where they come from.
        claimed: called with a slot and the node that has claimed it, for each claim that is read.
    """

    def __init__(
        self, state: Storage, log: Log, claimed: Callable[[int, str], None] = lambda *_: None
    ) -> None:
        self._state = state
        self._log = log
        self._claimed = claimed

    async def run(self, slots: Iterable[int]) -> dict[int, Replica]:
        """Apply what is missing; how far each slot has come then.

        Raises:
            Unavailable: the log or the state store cannot be used now.
            StorageError: a log has lost what the state store has applied, or is another one.
            RecordUnreadable: another version of this program wrote it.
        """
        log = self._log.identity
        replicas = {slot: await self._replica(slot, log) for slot in slots}
        missing = list(replicas)
        gaps: dict[int, int] = {}
        while missing:
            broken = await self._read_on(missing, replicas)
            for slot, sequence in broken.items():  # entries are gone: begin again, from nothing
                if gaps.get(slot) == sequence:  # not for a purge: from nothing that is no gap
                    raise StorageError(
                        f"the log of slot {slot} has lost what stood before message {sequence};"
                        " restore the data of NATS"
                    )
                gaps[slot] = sequence
                await self._wipe(slot)
                replicas[slot] = Replica(log=log)
            missing = list(broken)
        return replicas

    async def _replica(self, slot: int, log: str) -> Replica:
        """How far the state of a slot has come: nowhere if it is damaged, as the log has it all."""
        damaged = self._state.damage.slots
        if slot not in damaged:
            try:
                replica = await read_replica(self._state, slot, log)
            except StorageError:
                if slot not in damaged:  # that is not the reason
                    raise
            if slot not in damaged:
                return replica
        logger.error("the state of slot %d is damaged; it is read again from the log", slot)
        await self._wipe(slot)
        replica = Replica(log=log)
        await self._state.commit(slot, [(APPLIED_KEY, write_replica(replica))])
        if not await self._state.scan(slot, APPLIED_KEY, APPLIED_KEY + b"\0", 1):
            raise StorageError(
                f"the state of slot {slot} is damaged, and what is written anew is not found;"
                " move the storage directory of this node away: the log has it all"
            )
        damaged.discard(slot)
        return replica

    def apply(
        self, replica: Replica, entry: Entry, message: Message
    ) -> tuple[Replica, Awaitable[None]]:
        """Hand an entry to the state store: the replica afterwards, and its commit."""
        after = replica.after(entry, message.sequence, len(message.data))
        mark: Write = (APPLIED_KEY, write_replica(after))
        return after, self._state.commit(message.slot, [*entry.writes, mark])

    async def _read_on(self, slots: list[int], replicas: dict[int, Replica]) -> dict[int, int]:
        """Apply what the logs have; which slots cannot go on, and at which message?"""
        after = {slot: replicas[slot].sequence for slot in slots}
        broken: dict[int, int] = {}
        commits: list[Future[None]] = []
        try:
            await self._apply_all(after, replicas, broken, commits)
        finally:
            # Also when the log or the state store fails: nobody else asks what became of them.
            outcomes = await asyncio.gather(*commits, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        for slot in slots:
            if slot not in broken and replicas[slot].sequence == after[slot]:
                await self._check_end(slot, after[slot])
        return broken

    async def _apply_all(
        self,
        after: Mapping[int, int],
        replicas: dict[int, Replica],
        broken: dict[int, int],
        commits: list[Future[None]],
    ) -> None:
        """Hand what the logs have to the state store, up to a commit that is known to have failed.

        What follows it must not be stored without it: the state would be taken for complete.
        """
        count = 0
        async for message in self._log.read(after):
            count += 1
            if count % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)  # deliveries and requests must not be late for this
            if commits and _has_failed(commits[-1]):
                return
            slot = message.slot
            if slot in broken:
                continue
            replica = replicas[slot]
            try:
                entry = decode_entry(message.data)
            except NoEntry as error:
                logger.error("slot %d, message %d: %s", slot, message.sequence, error)
                replicas[slot], commit = self._pass_over(replica, message)
                commits.append(asyncio.ensure_future(commit))
                continue
            if replica.sequence and entry.previous != replica.sequence:
                broken[slot] = message.sequence
                continue
            if entry.kind == "claim":
                self._claimed(slot, entry.node)
            replicas[slot], commit = self.apply(replica, entry, message)
            commits.append(asyncio.ensure_future(commit))
            if len(commits) >= COMMITS_MAX:
                await asyncio.gather(*commits)
                commits.clear()

    def _pass_over(self, replica: Replica, message: Message) -> tuple[Replica, Awaitable[None]]:
        """A stranger has written to the log: all nodes take no notice in the same way."""
        after = replica.passing_over(message.sequence, len(message.data))
        return after, self._state.commit(message.slot, [(APPLIED_KEY, write_replica(after))])

    async def _check_end(self, slot: int, sequence: int) -> None:
        """Nothing has come: does the log go as far as the state?"""
        last = await self._log.last(slot)
        if (0 if last is None else last.sequence) < sequence:
            raise StorageError(
                f"the log of slot {slot} has lost what this node has applied; restore the data of"
                " NATS, or move the storage directory of every node away to begin anew"
            )

    async def _wipe(self, slot: int) -> None:
        start = b""
        while pairs := await self._state.scan(slot, start, KEY_END, KEYS_PER_SCAN):
            await self._state.commit(slot, [(key, None) for key, _ in pairs if key != APPLIED_KEY])
            start = pairs[-1][0] + b"\0"
        # Last of all: what is left by a crash before this is still known for a part of the log.
        await self._state.commit(slot, [(APPLIED_KEY, None)])


def _has_failed(commit: Future[None]) -> bool:
    return commit.done() and (commit.cancelled() or commit.exception() is not None)
