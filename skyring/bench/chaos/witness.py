"""What the logs of the ring and the logs of its nodes have to say when a scenario is over."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from skyring.bench.ring_log import LogMessage
from skyring.errors import RecordUnreadable
from skyring.node_ring import ENTRY_ID_BYTES
from skyring.storage.entry import decode_entry
from skyring.testing.proof.history import LogEntry

__all__ = ["OF_DAMAGE", "OF_DISKS", "STALLED", "entries_of", "errors_in"]

ERROR = re.compile(r"^\S+ ERROR \S+ (?P<said>.*)$", re.MULTILINE)
"""A line of a node's log, ``time level logger text``."""
STALLED = ("a delivery does not end",)
"""What a node that stood still may have to say."""
OF_DISKS = ("a write failed", "the due index of slot")
"""What a node may have to say whose disk fails; the simulator allows the same."""
OF_DAMAGE = (
    *("damaged", "lost", "cannot be read", "cannot be delivered", "Corruption: "),
    *("the due index", "stood in the due index at a time of another"),
)
"""Words of what a node may have to say of damaged files."""


def errors_in(log: str, expected: Collection[str]) -> list[str]:
    """What a node has logged at level ERROR, but for what has such words.

    Worse levels and tracebacks are defects wherever a ring runs (`RingNode.defects`).
    """
    found = (match.group("said") for match in ERROR.finditer(log))
    return [said for said in found if not any(words in said for words in expected)]


def entries_of(messages: Iterable[LogMessage]) -> tuple[list[LogEntry], list[str]]:
    """The entries of all slots, and what is wrong with the logs as such.

    When the first entries of a slot have been purged, its first epoch is taken as given: an entry
    that names a predecessor is behind a claim of its own writer that is there no more.
    """
    entries: list[LogEntry] = []
    wrong: list[str] = []
    last: dict[int, int] = {}
    for slot, sequence, data in messages:
        where = f"slot {slot}, entry {sequence}"
        try:
            entry = decode_entry(data)
        except RecordUnreadable as error:
            wrong.append(f"{where}: {error}")
            continue
        writer = f"{entry.node}/{entry.id[:ENTRY_ID_BYTES].hex()}"
        is_claim = entry.kind == "claim"
        before = last.get(slot)
        if before is None and entry.previous and not is_claim:
            entries.append(LogEntry(slot, entry.previous, entry.epoch, writer, is_claim=True))
        if before is not None and entry.previous != before:
            wrong.append(f"{where}: it follows {entry.previous}, and {before} stands before it")
        entries.append(LogEntry(slot, sequence, entry.epoch, writer, is_claim))
        last[slot] = sequence
    return entries, wrong
