"""Targets that read what is on disk and in the logs."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from skyring.errors import RecordUnreadable, StorageError
from skyring.storage.entry import ENTRY_VERSION, Entry, NoEntry, decode_entry, encode_entry
from skyring.storage.memory import MemoryStorage
from skyring.storage.replica import APPLIED_KEY, Replica, read_replica, write_replica
from skyring.storage.seal import OVERHEAD_BYTES, SealBroken, seal, unseal
from skyring.timers.record import Record, decode_record, encode_record, view
from skyring.transports.base import Callback, RetrySpec
from tests.fuzz.target import Target, refusal, stable

__all__ = ["RECORDS", "TARGETS"]

T = TypeVar("T")
KEY_BYTES = 4
LOG = "fuzz"

RECORDS = [
    Record(1, 2, 3, 4, "text", b"hello", Callback("http", "post", "http://127.0.0.1/"), "http:x:1"),
    Record(
        created_ms=1_700_000_000_000,
        due_ms=1_700_000_003_000,
        next_ms=1_700_000_009_000,
        timeout_ms=None,
        data_kind="json",
        payload=b'{"a":[1,2.5,{"b":null}]}',
        callback=Callback(
            "http", "PUT", "http://[::1]:80/x?y", {"a": "b"}, RetrySpec(3, 10, 1_000), 5_000
        ),
        destination="http:[::1]:80",
        attempts=2,
        last_error="answer 500",
        mark=1 << 60,
    ),
    Record(0, 0, 0, None, "none", b"", Callback("t", "m", "u", retry=RetrySpec()), "d"),
]


def check_record(data: bytes) -> None:
    """A record is read or refused; what stands there instead can be shown all the same."""
    record = refusal(RecordUnreadable, decode_record, data)
    if isinstance(record, RecordUnreadable):
        shown = view("id", data, "scheduled")
        assert shown == {"id": "id", "state": "unreadable", "last_error": str(record)}
        json.loads(msgspec.json.encode(shown))
    else:
        stable(record, encode_record, decode_record)


def check_seal(data: bytes) -> None:
    """No bytes are a sealed value but those that were sealed, under their own key."""
    key, sealed = data[:KEY_BYTES], data[KEY_BYTES:]
    value = refusal(SealBroken, unseal, key, sealed)
    if isinstance(value, SealBroken):
        assert value.sealed == sealed
    else:
        assert seal(key, value) == sealed
    assert unseal(key, seal(key, sealed)) == sealed
    assert len(seal(key, sealed)) == len(sealed) + OVERHEAD_BYTES


def check_entry(data: bytes) -> None:
    """A message of the log is an entry, one of another version, or none."""
    entry = refusal(RecordUnreadable, decode_entry, data)
    if isinstance(entry, Entry):
        assert entry.version == ENTRY_VERSION
        stable(entry, encode_entry, decode_entry)
    else:
        assert isinstance(entry, NoEntry) or "version" in str(entry)


def check_replica(data: bytes) -> None:
    """How far a slot has come is known or refused, and can be counted on from there."""
    try:
        replica = run(_read(data))
    except (RecordUnreadable, StorageError):
        return
    stable(replica, write_replica, lambda written: run(_read(written)))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        value: T = ended.value
        return value
    raise AssertionError("it waits for something")


class _State(MemoryStorage):
    """Has one value, in one slot."""

    def __init__(self, value: bytes) -> None:
        super().__init__()
        self._value = value

    async def get(self, slot: int, key: bytes) -> bytes | None:
        return self._value if key == APPLIED_KEY else None


async def _read(data: bytes) -> Replica:
    return await read_replica(_State(data), 0, LOG)


def _entries() -> list[bytes]:
    writes = [(b"t/a", encode_record(RECORDS[0])), (b"d/" + bytes(8) + b"a", None)]
    return [
        encode_entry(Entry(ENTRY_VERSION, "claim", 1, "n1", b"\0" * 16, 0)),
        encode_entry(Entry(ENTRY_VERSION, "batch", 7, "n2", b"x", 4711, writes)),
        encode_entry(Entry(ENTRY_VERSION, "snapshot", 1 << 40, "", b"", 1 << 60, writes[:1])),
        encode_entry(Entry(2, "claim", 1, "n1", b"", 0)),
    ]


TARGETS = {
    "record": Target(check_record, lambda: [encode_record(each) for each in RECORDS], "msgpack", 1),
    "seal": Target(
        check_seal, lambda: [b"abcd" + seal(b"abcd", each) for each in (b"", b"value")], "bytes"
    ),
    "entry": Target(check_entry, _entries, "msgpack"),
    "replica": Target(
        check_replica,
        lambda: [
            write_replica(Replica(log=LOG)),
            write_replica(Replica(1, LOG, 9, 2, 3, 4, 5, 6, 7, False)),
            write_replica(Replica(log="another")),
        ],
        "msgpack",
    ),
}
