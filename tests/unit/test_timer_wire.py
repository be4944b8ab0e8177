"""Operations and answers come out of a message as they went in, or not at all."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring import errors
from skyring.errors import InvalidRequest, SkyringError, Unavailable, Uncertain
from skyring.timers.parts import Item, Part
from skyring.timers.record import Record, encode_record
from skyring.timers.request import AT_MS_MAX, TIMEOUT_MS_MAX
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
    Update,
    decode_answer,
    decode_new_record,
    decode_operation,
    encode_answer,
    encode_operation,
)
from skyring.transports.base import Callback

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NEW_IDS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:~-]{0,20}", fullmatch=True)
WAITS = st.integers(0, TIMEOUT_MS_MAX)
KINDS: Any = st.sampled_from(["pending", "dead"])
STATES: Any = st.sampled_from(["scheduled", "delivering", "dead"])

OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Create, NEW_IDS, st.binary(), st.booleans()),
    st.builds(CreateMany, st.lists(st.builds(Entry, NEW_IDS, st.binary(), st.booleans()))),
    st.builds(Update, TEXTS, st.binary()),
    *(st.builds(kind, TEXTS) for kind in (Cancel, Get, RetryDeadLetter, DeleteDeadLetter)),
    st.builds(
        ReadPart,
        st.lists(st.integers(0, 65_535)),
        KINDS,
        st.binary(),
        st.binary(),
        st.integers(1, 1 << 40),
        st.integers(0, 1 << 40),
    ),
)
FAILURES = st.builds(Failed, TEXTS, TEXTS, TEXTS, st.integers(0, 1 << 40))
ITEMS = st.builds(
    lambda state, name, value: Item(b"d/" + bytes(8) + name.encode(), state, value),
    STATES,
    TEXTS,
    st.binary(),
)
ANSWERS: st.SearchStrategy[Answer] = st.one_of(
    st.just(Done()),
    st.builds(Added, st.booleans()),
    FAILURES,
    st.builds(Results, st.lists(st.builds(Added, st.booleans()) | FAILURES)),
    st.builds(Found, STATES, st.binary()),
    st.builds(PartRead, st.builds(Part, st.lists(ITEMS), st.none() | st.binary())),
)


@given(OPERATIONS, WAITS, st.booleans())
def test_operations(operation: Operation, waited_ms: int, repeated: bool) -> None:
    sent = decode_operation(encode_operation(operation, waited_ms, repeated))
    assert (sent.operation, sent.waited_ms, sent.repeated) == (operation, waited_ms, repeated)


@given(ANSWERS)
def test_answers(answer: Answer) -> None:
    assert decode_answer(encode_answer(answer)) == answer


def test_who_has_waited_for_ever_has_waited_long_enough() -> None:
    sent = decode_operation(encode_operation(Get("a"), 1 << 60, False))
    assert sent.waited_ms == TIMEOUT_MS_MAX


@given(st.data(), OPERATIONS, ANSWERS)
def test_damage_is_noticed_or_makes_another_message(
    data: st.DataObject, operation: Operation, answer: Answer
) -> None:
    for encoded, decode in (
        (encode_operation(operation, 0, False), decode_operation),
        (encode_answer(answer), decode_answer),
    ):
        damaged = bytearray(encoded)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
        with suppress(BadMessage):
            decode(cut)


@given(st.binary())
def test_noise_is_refused(noise: bytes) -> None:
    for prefix in (b"", b"\x01"):
        for decode in (decode_operation, decode_answer, decode_new_record):
            with suppress(BadMessage):
                decode(prefix + noise)


@pytest.mark.parametrize("decode", [decode_operation, decode_answer])
def test_another_version_is_refused(decode: Any) -> None:
    data = encode_operation(Get("a"), 0, False)
    for other in (b"", b"\x02" + data[1:], b"\x00" + data[1:]):
        with pytest.raises(BadMessage, match="version"):
            decode(other)


def test_deep_nesting_is_refused() -> None:
    for decode in (decode_operation, decode_answer):
        with pytest.raises(BadMessage):
            decode(b"\x01" + b"\x91" * 100_000)


@pytest.mark.parametrize("timer_id", ["", "a b", "a\n", "ä", "x" * 129, "/"])
def test_no_timer_is_made_with_an_id_that_users_may_not_give(timer_id: str) -> None:
    for operation in (
        Create(timer_id, b"", True),
        CreateMany([Entry("fine", b"", True), Entry(timer_id, b"", True)]),
    ):
        with pytest.raises(BadMessage):
            decode_operation(encode_operation(operation, 0, False))


@pytest.mark.parametrize(
    "operation",
    [
        ReadPart([-1], "pending", b"", b"", 1, 1),
        ReadPart([0], "others", b"", b"", 1, 1),  # type: ignore[arg-type]
        ReadPart([0], "dead", b"", b"", 0, 1),
        ReadPart([0], "dead", b"", b"", 1, -1),
    ],
)
def test_numbers_that_cannot_be(operation: Operation) -> None:
    with pytest.raises(BadMessage):
        decode_operation(encode_operation(operation, 0, False))
    with pytest.raises(BadMessage):
        decode_operation(encode_operation(Get("a"), -1, False))


def test_a_part_with_a_place_that_names_no_timer() -> None:
    answer = PartRead(Part([Item(b"d/" + bytes(8) + b"\xff", "scheduled", b"")], None))
    with pytest.raises(BadMessage):
        decode_answer(encode_answer(answer))


# Errors

EVERY = [
    getattr(errors, name)
    for name in errors.__all__
    if not issubclass(getattr(errors, name), (InvalidRequest, Unavailable))
]


def travelled(error: SkyringError) -> SkyringError:
    answer = decode_answer(encode_answer(Failed.of(error)))
    assert isinstance(answer, Failed)
    return answer.error()


@pytest.mark.parametrize("kind", EVERY)
def test_an_error_is_the_same_at_the_other_end(kind: type[SkyringError]) -> None:
    error = travelled(kind("what is wrong"))
    assert type(error) is kind
    assert str(error) == "what is wrong"


@pytest.mark.parametrize("field", ["", "callback.uri"])
def test_a_wrong_request_names_the_same_field(field: str) -> None:
    error = travelled(InvalidRequest("must be: this", field))
    assert isinstance(error, InvalidRequest)
    assert error.field == field
    assert str(error) == str(InvalidRequest("must be: this", field))


@pytest.mark.parametrize("kind", [Unavailable, Uncertain])
def test_who_is_to_come_again_is_told_when(kind: type[Unavailable]) -> None:
    error = travelled(kind("later", 17))
    assert type(error) is kind
    assert isinstance(error, Unavailable)
    assert (str(error), error.retry_after_s) == ("later", 17)


def test_an_error_of_a_newer_program_is_an_error() -> None:
    error = Failed("unheard-of", "something else").error()
    assert type(error) is SkyringError
    assert str(error) == "something else"


def test_a_reason_that_is_no_text_can_be_sent() -> None:
    error = travelled(InvalidRequest("no \ud800", "data.\udfff"))
    assert isinstance(error, InvalidRequest)
    assert "ud800" in str(error)
    assert "udfff" in error.field


# Records

RECORD = Record(
    created_ms=1,
    due_ms=2,
    next_ms=3,
    timeout_ms=None,
    data_kind="json",
    payload=b'{"a":1}',
    callback=Callback("http", "post", "http://127.0.0.1/"),
    destination="http:127.0.0.1:80",
)


def test_a_record_travels_as_it_is_stored() -> None:
    assert decode_new_record(encode_record(RECORD)) == RECORD


@pytest.mark.parametrize(
    "wrong",
    [
        {"due_ms": -1},
        {"next_ms": 1 << 63},
        {"created_ms": AT_MS_MAX + 1},
        {"timeout_ms": 0},
        {"timeout_ms": TIMEOUT_MS_MAX + 1},
        {"attempts": -1},
        {"destination": "x" * 1_001},
        {"data_kind": "text", "payload": b"\xff"},
        {"payload": b'{"a":'},
        {"payload": b'["a"]'},
        {"payload": b'{"a":"\xff"}'},
    ],
)
def test_a_record_that_this_node_could_not_have_made(wrong: dict[str, Any]) -> None:
    value = encode_record(msgspec.structs.replace(RECORD, **wrong))
    with pytest.raises(BadMessage):
        decode_new_record(value)


def test_a_record_of_another_version() -> None:
    with pytest.raises(BadMessage):
        decode_new_record(b"\x02" + encode_record(RECORD)[1:])
