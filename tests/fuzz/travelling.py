"""Targets that read what nodes send each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from skyring.errors import SkyringError
from skyring.http.problems import reply_to_error
from skyring.ring import messages
from skyring.ring.membership import Gossip
from skyring.ring.messages import (
    Garbled,
    OperationsAnswer,
    OperationsQuestion,
    ProbeAnswer,
    ProbeQuestion,
    ReleaseAnswer,
    ReleaseQuestion,
)
from skyring.ring.slots import pack_slots, unpack_slots
from skyring.timers.parts import Item, Part
from skyring.timers.record import decode_record, encode_record, split_due_key, writes_put
from skyring.timers.request import check_id
from skyring.timers.retry import Gone, RetryPolicy, decide
from skyring.timers.wire import (
    Added,
    Answer,
    BadMessage,
    Cancel,
    Create,
    CreateMany,
    DeleteDeadLetter,
    Done,
    Entry,
    Failed,
    Found,
    Get,
    Operation,
    PartRead,
    ReadPart,
    Results,
    RetryDeadLetter,
    Sent,
    Update,
    decode_answer,
    decode_new_record,
    decode_operation,
    encode_answer,
    encode_operation,
)
from skyring.transports.base import DeliveryInfo, Outcome
from skyring.transports.wire import envelope
from tests.fuzz.stored import RECORDS
from tests.fuzz.target import Target, stable

__all__ = ["TARGETS"]

SLOTS = 256
POLICY = RetryPolicy(attempts=10, backoff_ms=1_000, max_ms=3_600_000)
NOW_MS = 1_700_000_000_000
INFO = DeliveryInfo("id", 1, 1, 2, 3, None)


def check_operation(data: bytes) -> None:
    """An operation is read or refused; ids of new timers are such as users may give."""
    try:
        sent = decode_operation(data)
    except BadMessage:
        return
    wanted = sent.operation
    new = wanted.timers if isinstance(wanted, CreateMany) else [wanted]
    for each in new:
        if isinstance(each, (Create, Entry)):
            check_id(each.id)
    stable(sent, _encode_sent, decode_operation)


def _encode_sent(sent: Sent) -> bytes:
    return encode_operation(sent.operation, sent.waited_ms, sent.repeated)


def check_answer(data: bytes) -> None:
    """An answer is read or refused; an error in it can be told to a user."""
    try:
        answer = decode_answer(data)
    except BadMessage:
        return
    stable(answer, encode_answer, decode_answer)
    if isinstance(answer, PartRead):
        assert all(isinstance(item.id, str) for item in answer.part.items)
    results = answer.results if isinstance(answer, Results) else [answer]
    for each in results:
        if isinstance(each, Failed):
            _check_error(each.error())


def _check_error(error: SkyringError) -> None:
    reply = reply_to_error(error)
    assert 400 <= reply.status < 600
    json.loads(reply.body)
    for name, value in reply.headers:
        assert b"\n" not in name + value
        assert b"\r" not in name + value


def check_new_record(data: bytes) -> None:
    """What is let through is stored, delivered, retried and shown without another error."""
    try:
        record = decode_new_record(data)
    except BadMessage:
        return
    stable(record, encode_record, decode_record)
    shown = msgspec.json.encode(record.view("id", "scheduled"))
    assert shown.startswith(b"{")
    if record.data_kind != "none":
        envelope(record.callback, record.payload, INFO)
    for outcome in (Outcome.retry("no"), Outcome.retry("no", 5), Outcome.rejected("never")):
        for random in (0.0, 0.999):
            next_state = decide(record, outcome, NOW_MS, POLICY, random)
            assert not isinstance(next_state, Gone)
            (_, value), (due, _) = writes_put("id", next_state.record)
            assert value is not None
            assert decode_record(value) == next_state.record
            assert split_due_key(due) == (next_state.record.next_ms, "id")


def reader(decode: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    """A check of one of the readers of `skyring.ring.messages`."""

    def check(data: bytes) -> None:
        try:
            message = decode(data)
        except Garbled:
            return
        stable(message, messages.encode, decode)
        for packed in (getattr(message, "slots", b""), getattr(message, "held", b"")):
            slots = unpack_slots(packed, SLOTS)
            assert all(0 <= slot < SLOTS for slot in slots)
            assert unpack_slots(pack_slots(slots), SLOTS) == slots

    return check


def _operations() -> list[bytes]:
    record = encode_record(RECORDS[0])
    operations: list[Operation] = [
        Create("a", record, True),
        CreateMany([Entry("a", record, True), Entry("b:~.-", b"", False)]),
        Update("a", record),
        Cancel("a"),
        Get("ä"),
        RetryDeadLetter("a"),
        DeleteDeadLetter("a"),
        ReadPart([0, 255], "pending", b"d/", b"d0", 100, 1 << 20),
    ]
    return [encode_operation(each, 17, False) for each in operations]


def _answers() -> list[bytes]:
    failures = [
        Failed("not-found", "no timer"),
        Failed("invalid", "callback: wrong", "callback"),
        Failed("unavailable", "later", retry_after_s=5),
        Failed("unheard-of", "x"),
    ]
    items = [
        Item(b"d/" + bytes(8) + b"a", "scheduled", encode_record(RECORDS[0])),
        Item(b"x/b", "dead", b""),
    ]
    answers: list[Answer] = [
        Done(),
        Added(True),
        *failures,
        Results([Added(False), *failures]),
        Found("delivering", encode_record(RECORDS[1])),
        PartRead(Part(items, None)),
        PartRead(Part([], b"d/")),
    ]
    return [encode_answer(each) for each in answers]


def _seeds_of(*kinds: Any) -> Callable[[], list[bytes]]:
    return lambda: [messages.encode(each) for each in kinds]


TARGETS = {
    "operation": Target(check_operation, _operations, "msgpack", 1),
    "answer": Target(check_answer, _answers, "msgpack", 1),
    "new-record": Target(
        check_new_record, lambda: [encode_record(each) for each in RECORDS], "msgpack", 1
    ),
    "question": Target(
        reader(messages.decode_question),
        _seeds_of(
            ProbeQuestion(),
            ReleaseQuestion("n1", pack_slots([0, 17, 255])),
            OperationsQuestion([encode_operation(Get("a"), 0, True), b""]),
        ),
        "msgpack",
        1,
    ),
    "gossip": Target(
        reader(messages.decode_gossip),
        _seeds_of(
            Gossip("n1", 1, "alive", "http://127.0.0.1:1", pack_slots(range(0, 256, 3)), 9, 8),
            Gossip("", 1 << 62, "left"),
        ),
        "msgpack",
        1,
    ),
    "probe-answer": Target(
        reader(messages.decode_probe_answer), _seeds_of(ProbeAnswer(5)), "msgpack", 1
    ),
    "release-answer": Target(
        reader(messages.decode_release_answer), _seeds_of(ReleaseAnswer(b"\x03")), "msgpack", 1
    ),
    "operations-answer": Target(
        reader(messages.decode_operations_answer),
        _seeds_of(OperationsAnswer([encode_answer(Done()), 0, 1, 2, 3])),
        "msgpack",
        1,
    ),
}
