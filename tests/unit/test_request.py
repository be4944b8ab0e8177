"""What users send: taken as it is meant, or refused with the name of the field at fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.errors import InvalidRequest
from skyring.timers.record import DataKind
from skyring.timers.request import (
    AT_MS_MAX,
    TIMEOUT_MS_MAX,
    BulkEntry,
    TimerRequest,
    decode_entry,
    decode_request,
    due_of,
    payload_of,
)
from skyring.transports.base import Callback, RetrySpec

NOW_MS = 1_700_000_000_000
CALLBACK: dict[str, Any] = {"transport": "http", "method": "post", "uri": "http://127.0.0.1/"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def body(**fields: Any) -> bytes:
    return json.dumps({"callback": CALLBACK, **fields}).encode()


def with_data(data: bytes) -> bytes:
    return body(timeout=1)[:-1] + b', "data": ' + data + b"}"


def due(**fields: Any) -> tuple[int, int | None]:
    return due_of(decode_request(body(**fields)), NOW_MS)


def payload(data: bytes) -> tuple[DataKind, bytes]:
    return payload_of(decode_request(with_data(data)))


def read(
    content: bytes, decode: Callable[[bytes], TimerRequest] = decode_request
) -> tuple[int, int | None, DataKind, bytes]:
    request = decode(content)
    return (*due_of(request, NOW_MS), *payload_of(request))


def refused(content: bytes) -> InvalidRequest:
    """The error that a body leads to, wherever on its way it is noticed."""
    with pytest.raises(InvalidRequest) as caught:
        read(content)
    return caught.value


# The whole


def test_a_request_with_everything() -> None:
    retry = {"attempts": 5, "backoff_ms": 1_000, "max_ms": 60_000}
    callback = {**CALLBACK, "headers": {"a": "b"}, "retry": retry, "timeout_ms": 5_000}
    request = decode_request(body(callback=callback, timeout=3_000, data="hello"))
    assert request.callback == Callback(
        "http", "post", "http://127.0.0.1/", {"a": "b"}, RetrySpec(5, 1_000, 60_000), 5_000
    )
    assert due_of(request, NOW_MS) == (NOW_MS + 3_000, 3_000)
    assert payload_of(request) == ("text", b"hello")


def test_what_is_left_out_is_left_to_the_settings() -> None:
    request = decode_request(body(timeout=1, callback={**CALLBACK, "retry": {"attempts": 2}}))
    assert request.callback.retry == RetrySpec(2, None, None)
    assert (request.callback.timeout_ms, request.callback.headers) == (None, {})
    assert payload_of(request) == ("none", b"")


@pytest.mark.parametrize("around", [b" %b", b"%b\n", b"\t\r\n%b "])
def test_white_space_around_a_body(around: bytes) -> None:
    assert decode_request(around % body(timeout=7)).timeout == 7


def test_an_entry_is_a_request_that_may_have_an_id() -> None:
    content = body(timeout=1, id="order-17")
    assert decode_entry(content).id == "order-17"
    assert decode_entry(msgspec.Raw(content)).id == "order-17"
    assert decode_entry(body(timeout=1)).id is msgspec.UNSET
    assert isinstance(decode_entry(content), BulkEntry)
    assert refused(content).field == "id"  # a single create takes it as a header
    with pytest.raises(InvalidRequest) as wrong:
        decode_entry(body(timeout=1, id=5))
    assert wrong.value.field == "id"


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        (b"", "", "the body is not JSON"),
        (b"\xff", "", "the body is not"),
        (b"[]", "", "the body is wrong: expected object, got array"),
        (b"{}", "callback", "is required"),
        (body(timeout=1, callback={}), "callback.transport", "is required"),
        (body(timeout=1, callback={**CALLBACK, "retry": 1}), "callback.retry", "expected object"),
        (body(timeout=1, colour="red"), "colour", "is not a known field"),
        (body(timeout=1, callback={**CALLBACK, "url": "x"}), "callback.url", "is not a known"),
        (body(timeout="1"), "timeout", "expected int, got str"),
        (body(timeout=True), "timeout", "expected int, got bool"),
        (body(timeout=1.0), "timeout", "expected int, got float"),
        (body(timeout=None), "timeout", "expected int, got null"),
        (body(timeout=float("nan")), "timeout", "must be a finite number"),
        (body(timeout=0), "timeout", "must be a whole number of milliseconds from 1 to 2147483647"),
        (body(timeout=-1), "timeout", "must be a whole number"),
        (body(timeout=2_147_483_648), "timeout", "must be a whole number"),
        (body(), "timeout", "one of timeout and at is required"),
        (body(timeout=1, at=1), "at", "either timeout or at, not both"),
        (body(at=-1), "at", "must lie between"),
        (body(at=AT_MS_MAX + 1), "at", "must lie between"),
        (with_data(b"5"), "data", "must be a string or an object"),
        (with_data(b"[]"), "data", "must be a string or an object"),
        (with_data(b"true"), "data", "must be a string or an object"),
        (with_data(b'{"a": {"b": [1, NaN]}}'), "data.a.b[1]", "must be a finite number"),
        (with_data(b'{"a": "\\udc00"}'), "data.a", "lone surrogate"),
        (body(timeout=1)[:-1], "", "the body is not JSON"),
        (body(timeout=1) + b"x", "", "the body is not JSON"),
    ],
)
def test_refusals_name_the_field(content: bytes, field: str, reason: str) -> None:
    error = refused(content)
    assert error.field == field
    assert str(error).startswith(f"{field}: " if field else reason)
    assert reason in str(error)


@pytest.mark.parametrize("name", ["colour", "my colour", "Colour!", "größe"])
def test_an_unknown_field_is_refused_by_its_whole_name(name: str) -> None:
    assert refused(body(timeout=1, **{name: 1})).field == name
    assert refused(body(timeout=1, callback={**CALLBACK, name: 1})).field == f"callback.{name}"


@pytest.mark.parametrize(
    "data", [b'{"\\ud800": NaN}', b'{"\\udc00": {"a": "\\ud800"}}', b'{"\\n": NaN}']
)
def test_a_refusal_can_be_told_whatever_the_field_is_called(data: bytes) -> None:
    error = refused(with_data(data))
    assert error.field.startswith("data")
    assert str(error).encode() == str(error).encode(errors="replace")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "timeout": JSON | st.integers(1, 9),
        "at": JSON,
        "data": JSON,
        "id": JSON,
        "callback": JSON | st.just(CALLBACK) | st.fixed_dictionaries({"headers": JSON}),
        "other": JSON,
    },
).map(lambda value: json.dumps(value).encode())


@given(NEARLY | st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_is_either_a_request_or_an_explained_refusal(content: bytes) -> None:
    for decode in (decode_request, decode_entry):
        assert verdict(content, decode)


@given(st.integers(0, 200), st.integers(0, 7))
def test_a_damaged_request_is_never_an_unforeseen_error(place: int, bit: int) -> None:
    damaged = bytearray(with_data(b'{"a": ["\xc3\xa4", 1.5e3]}'))
    damaged[place % len(damaged)] ^= 1 << bit
    assert verdict(bytes(damaged))


def verdict(content: bytes, decode: Callable[[bytes], TimerRequest] = decode_request) -> str:
    """The reason of a refusal; any other error comes through."""
    try:
        due_ms, timeout_ms, kind, sent = read(content, decode)
    except InvalidRequest as error:
        return str(error)
    assert 0 <= due_ms <= NOW_MS + AT_MS_MAX
    assert timeout_ms is None or due_ms == NOW_MS + timeout_ms
    assert (kind == "none") <= (sent == b"")
    return "accepted"


# When it is due


@given(st.integers(1, TIMEOUT_MS_MAX), st.integers(0, AT_MS_MAX))
def test_a_time_out_counts_from_now(timeout_ms: int, now_ms: int) -> None:
    request = decode_request(body(timeout=timeout_ms))
    assert due_of(request, now_ms) == (now_ms + timeout_ms, timeout_ms)


@given(st.integers(0, AT_MS_MAX))
def test_epoch_milliseconds_are_taken_as_they_are(at_ms: int) -> None:
    assert due(at=at_ms) == (at_ms, None)


@pytest.mark.parametrize(
    ("text", "due_ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59-00:01", 59_000),
        ("2030-01-31T12:00:00Z", 1_896_091_200_000),
        ("2030-01-31t12:00:00z", 1_896_091_200_000),
        ("2030-01-31 12:00:00Z", 1_896_091_200_000),
        ("2030-01-31T12:00:00-00:00", 1_896_091_200_000),
        ("2030-01-31T17:30:00.5+05:30", 1_896_091_200_500),
        ("2030-01-31T12:00:00.001Z", 1_896_091_200_001),
        ("2030-01-31T12:00:00.0011Z", 1_896_091_200_002),
        ("2030-01-31T12:00:00.000001Z", 1_896_091_200_001),
        ("2028-02-29T00:00:00Z", 1_835_395_200_000),
        ("9999-12-31T23:59:59.999Z", AT_MS_MAX),
    ],
)
def test_rfc_3339(text: str, due_ms: int) -> None:
    assert due(at=text) == (due_ms, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1896091200000",
        "2030-01-31",
        "2030-01-31T12:00Z",
        "2030-01-31T12:00:00",
        "2030-01-31T12:00:00.Z",
        "2030-01-31T12:00:00,5Z",
        "2030-01-31T12:00:00+0100",
        "2030-01-31T12:00:00+1:00",
        "2030-01-31T12:00:00Z ",
        "2030-01-31T12:00:00Z\n",
        "20300131T120000Z",
        "2030-W05-4T12:00:00Z",
        "٢٠٣٠-01-31T12:00:00Z",
        "2030-02-29T12:00:00Z",
        "2030-13-01T12:00:00Z",
        "2030-01-31T25:00:00Z",
        "2030-01-31T12:60:00Z",
        "2030-01-31T12:00:61Z",
        "2030-01-31T12:00:00+24:00",
        "2030-01-31T12:00:00+12:60",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59.9999Z",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_what_is_no_time_on_the_calendar(text: str) -> None:
    assert refused(body(at=text)).field == "at"


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29)),
    st.integers(-1_439, 1_439),
    st.sampled_from(["T", "t", " "]),
)
def test_rfc_3339_against_datetime(moment: datetime, offset_minutes: int, between: str) -> None:
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    due_ms, _ = due(at=moment.isoformat(sep=between))
    exact_us = (moment - EPOCH) // timedelta(microseconds=1)
    assert due_ms == ceil(Fraction(exact_us, 1_000))


DIGITS = st.text("0123456789", min_size=1, max_size=12) | st.builds(
    "{:03}{}{}".format,  # whole milliseconds but for what comes far behind the point
    st.integers(0, 999),
    st.sampled_from(["000", "001", "999"]),
    st.text("0123456789", max_size=6),
)


@given(st.integers(0, 2_000_000_000), DIGITS)
def test_a_fraction_of_any_length_is_rounded_up_never_early(epoch_s: int, digits: str) -> None:
    moment = EPOCH + timedelta(seconds=epoch_s)
    due_ms, _ = due(at=f"{moment:%Y-%m-%dT%H:%M:%S}.{digits}Z")
    exact_ms = epoch_s * 1_000 + Fraction(int(digits), 10 ** len(digits)) * 1_000
    assert exact_ms <= due_ms < exact_ms + 1


# What is sent


@pytest.mark.parametrize(
    ("data", "kind", "sent"),
    [
        (b"null", "none", b""),
        (b'""', "text", b""),
        (b'"hello"', "text", b"hello"),
        (b'"\xc3\xa4"', "text", b"\xc3\xa4"),
        (b'"\\u00e4\\ud83d\\ude00"', "text", "ä😀".encode()),
        (b'"\\u0000\\n"', "text", b"\0\n"),
        (b'"{\\"a\\": 1}"', "text", b'{"a": 1}'),
        (b"{}", "json", b"{}"),
        (b'{"a":1}', "json", b'{"a":1}'),
        (b'{ "b" : 1e2,\n"a":1.50 }', "json", b'{ "b" : 1e2,\n"a":1.50 }'),
        (b'{"a":1,"a":2}', "json", b'{"a":1,"a":2}'),
        (b'{"a":"\\u00e4"}', "json", b'{"a":"\\u00e4"}'),
        (b'{"a":123456789012345678901234567890}', "json", b'{"a":123456789012345678901234567890}'),
        (b'  {"a":1}  ', "json", b'{"a":1}'),
    ],
)
def test_text_goes_out_as_it_is_and_objects_as_they_came(
    data: bytes, kind: str, sent: bytes
) -> None:
    assert payload(data) == (kind, sent)


@given(st.text(max_size=50), st.booleans())
def test_any_text(text: str, ascii_only: bool) -> None:
    data = json.dumps(text, ensure_ascii=ascii_only).encode()
    assert payload(data) == ("text", text.encode())


@given(
    st.dictionaries(st.text(max_size=5), JSON.filter(lambda v: "NaN" not in json.dumps(v))),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_any_object_to_the_byte(
    value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    if b"Infinity" in data:
        return
    assert payload(data) == ("json", data)
