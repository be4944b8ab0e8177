"""Appending to the log of a slot, and to its state after that: never on a guess."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from skyring.errors import Fenced, SkyringError, StorageError, Unavailable, Uncertain
from skyring.storage.base import Write
from skyring.storage.catchup import CatchUp
from skyring.storage.entry import (
    ENTRY_VERSION,
    Entry,
    EntryKind,
    NoEntry,
    decode_entry,
    encode_entry,
)
from skyring.storage.log import Log, LogConflict, Message
from skyring.storage.slot_work import PendingCommit, SlotWork, end_commits

__all__ = ["PAUSE_S", "Appender"]

PAUSE_S = 0.2
"""Before the log or the state store is asked again while it is unavailable."""

CONFLICT_PAUSE_S = 0.01
"""NATS can refuse an append while an earlier one of the same slot is on its way through it."""


class Appender:
    """Appends entries, one at a time for each slot.

    Args:
        log: where the truth is.
        catch_up: applies what was appended.
        node: name of this node.
        new_id: makes ids of entries, different on all nodes and for all time.
        doubt_ms: how long a commit waits to learn whether it was appended.
        refuse: called to refuse all commits that wait for a slot.
    """

    def __init__(
        self,
        log: Log,
        catch_up: CatchUp,
        node: str,
        new_id: Callable[[], bytes],
        doubt_ms: int,
        refuse: Callable[[SlotWork, SkyringError], None],
    ) -> None:
        self._log = log
        self._catch_up = catch_up
        self._node = node
        self._new_id = new_id
        self._doubt_ms = doubt_ms
        self._refuse = refuse

    def entry(
        self, slot: SlotWork, kind: EntryKind, writes: list[Write], epoch: int | None = None
    ) -> Entry:
        """The next entry of a slot."""
        return Entry(
            version=ENTRY_VERSION,
            kind=kind,
            epoch=slot.replica.epoch if epoch is None else epoch,
            node=self._node,
            id=self._new_id(),
            previous=slot.replica.sequence,
            writes=writes,
        )

    async def append(
        self, slot: SlotWork, entry: Entry, commits: Sequence[PendingCommit] = ()
    ) -> None:
        """Append an entry, and apply it.

        Raises:
            Fenced: another node has claimed the slot; it was not appended.
            Unavailable, TooLarge: it was certainly not appended.
            StorageError: the log has lost what was in it.
        """
        data = encode_entry(entry)
        try:  # all but every time
            sequence = await self._log.append(slot.number, data, slot.replica.sequence)
        except (LogConflict, Uncertain) as error:
            sequence = await self._resolve(slot, entry, data, commits, error)
        message = Message(slot.number, sequence, data)
        while True:
            try:
                replica, applied = self._catch_up.apply(slot.replica, entry, message)
                await applied
            except Unavailable:  # it is in the log, so it has to come into the state
                await asyncio.sleep(PAUSE_S)
            else:
                slot.replica = replica
                slot.doubt = None  # not before: who was told of a doubt must not read what was
                return

    async def _resolve(
        self,
        slot: SlotWork,
        entry: Entry,
        data: bytes,
        commits: Sequence[PendingCommit],
        error: SkyringError,
    ) -> int:
        """It may have been appended or not: the log itself has to say. Its sequence."""
        expected = slot.replica.sequence
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._doubt_ms / 1000
        has_doubt = isinstance(error, Uncertain)  # a refusal alone is certain
        while True:
            last = await self._last(slot, commits, give_up_s, str(error))
            if last is None and expected:
                raise StorageError(f"the log of slot {slot.number} has lost all that was in it")
            if last is not None and last.sequence != expected:
                found = _read(last)
                if found is not None and found.id == entry.id:
                    return last.sequence
                if has_doubt and (found is None or found.previous != expected):
                    # Others stand between, and ours may be among them.
                    reason = "another node has the slot; the last write may be made or not"
                    end_commits(commits, Uncertain(reason))
                raise Fenced(f"slot {slot.number} has been claimed by another node") from error
            try:
                return await self._log.append(slot.number, data, expected)
            except (LogConflict, Unavailable) as again:
                error = again
                has_doubt = has_doubt or isinstance(again, Uncertain)
                await asyncio.sleep(CONFLICT_PAUSE_S)

    async def _last(
        self, slot: SlotWork, commits: Sequence[PendingCommit], give_up_s: float, why: str
    ) -> Message | None:
        """The last message of a slot's log. Who waits longer than ``doubt_ms`` is told so."""
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= give_up_s:
                slot.doubt = f"the log does not say whether the last write was made: {why}"
                end_commits(commits, Uncertain(slot.doubt))
                self._refuse(slot, Unavailable(slot.doubt))
            try:
                last = await self._log.last(slot.number)
            except Unavailable as error:
                why = str(error)
                await asyncio.sleep(PAUSE_S)
            else:
                return last


def _read(message: Message) -> Entry | None:
    """None if a stranger wrote it: who reads the log passes over it."""
    try:
        return decode_entry(message.data)
    except NoEntry:
        return None
