"""What a replicated storage knows of one slot, and the commits that wait for its log."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from skyring.storage.base import Write
from skyring.storage.replica import Replica

__all__ = ["PendingCommit", "ReplicationLimits", "SlotWork", "end_commits", "fitting"]


class ReplicationLimits(NamedTuple):
    """Bounds of the replication."""

    message_bytes_max: int = 512 << 10
    """Writes in one message of the log."""
    pending_bytes_max: int = 64 << 20
    """Writes that wait for the log; more are refused with Unavailable."""
    snapshot_keys_max: int = 500
    """Keys in one message of a snapshot."""
    claim_ms: int = 3_000
    """A claim that is known to be made only after so long does not count: others may have waited
    for this node, and go on."""
    doubt_ms: int = 5_000
    """How long a commit waits to learn whether it was appended."""
    spare_bytes: int = 256 << 10
    """A log may be this much larger than twice what is live."""


class PendingCommit(NamedTuple):
    writes: Sequence[Write]
    bytes: int
    done: Future[None]


class SlotWork:
    """What is known of one slot. Only its own task changes the replica of a slot that is held."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.replica = Replica()
        self.followed_epoch: int | None = None
        """The epoch when it was followed last: whoever claims it has decided on that."""
        self.doubt: str | None = None
        """Why it is not known whether the last append was made."""
        self.waiting: deque[PendingCommit] = deque()
        self.task: asyncio.Task[None] | None = None
        self.snapshot_from: bytes | None = None
        """The first key that a snapshot under way has not written yet."""
        self.cannot_shorten = False
        """Is something in it that does not fit into a message any more?"""
        self.snapshot_first = 0
        """Sequence of the snapshot's first message."""
        self.snapshot_keys = 0
        """Keys that it has written so far."""


def end_commits(commits: Iterable[PendingCommit], error: Exception | None) -> None:
    for commit in commits:
        if commit.done.done():
            continue
        if error is None:
            commit.done.set_result(None)
        else:
            commit.done.set_exception(error)


def fitting(pairs: list[tuple[bytes, bytes]], bytes_max: int) -> list[tuple[bytes, bytes]]:
    """As many of the first pairs as fit; at least one."""
    size = 0
    for index, (key, value) in enumerate(pairs):
        size += len(key) + len(value)
        if index and size > bytes_max:
            return pairs[:index]
    return pairs
