"""The witness that reads the logs of a ring."""

from __future__ import annotations

from skyring.bench.ring_compaction import Coming, slot_limit_bytes
from skyring.bench.ring_log import LogChecker, SlotLive
from skyring.storage.base import Write
from skyring.storage.entry import ENTRY_VERSION, Entry, EntryKind, encode_entry


class Log:
    """Writes what a node would, whether it may or not."""

    def __init__(self, checker: LogChecker, slot: int = 7) -> None:
        self.checker = checker
        self.slot = slot
        self.sequence = 0

    def append(self, kind: EntryKind, node: str, epoch: int, previous: int | None = None) -> None:
        before = self.sequence if previous is None else previous
        self.sequence += 3
        entry = Entry(ENTRY_VERSION, kind, epoch, node, b"id", before)
        self.checker.add(self.slot, self.sequence, encode_entry(entry))


def findings(checker: LogChecker) -> tuple[int, int, int, int]:
    return checker.stale, checker.fallen, checker.unreadable, checker.unseen


def test_holders_that_follow_each_other() -> None:
    checker = LogChecker()
    log, other = Log(checker), Log(checker, slot=8)
    log.append("claim", "n1", 1)
    log.append("batch", "n1", 1)
    other.append("claim", "n2", 1)
    other.append("batch", "n2", 1)
    log.append("claim", "n2", 2)
    log.append("snapshot", "n2", 2)
    log.append("claim", "n2", 3)
    assert findings(checker) == (0, 0, 0, 0)
    assert checker.entries == {"claim": 4, "batch": 2, "snapshot": 1}
    assert (checker.holder(7), checker.holder(8), checker.holder(9)) == ("n2", "n2", None)


def test_a_stale_holder_is_found() -> None:
    for kind in ("batch", "snapshot"):
        checker = LogChecker()
        log = Log(checker)
        log.append("claim", "n1", 1)
        log.append("claim", "n2", 2)
        log.append(kind, "n1", 1)
        assert findings(checker) == (1, 0, 0, 0)
        log.append(kind, "n2", 1)  # its node, but an older claim of it
        assert findings(checker) == (2, 0, 0, 0)
        log.append(kind, "n2", 2)
        assert findings(checker) == (2, 0, 0, 0)
        assert checker.told[0] == (
            f"slot 7, 9: {kind} of n1, epoch 1 after _Claim(epoch=2, node='n2')"
        )


def test_a_claim_must_rise() -> None:
    checker = LogChecker()
    log = Log(checker)
    log.append("claim", "n1", 2)
    log.append("claim", "n2", 2)
    log.append("claim", "n3", 1)
    assert findings(checker) == (0, 2, 0, 0)


def test_a_log_whose_beginning_was_purged() -> None:
    checker = LogChecker()
    log = Log(checker)
    log.append("snapshot", "n1", 4, previous=1_000)
    log.append("batch", "n1", 4)
    assert findings(checker) == (0, 0, 0, 0)
    log.append("batch", "n2", 3)
    assert findings(checker) == (1, 0, 0, 0)


def test_gaps_and_damage_are_counted() -> None:
    checker = LogChecker()
    log = Log(checker)
    log.append("claim", "n1", 1)
    log.append("batch", "n1", 1, previous=99)
    checker.add(7, 100, b"\xc1")
    assert findings(checker) == (0, 0, 1, 1)


def message(*writes: Write) -> bytes:
    return encode_entry(Entry(ENTRY_VERSION, "batch", 1, "n1", b"id", 0, list(writes)))


def test_what_is_live_is_what_the_writes_leave() -> None:
    slot = SlotLive()
    first = message((b"a", b"123"), (b"b", b"1"))
    slot.add(first, 10)
    slot.add(message((b"a", None), (b"b", b"12345"), (b"never", None)), 10)
    assert slot.live == {b"b": 6}
    assert slot.live_bytes == 6
    assert slot.messages == 2
    assert slot.log_bytes > len(first) + 20


def test_the_limit_of_a_slot() -> None:
    assert slot_limit_bytes(0) == 1_000_000
    assert slot_limit_bytes(1_000) == 1_004_000


def test_short_timers_are_counted_once() -> None:
    coming = Coming("tag", 3)
    for key in ("tag-0", "tag-2", "tag-0", "tag-3", "other-1", "tag-x", "tag-far-1"):
        coming.add(key)
    assert (coming.arrived, coming.duplicated) == (2, 1)
