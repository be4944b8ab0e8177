"""Everything that is written and read again: as it was, or refused in the documented way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skyring.errors import InvalidRequest, RecordUnreadable, StorageError
from skyring.ring import messages
from skyring.ring.membership import Gossip
from skyring.ring.messages import (
    OperationsAnswer,
    OperationsQuestion,
    ProbeAnswer,
    ProbeQuestion,
    ReleaseAnswer,
    ReleaseQuestion,
)
from skyring.ring.slots import pack_slots, unpack_slots
from skyring.storage.entry import ENTRY_VERSION, Entry, NoEntry, decode_entry, encode_entry
from skyring.storage.memory import MemoryStorage
from skyring.storage.replica import APPLIED_KEY, Replica, read_replica, write_replica
from skyring.timers.record import Record, decode_record, encode_record
from skyring.timers.request import (
    AT_MS_MAX,
    TIMEOUT_MS_MAX,
    decode_request,
    due_of,
    payload_of,
)
from skyring.timers.request import (
    decode_entry as decode_bulk_entry,
)
from skyring.timers.wire import decode_new_record
from skyring.transports.base import Callback, RetrySpec
from tests.fuzz.targets import TARGETS

LOG = "log"
NOW_MS = 1_700_000_000_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NATURALS = st.integers(0, 2**64 - 1)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
BYTES = st.binary(max_size=30)
TIMES_MS = st.integers(0, AT_MS_MAX)
NAMES = sorted(TARGETS)

CALLBACKS = st.builds(
    Callback,
    TEXTS,
    TEXTS,
    TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    st.none() | st.builds(RetrySpec, *[st.none() | INTEGERS] * 3),
    st.none() | INTEGERS,
)
RECORDS = st.builds(
    Record,
    created_ms=INTEGERS,
    due_ms=INTEGERS,
    next_ms=INTEGERS,
    timeout_ms=st.none() | INTEGERS,
    data_kind=st.sampled_from(["none", "text", "json"]),
    payload=BYTES,
    callback=CALLBACKS,
    destination=TEXTS,
    attempts=INTEGERS,
    last_error=st.none() | TEXTS,
    mark=INTEGERS,
)
ENTRIES = st.builds(
    Entry,
    version=st.just(ENTRY_VERSION),
    kind=st.sampled_from(["claim", "batch", "snapshot"]),
    epoch=INTEGERS,
    node=TEXTS,
    id=BYTES,
    previous=INTEGERS,
    writes=st.lists(st.tuples(BYTES, st.none() | BYTES), max_size=4),
)
REPLICAS = st.builds(Replica, st.just(1), st.just(LOG), *[NATURALS] * 7, st.booleans())
MESSAGES: list[tuple[st.SearchStrategy[Any], Callable[[bytes], Any]]] = [
    (
        st.builds(
            Gossip,
            TEXTS,
            INTEGERS,
            st.sampled_from(["joining", "alive", "leaving", "left"]),
            TEXTS,
            BYTES,
            INTEGERS,
            INTEGERS,
        ),
        messages.decode_gossip,
    ),
    (
        st.just(ProbeQuestion())
        | st.builds(ReleaseQuestion, TEXTS, BYTES)
        | st.builds(OperationsQuestion, st.lists(BYTES, max_size=4)),
        messages.decode_question,
    ),
    (st.builds(ProbeAnswer, INTEGERS), messages.decode_probe_answer),
    (st.builds(ReleaseAnswer, BYTES), messages.decode_release_answer),
    (
        st.builds(OperationsAnswer, st.lists(BYTES | INTEGERS, max_size=4)),
        messages.decode_operations_answer,
    ),
]


# Round trips


@given(RECORDS)
@settings(deadline=None)
def test_records(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@given(ENTRIES)
@settings(deadline=None)
def test_entries_of_a_log(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


@given(st.data(), st.sampled_from(MESSAGES))
@settings(deadline=None)
def test_messages_of_the_ring(data: st.DataObject, kind: Any) -> None:
    strategy, decode = kind
    message = data.draw(strategy)
    assert decode(messages.encode(message)) == message


@given(st.integers(1, 5_000), st.data())
@settings(deadline=None)
def test_sets_of_slots(slots: int, data: st.DataObject) -> None:
    chosen = data.draw(st.frozensets(st.integers(0, slots - 1), max_size=50))
    packed = pack_slots(chosen)
    assert unpack_slots(packed, slots) == chosen
    assert unpack_slots(packed + b"\xff" * 9, slots) >= chosen
    assert all(slot < slots for slot in unpack_slots(b"\xff" * 999, slots))


async def read(value: bytes) -> Replica:
    state = MemoryStorage()
    await state.open()
    await state.acquire([0])
    await state.commit(0, [(APPLIED_KEY, value)])
    return await read_replica(state, 0, LOG)


@given(REPLICAS)
@settings(deadline=None)
def test_how_far_a_slot_has_come(replica: Replica) -> None:
    assert asyncio.run(read(write_replica(replica))) == replica


# Anything at all: the targets of the fuzzer say what may come of it


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_read(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)


@pytest.mark.parametrize("name", NAMES)
def test_the_beginning_of_a_seed_is_refused_or_means_something_else(name: str) -> None:
    for seed in TARGETS[name].seeds():
        for length in range(len(seed)):
            TARGETS[name].check(seed[:length])


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_refused_or_means_something_else(name: str) -> None:
    for seed in TARGETS[name].seeds():
        for bit in range(8 * min(len(seed), 150)):
            flipped = bytearray(seed)
            flipped[bit // 8] ^= 1 << bit % 8
            TARGETS[name].check(bytes(flipped))


@pytest.mark.parametrize("name", NAMES)
@given(noise=st.binary(max_size=60) | st.just(b"\x91" * 3_000) | st.just(b"[" * 3_000))
@settings(deadline=None)
@example(noise=b"")
def test_noise_is_refused_or_means_something(name: str, noise: bytes) -> None:
    for prefix in (b"", b"\x01"):
        TARGETS[name].check(prefix + noise)


@given(RECORDS)
@settings(deadline=None)
def test_a_record_of_another_node_is_one_that_can_be_kept_or_is_refused(record: Record) -> None:
    TARGETS["new-record"].check(encode_record(record))


@given(REPLICAS, st.data())
@settings(deadline=None)
def test_a_damaged_account_of_how_far_a_slot_has_come(
    replica: Replica, data: st.DataObject
) -> None:
    value = bytearray(write_replica(replica))
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    TARGETS["replica"].check(bytes(value))


# Other versions


@given(st.integers(2, 2**32), st.lists(st.none() | INTEGERS | TEXTS | BYTES, max_size=8))
@settings(deadline=None)
def test_an_entry_of_another_version_is_no_strangers(version: int, rest: list[Any]) -> None:
    with pytest.raises(RecordUnreadable, match=f"version {version}$") as refused:
        decode_entry(msgspec.msgpack.encode([version, "batch", *rest]))
    assert not isinstance(refused.value, NoEntry)


async def test_a_state_of_another_version_or_another_log_is_refused() -> None:
    with pytest.raises(RecordUnreadable, match="version 2"):
        await read(write_replica(Replica(version=2, log=LOG)))
    with pytest.raises(StorageError, match="another ring"):
        await read(write_replica(Replica(log="other")))


async def test_what_earlier_and_later_programs_have_written() -> None:
    """Fields are only ever added, at the end."""
    replica = Replica(1, LOG, 9, 2, 3, 4, 5, 6, 7, False)
    fields = msgspec.to_builtins(replica)
    assert await read(msgspec.msgpack.encode(fields[:4])) == Replica(1, LOG, 9, 2)
    assert await read(msgspec.msgpack.encode([*fields, "new", None])) == replica
    gossip = Gossip("n1", 5, "alive", "http://x", b"\x01", 9, 8)
    told = msgspec.to_builtins(gossip, builtin_types=(bytes,))
    earlier, later = (b"\x01" + msgspec.msgpack.encode(each) for each in (told[:3], [*told, "new"]))
    assert messages.decode_gossip(earlier) == Gossip("n1", 5, "alive")
    assert messages.decode_gossip(later) == gossip
    claim = [1, "claim", 7, "n1", b"id", 41]
    for entry in (claim, [*claim, [], "new"]):
        assert decode_entry(msgspec.msgpack.encode(entry)) == Entry(1, "claim", 7, "n1", b"id", 41)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            encode_entry(Entry(1, "batch", 2, "n1", b"\x09", 3, [(b"k", b"v"), (b"l", None)])),
            "9701a5626174636802a26e31c401090392" + "92c4016bc40176" + "92c4016cc0",
        ),
        (write_replica(Replica(1, "s", 1, 2, 3, 4, 5, 6, 7, False)), "9a01a17301020304050607c2"),
        (messages.encode(ProbeQuestion()), "0191a570726f6265"),
        (messages.encode(ReleaseQuestion("a", b"\x05")), "0193a772656c65617365a161c40105"),
        (messages.encode(OperationsQuestion([b"x"])), "0196aa6f7065726174696f6e7391c40178a0000090"),
        (messages.encode(OperationsAnswer([b"x", 3])), "019192c4017803"),
        (
            messages.encode(Gossip("a", 1, "alive", "", b"\x02", 3, 4)),
            "0197a16101a5616c697665a0c401020304",
        ),
    ],
)
def test_forms_stay(written: bytes, expected: str) -> None:
    """What another release has written must be read by this one."""
    assert written.hex() == expected


# Requests: numbers

CALLBACK = b'"callback":{"transport":"http","method":"post","uri":"http://127.0.0.1/"}'
NUMBERS = (
    st.integers(-(2**70), 2**70).map(str)
    | st.sampled_from([0, 1, TIMEOUT_MS_MAX, AT_MS_MAX, 2**31, 2**63, 2**64]).flatmap(
        lambda number: st.sampled_from([str(number - 1), str(number), str(number + 1)])
    )
    | st.floats(allow_nan=True, allow_infinity=True).map(json.dumps)
    | st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,5})?([eE][-+]?[0-9]{1,4})?", fullmatch=True)
)


@pytest.mark.parametrize("decode", [decode_request, decode_bulk_entry])
@pytest.mark.parametrize(
    ("field", "least", "most"), [("timeout", 1, TIMEOUT_MS_MAX), ("at", 0, AT_MS_MAX)]
)
@given(number=NUMBERS)
@example(number="1e3")
@example(number="1.0")
@example(number="-0")
@example(number="9" * 5_000)
@example(number="1e999999999")
@settings(max_examples=60, deadline=None)
def test_a_number_is_taken_as_it_is_or_refused(
    decode: Callable[[bytes], Any], field: str, least: int, most: int, number: str
) -> None:
    body = b'{"%s":%s,%s}' % (field.encode(), number.encode(), CALLBACK)
    try:
        due_ms, timeout_ms = due_of(decode(body), NOW_MS)
    except InvalidRequest as error:
        refused = error
    else:
        value = int(number)  # so it was written as one
        assert least <= value <= most
        assert (due_ms, timeout_ms) == (
            (NOW_MS + value, value) if field == "timeout" else (value, None)
        )
        return
    assert refused.field in (field, "")
    digits = number.removeprefix("-")
    if digits.isdigit() and len(digits) < 30:
        assert not least <= int(number) <= most or (digits[0] == "0" and digits != "0")


@given(
    st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,12})?"
        r"([Zz]|[+-][0-9]{2}:[0-9]{2})",
        fullmatch=True,
    )
    | TEXTS
)
@settings(deadline=None)
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59.9999999-23:59")
@example("2030-12-31T23:59:60Z")
@example("2030-02-29T00:00:00Z")
def test_what_looks_like_a_moment_is_one_or_is_refused(text: str) -> None:
    request = decode_request(b'{"at":%s,%s}' % (json.dumps(text).encode(), CALLBACK))
    try:
        due_ms, timeout_ms = due_of(request, NOW_MS)
    except InvalidRequest as error:
        assert error.field == "at"  # noqa: PT017
    else:
        assert 0 <= due_ms <= AT_MS_MAX
        assert timeout_ms is None


DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(TEXTS | st.dictionaries(TEXTS, DATA, max_size=3), st.booleans())
@settings(deadline=None)
def test_what_is_taken_of_a_user_is_taken_of_another_node(data: Any, ascii_only: bool) -> None:
    sent = json.dumps(data, ensure_ascii=ascii_only).encode()
    request = decode_request(b'{"timeout":1,"data":%s,%s}' % (sent, CALLBACK))
    kind, payload = payload_of(request)
    record = Record(1, 2, 2, 1, kind, payload, request.callback, "http:127.0.0.1:80")
    assert decode_new_record(encode_record(record)) == record
    assert json.loads(msgspec.json.encode(record.view("id", "scheduled")))["data"] == data
