"""Callbacks, options and answers, without a server."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from skyring.errors import ConfigError, InvalidRequest
from skyring.settings import DeliverySettings, TransportSettings
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring.transports.registry import load_transports
from skyring_redis import Redis
from skyring_redis.rules import outcome_of, xadd
from skyring_redis.server import Address, read_url

INFO = DeliveryInfo("t-1", 2, 1_700_000_000_000, 1_700_000_001_999, 1_000, "application/json")


def to(uri: str = "timers", method: str = "xadd", **headers: str) -> Callback:
    return Callback(transport="redis", method=method, uri=uri, headers=headers)


# Callbacks


@pytest.mark.parametrize("uri", ["timers", "orders:{17}", "a b", "käse", "k" * 512, "a/b?c=d#e"])
def test_keys_of_all_kinds_are_taken(uri: str) -> None:
    Redis().check(to(uri))
    Redis().check(to(uri, method="XADD"))
    assert Redis().destination(to(uri)) == f"redis:{uri}"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "must be the key of a stream"),
        ("a\nb", "control character"),
        ("a\0", "control character"),
        ("\x7f", "control character"),
        ("\ud800", "control character"),
        ("k" * 513, "at most 512 bytes"),
        ("ä" * 257, "at most 512 bytes"),
    ],
)
def test_what_is_no_key_is_refused(uri: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        Redis().check(to(uri))
    assert caught.value.field == "callback.uri"


@pytest.mark.parametrize("method", ["", "lpush", "publish", "xadd ", "post"])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(InvalidRequest, match="must be xadd") as caught:
        Redis().check(to(method=method))
    assert caught.value.field == "callback.method"


@pytest.mark.parametrize("name", ["tenant", "Authorization", "x y", "ä", "_", "n" * 1000])
def test_headers_that_can_be_fields_are_taken(name: str) -> None:
    Redis().check(to(**{name: "any\ntext\0 ä"}))


@pytest.mark.parametrize(
    "name", ["data", "Type", "webhook-id", "WebHook-anything", "", "a\nb", "\ud800"]
)
def test_headers_that_cannot_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Redis().check(to(**{name: "x"}))
    assert caught.value.field == "callback.headers"


def test_headers_are_bounded() -> None:
    Redis().check(to(**{f"h{number}": "x" for number in range(100)}))
    with pytest.raises(InvalidRequest, match="at most 100"):
        Redis().check(to(**{f"h{number}": "x" for number in range(101)}))
    with pytest.raises(InvalidRequest, match="at most 16384 bytes"):
        Redis().check(to(h="x" * 16_384))
    with pytest.raises(InvalidRequest, match="is no text"):
        Redis().check(to(h="\ud800"))


def test_the_command() -> None:
    assert xadd(to("k", tenant="ä"), b"{}", INFO, 0) == (
        *(b"XADD", b"k", b"*", b"data", b"{}", b"type", b"application/json"),
        *(b"webhook-id", b"t-1", b"webhook-timestamp", b"1700000001"),
        *(b"webhook-attempt", b"2", b"webhook-due", b"1700000000000"),
        *(b"tenant", "ä".encode()),
    )
    trimmed = xadd(to("k"), b"", INFO, 1000)
    assert trimmed[:6] == (b"XADD", b"k", b"MAXLEN", b"~", b"1000", b"*")


# Options


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("redis://a", Address("a", 6379, "", 0, False), "redis:a:6379"),
        ("redis://a:1/", Address("a", 1, "", 0, False), "redis:a:1"),
        ("redis://127.0.0.1:1/15", Address("127.0.0.1", 1, "", 15, False), "redis:127.0.0.1:1"),
        ("rediss://[::1]:7/2", Address("::1", 7, "", 2, True), "rediss:[::1]:7"),
        ("unix:///run/r%20s", Address("", 0, "/run/r s", 0, False), "unix:/run/r s"),
        ("unix:///run/r?db=3", Address("", 0, "/run/r", 3, False), "unix:/run/r"),
    ],
)
def test_addresses(url: str, address: Address, shown: str) -> None:
    assert read_url(url) == address
    assert str(read_url(url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        *("", "a", "a:6379", "http://a", "redis://", "redis:///1", "redis://a:x", "redis://a:0"),
        *("redis://a:99999", "redis://a/x", "redis://a/1/2", "redis://a?db=1", "redis://a#b"),
        *("unix://a/b", "unix:", "unix:///a?x=1", "redis://[", "redis://a/-1", "unix:///a#b"),
    ],
)
async def test_malformed_addresses_stop_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match=r"transport\.redis\.url has to be of the form"):
        await Redis(Redis.Options(url=url)).open()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@a",
        "redis://u:s3cret@a:1/0",
        "redis://s3cret@a",
        "unix:///a?password=s3cret",
    ],
)
async def test_credentials_in_the_address_stop_the_start(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await Redis(Redis.Options(url=url)).open()
    assert "transport.redis.username" in str(caught.value)
    assert "transport.redis.password" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_missing_file_of_certificates_stops_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.pem"
    with pytest.raises(ConfigError, match=r"transport\.redis\.ca_file: .*No such file"):
        await Redis(Redis.Options(url="rediss://localhost", ca_file=missing)).open()
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(ConfigError, match="holds no certificates in PEM form"):
        await Redis(Redis.Options(url="rediss://localhost", ca_file=empty)).open()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connections_max", 0),
        ("batch_max", 0),
        ("in_flight_max", 0),
        ("connect_timeout_ms", 0),
        ("answer_timeout_ms", 0),
        ("reconnect_pause_ms", 1),
        ("maxlen", -1),
        ("password", ""),
        ("port", 6379),
    ],
)
def test_options_out_of_bounds(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Redis.Options.model_validate({name: value})


def test_it_is_found_by_its_name_and_hides_the_password() -> None:
    settings = TransportSettings.model_validate(
        {"load": ["redis"], "redis": {"password": "s3cret", "maxlen": "7"}}
    )
    transport = load_transports(DeliverySettings(), settings)["redis"].transport
    assert isinstance(transport, Redis)
    assert transport.options.maxlen == 7
    assert "s3cret" not in f"{transport.options!r} {transport.options}"


# Answers


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (
            ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
            Outcome.rejected(
                "Redis answers: WRONGTYPE Operation against a key holding the wrong kind of value"
            ),
        ),
        (
            OutOfMemoryError("command not allowed", status_code="OOM"),
            Outcome.retry("Redis answers: OOM command not allowed"),
        ),
        (
            ReadOnlyError("You can't write", status_code="READONLY"),
            Outcome.retry("Redis answers: READONLY You can't write"),
        ),
        (ResponseError("x" * 500), Outcome.retry(f"Redis answers: {'x' * 200}…")),
        (ResponseError("two\r\nlines"), Outcome.retry("Redis answers: two lines")),
        (ResponseError(), Outcome.retry("Redis answers: ResponseError")),
    ],
)
def test_what_an_error_of_the_server_means(error: ResponseError, outcome: Outcome) -> None:
    assert outcome_of(error) == outcome


# Life


async def test_without_being_opened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = Redis()
    outcome = await transport.deliver(to(), b"x", INFO)
    assert outcome == Outcome.retry("the redis transport is closed")
    await transport.close()
    await transport.close()
    assert caplog.records == []
