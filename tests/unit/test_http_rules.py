"""What a webhook may look like, and what its answer means."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.errors import InvalidRequest
from skyring.transports.http_rules import (
    METHODS,
    check_headers,
    check_uri,
    failure_reason,
    method_of,
    outcome_of,
    read_destination,
    retry_after_ms,
)

NOW_MS = 1_700_000_000_000  # 14 November 2023, 22:13:20 UTC
HOUR_MS = 3_600_000
TOKEN_CHARS = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"


def read_uri(uri: str) -> str:
    check_uri(uri)
    return read_destination(uri)


@pytest.mark.parametrize("method", [*METHODS, *map(str.lower, METHODS), "Post", "dElEtE"])
def test_method_in_any_case(method: str) -> None:
    assert method_of(method) == method.upper()


@pytest.mark.parametrize("method", ["", "TRACE", "CONNECT", "POST ", "PO\nST", "poſt"])
def test_method_that_is_none(method: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^callback\.method: .*POST") as refused:
        method_of(method)
    assert refused.value.field == "callback.method"


@pytest.mark.parametrize(
    ("uri", "destination"),
    [
        ("http://example.com", "http:example.com:80"),
        ("https://example.com/hook", "http:example.com:443"),
        ("HTTP://EXAMPLE.com:080/", "http:example.com:80"),
        ("http://example.com:8989?x=1", "http:example.com:8989"),
        ("http://example.com#part", "http:example.com:80"),
        ("http://example.com:/x", "http:example.com:80"),
        ("http://example.com/?to=a@b", "http:example.com:80"),
        ("http://[::1]:3000/x", "http:[::1]:3000"),
        ("http://2130706433/", "http:127.0.0.1:80"),
        ("http://xn--bcher-kva.example/", "http:xn--bcher-kva.example:80"),
        ("http://my_service:80/a|b{c}^\"<>'`[]", "http:my_service:80"),
    ],
)
def test_uri_and_its_destination(uri: str, destination: str) -> None:
    assert read_uri(uri) == destination


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/hook",
        "example.com",
        "//example.com/x",
        "http:example.com",
        "http:/example.com",
        "http://",
        "http:///x",
        "http://?x",
        "http://#x",
        "http://:80/",
        "http://./",
        "ftp://example.com/",
        "file:///etc/passwd",
        "unix://x",
        "xhttp://example.com/",
        " http://example.com/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/\t",
        "http://example.com/\n",
        "http://example.com/\0",
        "http://example.com/\x7f",
        "http://example.com/é",
        "http://bücher.example/",
        "http://example.com\\@evil.example/",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://@example.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:80x/",
        "http://example.com:-1/",
        "http://1.2.3.4.5/",
        "http://999.1.1.1/",
        "http://[::1/",
        "http://[::g]/",
        "http://a%zz/",
        "http://" + "a" * 300 + "/",
        "http://example.com/" + "a" * 8192,
    ],
)
def test_uri_that_is_none(uri: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_uri(uri)
    assert refused.value.field == "callback.uri"
    assert str(refused.value).isprintable()


def test_a_refused_uri_is_not_quoted() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_uri("http://user:secret@example.com/")
    assert "secret" not in str(refused.value)


def test_longest_uri() -> None:
    uri = "http://example.com/"
    assert read_uri(uri + "a" * (8192 - len(uri))) == "http:example.com:80"


@given(st.text(max_size=60))
def test_any_text_is_a_uri_or_refused(text: str) -> None:
    for uri in (text, "http://" + text, "http://example.com:" + text):
        try:
            destination = read_uri(uri)
        except InvalidRequest as error:
            assert error.field == "callback.uri"  # noqa: PT017 - both ends are fine
        else:
            transport, host = destination.split(":", 1)
            assert transport == "http"
            assert 1 <= int(host.rpartition(":")[2]) <= 65_535


@given(
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,8}){0,3}", fullmatch=True).filter(
        lambda host: not any(label.startswith("xn--") for label in host.split("."))
    ),
    st.none() | st.integers(1, 65_535),
    st.text(alphabet=string.ascii_letters + string.digits + "/?#@:;&=%.~-_", max_size=30),
)
def test_destination_agrees_with_the_standard_library(
    host: str, port: int | None, rest: str
) -> None:
    uri = f"https://{host}{'' if port is None else f':{port}'}/{rest}"
    parts = urlsplit(uri)
    assert read_uri(uri) == f"http:{parts.hostname}:{parts.port or 443}"


def test_destinations_are_one_object() -> None:
    assert read_destination("http://a.example/x") is read_destination("http://a.example/y")


@given(
    st.dictionaries(
        st.text(alphabet=TOKEN_CHARS, min_size=1, max_size=20),
        st.text(alphabet="\t" + string.printable[:95], max_size=60),
        max_size=20,
    )
)
def test_usual_headers(headers: dict[str, str]) -> None:
    own = {f"x-{number}-{name}": value for number, (name, value) in enumerate(headers.items())}
    check_headers(own)


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "content-type", "User-Agent", "te2"])
def test_headers_that_users_may_set(name: str) -> None:
    check_headers({name: "x"})


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a:",
        "a\n",
        "a\0",
        "é",
        "(x)",
        "Host",
        "content-length",
        "Transfer-Encoding",
        "CONNECTION",
        "keep-alive",
        "Proxy-Authorization",
        "proxy-connection",
        "TE",
        "Trailer",
        "upgrade",
        "Expect",
        "webhook-id",
        "Webhook-Signature",
        "ſ",
        "\N{KELVIN SIGN}eep-alive",
    ],
)
def test_header_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_headers({"x-before": "fine", name: "x"})
    assert refused.value.field == f"callback.headers.{name}"


@given(
    st.text(max_size=5),
    st.characters(codec="utf-8").filter(lambda char: char != "\t" and not " " <= char <= "~"),
    st.text(max_size=5),
)
def test_header_values_that_are_refused(before: str, bad: str, after: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_headers({"x-secret": before + bad + after})
    assert refused.value.field == "callback.headers.x-secret"


def test_header_names_that_differ_in_case() -> None:
    with pytest.raises(InvalidRequest, match="twice") as refused:
        check_headers({"X-Order": "1", "x-order": "2"})
    assert refused.value.field == "callback.headers.x-order"


def test_too_many_headers() -> None:
    check_headers({f"x-{number}": "" for number in range(100)})
    with pytest.raises(InvalidRequest, match="more than 100") as refused:
        check_headers({f"x-{number}": "" for number in range(101)})
    assert refused.value.field == "callback.headers"


def test_too_large_headers() -> None:
    check_headers({"x": "y" * 16_383})
    with pytest.raises(InvalidRequest, match="more than 16384") as refused:
        check_headers({"x": "y" * 16_384})
    assert refused.value.field == "callback.headers"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, "delivered") for status in (200, 201, 202, 204, 206, 299)),
        *((status, "retry") for status in (101, 199, 300, 301, 304, 308, 400, 401, 404, 408)),
        *((status, "retry") for status in (409, 411, 429, 500, 502, 503, 504, 599, 999)),
        (410, "rejected"),
    ],
)
def test_what_a_status_means(status: int, kind: str) -> None:
    outcome = outcome_of(status, None, NOW_MS, HOUR_MS)
    assert outcome.kind == kind
    assert outcome.after_ms is None
    assert outcome.reason.startswith("" if kind == "delivered" else f"answer {status}")
    assert ("redirects are not followed" in outcome.reason) == (300 <= status < 400)


@pytest.mark.parametrize("status", [302, 429, 503, 500])
def test_retry_after_is_honoured_with_any_failure(status: int) -> None:
    assert outcome_of(status, "30", NOW_MS, HOUR_MS).after_ms == 30_000


@pytest.mark.parametrize("status", [200, 410])
def test_retry_after_says_nothing_where_there_is_no_retry(status: int) -> None:
    assert outcome_of(status, "30", NOW_MS, HOUR_MS).after_ms is None


@pytest.mark.parametrize(
    ("value", "after_ms"),
    [
        ("0", 0),
        ("1", 1000),
        (" 120\t", 120_000),
        ("3600", HOUR_MS),
        ("3601", HOUR_MS),
        ("9" * 5000, HOUR_MS),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60_000),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60_000),
        ("Tue Nov 14 22:14:20 2023", 60_000),
        ("Tue, 14 Nov 2023 22:14:60 GMT", 99_000),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", HOUR_MS),
        ("Sunday, 06-Nov-73 08:49:37 GMT", HOUR_MS),
        ("Sunday, 06-Nov-74 08:49:37 GMT", 0),
    ],
)
def test_retry_after(value: str, after_ms: int) -> None:
    assert retry_after_ms(value, NOW_MS, HOUR_MS) == after_ms


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "1_000",
        "٣",
        "soon",
        "10, 20",
        "2023-11-14T22:14:20Z",
        "Tue, 14 Nov 2023 22:14:20",
        "Tue, 14 Nov 2023 22:14:20 +0100",
        "Tue, 31 Feb 2023 22:14:20 GMT",
        "Tue, 14 Nov 2023 25:14:20 GMT",
        "Tue, 14 Nov 0000 22:14:20 GMT",
        "Tue, 14 nov 2023 22:14:20 GMT",
    ],
)
def test_retry_after_that_is_garbage(value: str) -> None:
    assert retry_after_ms(value, NOW_MS, HOUR_MS) is None
    assert outcome_of(503, value, NOW_MS, HOUR_MS).after_ms is None


@given(
    st.datetimes(datetime(1950, 1, 1), datetime(2060, 1, 1)),
    st.integers(0, 1 << 42),
    st.integers(0, 1 << 40),
)
def test_retry_after_in_all_three_forms_of_a_date(
    naive: datetime, now_ms: int, ms_max: int
) -> None:
    moment = naive.replace(microsecond=0, tzinfo=UTC)
    wait_ms = (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1) - now_ms
    expected = min(max(wait_ms, 0), ms_max)
    asctime = f"{moment:%a %b} {moment.day:2d} {moment:%H:%M:%S %Y}"
    for text in (format_datetime(moment, usegmt=True), asctime):
        assert retry_after_ms(text, now_ms, ms_max) == expected


@given(st.text(max_size=40), st.integers(0, 1 << 42), st.integers(0, 1 << 40))
def test_retry_after_stays_in_bounds(value: str, now_ms: int, ms_max: int) -> None:
    after_ms = retry_after_ms(value, now_ms, ms_max)
    assert after_ms is None or 0 <= after_ms <= ms_max


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (["tcp connect error", "Connection refused (os error 111)"], "connection refused"),
        (
            ["dns error", "failed to lookup address information: Name or service not known"],
            "host name not resolved: Name or service not known",
        ),
        (
            ["invalid peer certificate: UnknownIssuer"],
            "TLS: invalid peer certificate: UnknownIssuer",
        ),
        (["connection closed before message completed"], "connection closed before the answer"),
        (["Too many open files (os error 24)"], "Too many open files"),
        (
            ["error sending request for url (http://a/?token=secret)"],
            "error sending request for url …",
        ),
        (["two\r\nlines"], "two  lines"),
        ([""], "the request failed"),
        ([], "the request failed"),
    ],
)
def test_why_a_request_failed(messages: list[str], reason: str) -> None:
    assert failure_reason(messages) == reason


@given(st.lists(st.text()))
def test_a_reason_is_one_short_line(messages: list[str]) -> None:
    reason = failure_reason([message * 10 for message in messages])
    assert reason.isprintable()
    assert 1 <= len(reason) <= 200
