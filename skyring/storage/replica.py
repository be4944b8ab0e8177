"""How far a slot's state has come, and how long its log is: kept beside the data itself."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec.structs import replace

from skyring.errors import RecordUnreadable, StorageError
from skyring.storage.base import Storage
from skyring.storage.entry import Entry

__all__ = [
    "APPLIED_KEY",
    "KEY_END",
    "Replica",
    "read_replica",
    "refuse_state_of_a_ring",
    "write_replica",
]

APPLIED_KEY = b"l/applied"
KEY_END = b"\xff" * 32
"""Behind every key."""
REPLICA_VERSION = 1


class Replica(msgspec.Struct, frozen=True, array_like=True):
    """The state of a slot after some entry of its log.

    Sizes are estimates: a key that is written twice counts as two. The end of each snapshot sets
    them right.
    """

    version: int = REPLICA_VERSION
    log: str = ""
    """Identity of the log."""
    sequence: int = 0
    """Of the entry that was applied last."""
    epoch: int = 0
    """Of the last claim."""
    live_keys: int = 0
    """About as many keys as there are."""
    log_keys: int = 0
    """Keys put by the messages of the log."""
    log_bytes: int = 0
    """Length of the messages of the log."""
    new_keys: int = 0
    """Keys put since the snapshot under way began."""
    new_bytes: int = 0
    """Length of the messages since the snapshot under way began."""
    is_rebuilt: bool = True
    """Was it made from a log that begins with a snapshot? Then the snapshot's keys are new here."""

    def after(self, entry: Entry, sequence: int, message_bytes: int) -> Replica:
        """The replica when an entry has been applied."""
        puts = sum(value is not None for _, value in entry.writes)
        change = 2 * puts - len(entry.writes)
        if entry.kind == "snapshot" and not self.is_rebuilt:
            change = 0
        return replace(
            self,
            sequence=sequence,
            epoch=entry.epoch,
            live_keys=max(0, self.live_keys + change),
            log_keys=self.log_keys + puts,
            log_bytes=self.log_bytes + message_bytes,
            new_keys=self.new_keys + puts,
            new_bytes=self.new_bytes + message_bytes,
        )

    def passing_over(self, sequence: int, message_bytes: int) -> Replica:
        """The replica behind a message that is no entry."""
        return replace(
            self,
            sequence=sequence,
            log_bytes=self.log_bytes + message_bytes,
            new_bytes=self.new_bytes + message_bytes,
        )

    def is_bloated(self, spare_bytes: int) -> bool:
        """Is most of the log dead, so that a snapshot would shorten it?

        Args:
            spare_bytes: a log may be this much larger than twice what is live.
        """
        live_bytes = self.live_keys * self.log_bytes // max(1, self.log_keys)
        return self.log_bytes > 2 * live_bytes + spare_bytes

    def snapshot_begun(self) -> Replica:
        """The replica when a snapshot begins."""
        return replace(self, new_keys=0, new_bytes=0)

    def compacted(self, live_keys: int) -> Replica:
        """The replica when what stood before the snapshot has been purged."""
        return replace(
            self,
            live_keys=live_keys,
            log_keys=self.new_keys,
            log_bytes=self.new_bytes,
            is_rebuilt=False,
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Replica)


def write_replica(replica: Replica) -> bytes:
    """As it stands under `APPLIED_KEY`."""
    return _encoder.encode(replica)


async def read_replica(state: Storage, slot: int, log: str) -> Replica:
    """How far the state of a slot has come, by its own account.

    Args:
        log: identity of the log that it has to follow.

    Raises:
        RecordUnreadable: another version of this program wrote it.
        StorageError: it belongs to another log, or to a node that stood alone.
    """
    value = await state.get(slot, APPLIED_KEY)
    if value is None:
        if await state.scan(slot, b"", KEY_END, 1):
            raise StorageError(
                "the storage directory holds the timers of a node that stood alone; export them"
                " (skyring export), and give this node another directory (--storage:path)"
            )
        return Replica(log=log)
    try:
        replica = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordUnreadable(f"the state of slot {slot} cannot be read: {error}") from error
    if replica.version != REPLICA_VERSION:
        raise RecordUnreadable(f"the state of slot {slot} has version {replica.version}")
    if replica.log != log:
        raise StorageError(
            "the storage directory belongs to another ring, or to one whose logs NATS has lost;"
            " give this node another directory (--storage:path), or restore the data of NATS"
        )
    return replica


async def refuse_state_of_a_ring(storage: Storage, slots: int) -> None:
    """A node that stands alone must not serve what a member of a ring has kept.

    Args:
        storage: with all slots acquired.
        slots: how many there are.

    Raises:
        StorageError: it is such a storage.
    """
    marks = await asyncio.gather(*(storage.get(slot, APPLIED_KEY) for slot in range(slots)))
    if any(mark is not None for mark in marks):
        raise StorageError(
            "the storage directory belongs to a member of a ring: start the node with --nats, or"
            " give it another directory (--storage:path)"
        )
