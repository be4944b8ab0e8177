"""Callbacks, options and answers, without a broker."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiormq import ConnectionClosed
from pydantic import ValidationError

from skyring.errors import ConfigError, InvalidRequest
from skyring.settings import DeliverySettings, TransportSettings
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring.transports.registry import load_transports
from skyring_amqp import Amqp
from skyring_amqp.rules import Target, properties_of, read_target, told
from skyring_amqp.server import Address, read_url

INFO = DeliveryInfo("t-1", 2, 1_700_000_000_000, 1_700_000_001_999, 1_000, "application/json")


def to(uri: str = "queue", method: str = "publish", **headers: str) -> Callback:
    return Callback(transport="amqp", method=method, uri=uri, headers=headers)


# Callbacks


@pytest.mark.parametrize(
    ("uri", "target", "destination"),
    [
        ("queue", Target("", "queue"), "amqp:queue"),
        ("amq.topic/a.b.c", Target("amq.topic", "a.b.c"), "amqp:amq.topic/"),
        ("fan/", Target("fan", ""), "amqp:fan/"),
        ("a%2Fb", Target("", "a/b"), "amqp:a/b"),
        ("a%2fb/c%2Fd", Target("a/b", "c/d"), "amqp:a/b/"),
        ("two%20words/50%25", Target("two words", "50%"), "amqp:two words/"),
        ("x" * 127 + "/", Target("x" * 127, ""), "amqp:" + "x" * 127 + "/"),
        ("stra\u00dfe", Target("", "stra\u00dfe"), "amqp:stra\u00dfe"),
        ("x/stra%C3%9Fe", Target("x", "stra\u00dfe"), "amqp:x/"),
        ("q?a=b#c", Target("", "q?a=b#c"), "amqp:q?a=b#c"),
        ("x" * 255, Target("", "x" * 255), "amqp:" + "x" * 255),
    ],
)
def test_what_a_uri_means(uri: str, target: Target, destination: str) -> None:
    assert read_target(uri) == target
    Amqp().check(to(uri))
    assert Amqp().destination(to(uri)) == destination


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "must be QUEUE or EXCHANGE/ROUTING-KEY"),
        ("/", "must be QUEUE or EXCHANGE/ROUTING-KEY"),
        ("/queue", "must be QUEUE or EXCHANGE/ROUTING-KEY"),
        ("a/b/c", "must be QUEUE or EXCHANGE/ROUTING-KEY"),
        ("a//", "must be QUEUE or EXCHANGE/ROUTING-KEY"),
        ("two words", "a blank"),
        ("a\nb", "control character"),
        ("a\0", "control character"),
        ("a%0Ab", "control character in a name"),
        ("a/%00", "control character in a name"),
        ("\ud800", "control character"),
        ("100%", "begins no %XX"),
        ("%zz", "begins no %XX"),
        ("%1", "begins no %XX"),
        ("%ff", "not UTF-8"),
        ("x" * 256, "more than 255 bytes"),
        ("e/" + "\u00e4" * 128, "more than 255 bytes"),
        ("x" * 128 + "/", "names an exchange"),
        ("stra\u00dfe/x", "names an exchange"),
        ("a%25b/x", "names an exchange"),
    ],
)
def test_what_is_no_target_is_refused(uri: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        Amqp().check(to(uri))
    assert caught.value.field == "callback.uri"


@pytest.mark.parametrize("method", ["", "send", "publish ", "post"])
def test_other_methods_are_refused(method: str) -> None:
    Amqp().check(to(method="Publish"))
    with pytest.raises(InvalidRequest, match="must be publish") as caught:
        Amqp().check(to(method=method))
    assert caught.value.field == "callback.method"


@pytest.mark.parametrize("name", ["tenant", "Authorization", "x-delay", "x y", "\u00e4", "n" * 128])
def test_headers_are_taken(name: str) -> None:
    Amqp().check(to(**{name: "any\ntext\0 \u00e4"}))


@pytest.mark.parametrize(
    "name", ["webhook-id", "WebHook-x", "CC", "BCC", "cc", "", "a\nb", "\ud800", "n" * 129]
)
def test_headers_that_cannot_be_sent_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Amqp().check(to(**{name: "x"}))
    assert caught.value.field == "callback.headers"


def test_headers_are_bounded() -> None:
    Amqp().check(to(**{f"h{number}": "x" for number in range(100)}))
    with pytest.raises(InvalidRequest, match="at most 100"):
        Amqp().check(to(**{f"h{number}": "x" for number in range(101)}))
    with pytest.raises(InvalidRequest, match="at most 16384 bytes"):
        Amqp().check(to(h="x" * 16_384))
    with pytest.raises(InvalidRequest, match="is no text"):
        Amqp().check(to(h="\ud800"))


def test_the_properties_of_a_message() -> None:
    properties = properties_of(to(tenant="\u00e4"), INFO)
    assert properties.message_id == "t-1"
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert properties.timestamp == datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)
    assert properties.headers == {
        "webhook-id": "t-1",
        "webhook-timestamp": "1700000001",
        "webhook-attempt": "2",
        "webhook-due": "1700000000000",
        "tenant": "\u00e4",
    }


# Options


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("amqp://a", Address("amqp", "a", 5672, "/"), "amqp:a:5672"),
        ("amqp://a/", Address("amqp", "a", 5672, "/"), "amqp:a:5672"),
        ("amqp://a:1/%2F", Address("amqp", "a", 1, "/"), "amqp:a:1"),
        ("amqps://[::1]/orders", Address("amqps", "::1", 5671, "orders"), "amqps:[::1]:5671"),
        ("amqps://a/b%2Fc%20d", Address("amqps", "a", 5671, "b/c d"), "amqps:a:5671"),
    ],
)
def test_addresses(url: str, address: Address, shown: str) -> None:
    assert read_url(url) == address
    assert str(read_url(url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        *("", "a", "a:5672", "http://a", "amqp://", "amqp:///v", "amqp://a:x", "amqp://a:0"),
        *("amqp://a:99999", "amqp://a/b/c", "amqp://[", "amqp://a#b"),
        *("amqps://a?no_verify_ssl=1", "amqp://a/?heartbeat=0"),
    ],
)
async def test_malformed_addresses_stop_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match=r"transport\.amqp\.url has to be of the form"):
        await Amqp(Amqp.Options(url=url)).open()


@pytest.mark.parametrize("url", ["amqp://u:s3cret@a", "amqp://:s3cret@a/v", "amqp://s3cret@a:1"])
async def test_credentials_in_the_address_stop_the_start(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await Amqp(Amqp.Options(url=url)).open()
    assert "transport.amqp.user" in str(caught.value)
    assert "transport.amqp.password" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_missing_file_of_certificates_stops_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.pem"
    with pytest.raises(ConfigError, match=r"transport\.amqp\.ca_file: .*No such file"):
        await Amqp(Amqp.Options(url="amqps://localhost", ca_file=missing)).open()
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(ConfigError, match="holds no certificates in PEM form"):
        await Amqp(Amqp.Options(url="amqps://localhost", ca_file=empty)).open()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", ""),
        ("password", ""),
        ("channels_max", 0),
        ("in_flight_max", 0),
        ("message_bytes_max", 0),
        ("connect_timeout_ms", 0),
        ("heartbeat_s", 0),
        ("reconnect_pause_ms", 1),
        ("port", 5672),
    ],
)
def test_options_out_of_bounds(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Amqp.Options.model_validate({name: value})


def test_it_is_found_by_its_name_and_hides_the_password() -> None:
    settings = TransportSettings.model_validate(
        {"load": ["amqp"], "amqp": {"password": "s3cret", "heartbeat_s": "7"}}
    )
    transport = load_transports(DeliverySettings(), settings)["amqp"].transport
    assert isinstance(transport, Amqp)
    assert transport.options.heartbeat_s == 7
    assert "s3cret" not in f"{transport.options!r} {transport.options}"


# Answers


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionClosed(320, "CONNECTION_FORCED - bye"), "CONNECTION_FORCED - bye"),
        (OSError(111, "Connect call failed"), "Connect call failed"),
        (RuntimeError("two\r\n lines"), "two lines"),
        (EOFError(), "EOFError"),
        (OSError("x" * 500), "x" * 200 + "\u2026"),
    ],
)
def test_errors_in_words(error: Exception, text: str) -> None:
    assert told(error) == text


# Life


async def test_without_being_opened(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = Amqp()
    assert await transport.deliver(to(), b"x", INFO) == Outcome.retry(
        "the amqp transport is closed"
    )
    await transport.close()
    await transport.close()
    assert caplog.records == []
