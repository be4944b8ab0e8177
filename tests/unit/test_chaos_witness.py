"""What the chaos suite makes of the logs of the ring, and of those of its nodes."""

from __future__ import annotations

import pytest

from skyring.bench.chaos.scenarios import SCENARIOS
from skyring.bench.chaos.witness import OF_DAMAGE, entries_of, errors_in
from skyring.bench.ring_log import LogMessage
from skyring.node_ring import ENTRY_ID_BYTES
from skyring.storage.entry import ENTRY_VERSION, Entry, EntryKind, encode_entry
from skyring.testing.proof.checker import check
from skyring.testing.proof.history import History


def message(
    sequence: int,
    previous: int,
    epoch: int,
    writer: str,
    kind: EntryKind = "batch",
) -> LogMessage:
    """An entry of slot 3; a writer is a node and, as one letter, a start of it."""
    node, start = writer[:-1], writer[-1]
    entry_id = start.encode() * ENTRY_ID_BYTES + sequence.to_bytes(6, "big")
    entry = Entry(ENTRY_VERSION, kind, epoch, node, entry_id, previous)
    return LogMessage(3, sequence, encode_entry(entry))


CLAIM = message(1, 0, 1, "n1a", "claim")
BATCH = message(4, 1, 1, "n1a")


def broken(*messages: LogMessage) -> list[str]:
    """What the checker says of the epochs in such a log."""
    entries, wrong = entries_of(messages)
    assert wrong == []
    return [each.text for each in check(History(entries=entries)) if each.rule == "epoch"]


def test_a_log_in_which_each_epoch_begins_with_a_claim_is_sound() -> None:
    assert broken(CLAIM, BATCH, message(9, 4, 2, "n2a", "claim"), message(11, 9, 2, "n2a")) == []


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (message(9, 4, 1, "n2a"), "in epoch 1 of n1"),
        (message(9, 4, 1, "n1b"), "in epoch 1 of n1"),
        (message(9, 4, 2, "n2a"), "without a claim"),
        (message(9, 4, 0, "n1a"), "in epoch 0 after 1"),
    ],
    ids=["two holders", "the same node started again", "no claim", "an epoch that has ended"],
)
def test_who_writes_without_holding_the_slot_is_found(entry: LogMessage, text: str) -> None:
    [found] = broken(CLAIM, BATCH, entry)
    assert text in found


def test_the_first_epoch_is_taken_as_given_when_its_claim_was_purged() -> None:
    kept = message(20, 17, 5, "n1a", "snapshot")
    assert broken(kept, message(22, 20, 5, "n1a")) == []
    assert len(broken(kept, message(22, 20, 5, "n2a"))) == 1
    assert len(broken(message(20, 0, 5, "n1a"))) == 1  # nothing was there that could be purged


def test_an_entry_that_is_missing_and_one_that_cannot_be_read_are_told() -> None:
    _, wrong = entries_of([CLAIM, message(9, 4, 1, "n1a")])
    assert wrong == ["slot 3, entry 9: it follows 4, and 1 stands before it"]
    _, wrong = entries_of([CLAIM, LogMessage(3, 2, b"\xc1")])
    assert len(wrong) == 1


LOG = """\
2026-11-21T10:00:00.000Z INFO skyring.server an ERROR in words is none
2026-11-21T10:00:00.100Z ERROR skyring.timers.delivery timer a stood in the due index at a time of another
2026-11-21T10:00:00.200Z ERROR skyring.timers.delivery timer b was due, and its record is damaged or lost
2026-11-21T10:00:00.300Z ERROR skyring.storage.leveldb a write failed: no space left on device
2026-11-21T10:00:00.400Z WARNING skyring.ring.presence the lease has lapsed; 86 slots are dropped
"""  # noqa: E501


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nodes", ["timer a", "timer b", "a write"]),
        ("nats-r3", ["timer a", "timer b", "a write"]),
        ("disk-ring", ["timer a", "timer b"]),
        ("fsync", ["timer a", "timer b"]),
        ("short-disk", ["timer a", "timer b"]),
        ("damage-ring", ["a write"]),
    ],
)
def test_what_a_node_calls_an_error_is_a_defect_unless_its_disk_explains_it(
    name: str, told: list[str]
) -> None:
    found = errors_in(LOG, SCENARIOS[name].expected_errors())
    assert [" ".join(said.split()[:2]) for said in found] == told


def test_of_damaged_files_no_other_error_is_expected() -> None:
    assert errors_in(LOG, OF_DAMAGE) == ["a write failed: no space left on device"]
    # LevelDB comes upon a damaged block when it merges tables, and fails the next write for it.
    merged = LOG.replace("no space left on device", "Corruption: block checksum mismatch")
    assert errors_in(merged, OF_DAMAGE) == []
