"""What a timer looks like on disk, in the due index and in an answer."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from skyring.errors import RecordUnreadable
from skyring.timers.record import (
    DUE_PREFIX,
    Record,
    dead_key,
    decode_record,
    due_key,
    due_ms_of,
    encode_record,
    split_due_key,
    timer_key,
    timer_slot,
    writes_delete,
    writes_put,
)
from skyring.transports.base import Callback, RetrySpec

NOW_MS = 1_700_000_000_000
CALLBACK = Callback("http", "post", "http://127.0.0.1/", {"a": "b"}, RetrySpec(attempts=3), 5_000)
RECORD = Record(
    created_ms=NOW_MS,
    due_ms=NOW_MS + 3_000,
    next_ms=NOW_MS + 3_000,
    timeout_ms=3_000,
    data_kind="text",
    payload="hällo".encode(),
    callback=CALLBACK,
    destination="http:127.0.0.1:80",
)
AT = replace(RECORD, timeout_ms=None)
IDS = st.text("abcXYZ019_.:~-", min_size=1, max_size=128)
TIMES_MS = st.integers(0, 2**63)


# Content


@pytest.mark.parametrize(
    "changes",
    [
        {"created_ms": 1, "due_ms": 3_001, "next_ms": 3_001},  # counted from another moment
        {"attempts": 4, "last_error": "answer 500", "next_ms": NOW_MS + 99_000},
        {"destination": "http:localhost:80"},
    ],
)
def test_the_same_content(changes: dict[str, Any]) -> None:
    other = replace(RECORD, **changes)
    assert RECORD.same_content(other)
    assert other.same_content(RECORD)


@pytest.mark.parametrize(
    "changes",
    [
        {"timeout_ms": 3_001},
        {"timeout_ms": None},
        {"data_kind": "json"},
        {"data_kind": "none"},
        {"payload": b"hallo"},
        {"callback": replace(CALLBACK, transport="tcp")},
        {"callback": replace(CALLBACK, method="put")},
        {"callback": replace(CALLBACK, uri="http://127.0.0.1/x")},
        {"callback": replace(CALLBACK, headers={})},
        {"callback": replace(CALLBACK, retry=None)},
        {"callback": replace(CALLBACK, retry=RetrySpec(attempts=4))},
        {"callback": replace(CALLBACK, timeout_ms=None)},
    ],
)
def test_other_content(changes: dict[str, Any]) -> None:
    other = replace(RECORD, **changes)
    assert not RECORD.same_content(other)
    assert not other.same_content(RECORD)


def test_a_time_of_day_is_content_and_a_counted_one_is_not() -> None:
    assert AT.same_content(replace(AT, created_ms=1, next_ms=1))
    assert not AT.same_content(replace(AT, due_ms=AT.due_ms + 1))
    assert not AT.same_content(RECORD)


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("none", None), ("text", "text/plain; charset=utf-8"), ("json", "application/json")],
)
def test_media_types(kind: str, content_type: str | None) -> None:
    assert replace(RECORD, data_kind=kind).content_type == content_type


# What the API shows


def shown(record: Record, state: str = "scheduled") -> dict[str, Any]:
    result: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record.view("x", state)))
    return result


def test_a_view_has_everything_but_the_destination() -> None:
    failed = replace(RECORD, attempts=2, last_error="answer 500", next_ms=NOW_MS + 9_000)
    assert shown(failed, "delivering") == {
        "id": "x",
        "state": "delivering",
        "due": NOW_MS + 3_000,
        "next": NOW_MS + 9_000,
        "created": NOW_MS,
        "attempts": 2,
        "last_error": "answer 500",
        "timeout": 3_000,
        "data": "hällo",
        "callback": {
            "transport": "http",
            "method": "post",
            "uri": "http://127.0.0.1/",
            "headers": {"a": "b"},
            "retry": {"attempts": 3},
            "timeout_ms": 5_000,
        },
    }


def test_a_view_leaves_out_what_was_not_given() -> None:
    bare = replace(AT, data_kind="none", payload=b"", callback=Callback("http", "post", "http://x"))
    view = shown(bare)
    assert "timeout" not in view
    assert "data" not in view
    assert view["callback"] == {"transport": "http", "method": "post", "uri": "http://x"}
    assert view["last_error"] is None


def test_an_object_is_shown_as_it_was_sent() -> None:
    sent = b'{ "b": 1.50, "a": 123456789012345678901234567890 }'
    view = replace(RECORD, data_kind="json", payload=sent).view("x", "dead")
    assert sent in msgspec.json.encode(view)


# On disk


@pytest.mark.parametrize("version", [b"", b"\x00", b"\x02", b"\xff"])
def test_another_version_is_not_guessed_at(version: bytes) -> None:
    with pytest.raises(RecordUnreadable, match=f"version {version.hex() or 'missing'}"):
        decode_record(version + encode_record(RECORD)[1:] if version else b"")


def test_every_beginning_of_a_record_is_unreadable() -> None:
    # All but the fields that were added later and have defaults.
    whole = encode_record(RECORD)
    for length in range(1, len(whole)):
        with pytest.raises(RecordUnreadable):
            decode_record(whole[:length])


@given(st.binary(max_size=60) | st.just(b"\x91" * 100_000))
def test_anything_else_is_unreadable(value: bytes) -> None:
    with pytest.raises(RecordUnreadable):
        decode_record(b"\x01" + value)


@given(st.data())
def test_damage_is_unreadable_or_another_record_but_no_other_error(data: st.DataObject) -> None:
    value = bytearray(encode_record(RECORD))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(decode_record(bytes(value)), Record)
    except RecordUnreadable:
        assert bytes(value) != encode_record(RECORD)


def test_records_of_earlier_and_later_programs_can_be_read() -> None:
    """Fields are only ever added, at the end."""
    fields = msgspec.to_builtins(replace(RECORD, payload=b"x"), builtin_types=(bytes,))
    assert isinstance(fields, list)
    expected = replace(RECORD, payload=b"x")
    earlier = b"\x01" + msgspec.msgpack.encode(fields[:8])
    later = b"\x01" + msgspec.msgpack.encode([*fields, "a new field", 5])
    assert decode_record(earlier) == expected
    assert decode_record(later) == expected


def test_the_form_on_disk_stays() -> None:
    """What an earlier release wrote must be read by this one."""
    small = Record(1, 2, 3, None, "none", b"", Callback("t", "m", "u"), "d", 4, "e")
    written = bytes.fromhex(
        "019b010203c0a46e6f6e65c40083a97472616e73706f7274a174a66d6574686f64a16da3757269a175a16404a165"
        "00"
    )
    assert encode_record(small) == written
    assert decode_record(written) == small
    without_mark = b"\x01\x9a" + written[2:-1]
    assert decode_record(without_mark) == small


# Keys


def test_keys() -> None:
    assert timer_key("order-17") == b"t/order-17"
    assert dead_key("order-17") == b"x/order-17"
    assert due_key(258, "order-17") == b"d/\0\0\0\0\0\0\1\2order-17"


@given(TIMES_MS, IDS)
def test_due_keys_come_apart_again(due_ms: int, timer_id: str) -> None:
    key = due_key(due_ms, timer_id)
    assert key.startswith(DUE_PREFIX)
    assert split_due_key(key) == (due_ms, timer_id)
    assert due_ms_of(key) == due_ms


@given(st.lists(st.tuples(TIMES_MS, IDS), max_size=20))
def test_due_keys_sort_by_time_then_by_id(timers: list[tuple[int, str]]) -> None:
    keys = sorted(due_key(due_ms, timer_id) for due_ms, timer_id in timers)
    assert [split_due_key(key) for key in keys] == sorted(timers)


@given(IDS)
def test_what_was_put_is_deleted_and_nothing_else(timer_id: str) -> None:
    put, deleted = writes_put(timer_id, RECORD), writes_delete(timer_id, RECORD)
    assert dict(put) == {
        timer_key(timer_id): encode_record(RECORD),
        due_key(RECORD.next_ms, timer_id): b"http:127.0.0.1:80",
    }
    assert dict(deleted) == dict.fromkeys(dict(put))


@pytest.mark.parametrize(
    ("timer_id", "slot"),
    # CRC-32 of "123456789" is cbf43926, the check value of every list of checksums.
    [("123456789", 0x26), ("order-17", 0x14), ("a", 0x43)],
)
def test_slots_stay_what_they_are(timer_id: str, slot: int) -> None:
    assert timer_slot(timer_id, 256) == slot


@given(IDS, st.integers(1, 65_536))
def test_slots_are_the_remainder_of_a_checksum(timer_id: str, slots: int) -> None:
    assert timer_slot(timer_id, slots) == crc32(timer_id.encode()) % slots
