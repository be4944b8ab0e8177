"""Callbacks, options and replies: all that needs no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from skyring.errors import ConfigError
from skyring.nats import Message, Reply, check_library, credentials, read_servers
from skyring.nats.connection import INTERNALS
from skyring.transports import Callback, DeliveryInfo, InvalidRequest, Outcome, client_tls
from skyring.transports.loading import find
from skyring_nats import Nats
from skyring_nats.answers import outcome_of_ack, outcome_of_reply
from skyring_nats.rules import check_headers, check_subject, message_id, message_of

PREFIX = "transport.nats"
INFO = DeliveryInfo(
    id="order-17",
    attempt=2,
    due_ms=1_700_000_000_123,
    started_ms=1_700_000_001_999,
    timeout_ms=1_000,
    content_type="application/json",
)


def callback(**fields: Any) -> Callback:
    return Callback(**{"transport": "nats", "method": "publish", "uri": "orders", **fields})


# Subjects


@pytest.mark.parametrize(
    "subject", ["orders", "orders.created", "a.b-c_d.17", "INBOX", "a$", "x/y:z", "s" * 256]
)
def test_subjects(subject: str) -> None:
    check_subject(subject)


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("", "has to be the subject"),
        ("s" * 257, "at most 256"),
        ("a b", "blank"),
        ("a\r\nPUB b", "blank, a control"),
        ("a\tb", "control"),
        ("a\x00b", "control"),
        ("bestellung.größe", "outside ASCII"),
        ("nats://127.0.0.1:4222/orders", "subject alone"),
        ("a.*", "wildcard"),
        ("a.>", "wildcard"),
        ("a.b*c", "wildcard"),
        (".a", "empty token"),
        ("a.", "empty token"),
        ("a..b", "empty token"),
        ("$JS.API.STREAM.DELETE.ORDERS", "reserved"),
        ("$SYS.REQ.SERVER.PING", "reserved"),
        ("_INBOX", "reserved"),
        ("_INBOX.abc.def", "reserved"),
        ("_INBOX_skyring.abc", "reserved"),
    ],
)
def test_what_is_no_subject(subject: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        check_subject(subject)
    assert caught.value.field == "callback.uri"


def test_replies_of_others_are_out_of_reach_with_a_prefix_of_ones_own() -> None:
    check_subject("replies.for.skyring", "replies.for.me")
    with pytest.raises(InvalidRequest, match="reserved"):
        check_subject("replies.for.me.abc", "replies.for.me")
    with pytest.raises(InvalidRequest, match="reserved"):
        check_subject("_INBOX.abc", "replies.for.me")


@pytest.mark.parametrize("method", ["", "post", "pub lish", "js"])
def test_unknown_methods(method: str) -> None:
    with pytest.raises(InvalidRequest, match="publish, request, jetstream"):
        Nats().check(callback(method=method))


def test_the_case_of_a_method_does_not_matter() -> None:
    Nats().check(callback(method="JetStream"))


def test_a_destination_is_a_subject() -> None:
    assert Nats().destination(callback(uri="orders.created")) == "nats:orders.created"


# Headers and messages


@pytest.mark.parametrize(
    "headers", [{}, {"a": ""}, {"Authorization": "Bearer a b"}, {"x_y": "größe €"}, {"natsy": "1"}]
)
def test_headers(headers: dict[str, str]) -> None:
    check_headers(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"": "x"},
        {"a b": "x"},
        {"a:b": "x"},
        {"a\r\n": "x"},
        {"größe": "x"},
        {"a": "x\r\nb: y"},
        {"a": "x\ny"},
        {"a": "x\x00"},
        {"a": "\ud800"},
        {"a": " x"},
        {"a": "x "},
        {"Nats-Msg-Id": "x"},
        {"nats-expected-stream": "x"},
        {"webhook-id": "x"},
        {"Status": "404"},
        {"Description": "x"},
        {f"a{number}": "x" for number in range(101)},
        {"a": "x" * 17_000},
    ],
)
def test_headers_that_cannot_be_carried(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_headers(headers)
    assert caught.value.field.startswith("callback.headers")


def test_a_message_has_the_facts_of_its_delivery() -> None:
    message = message_of(callback(headers={"a": "b"}), b"{}", INFO)
    assert message == Message(
        "orders",
        b"{}",
        {
            "webhook-id": "order-17",
            "webhook-timestamp": "1700000001",
            "webhook-attempt": "2",
            "webhook-due": "1700000000123",
            "content-type": "application/json",
            "a": "b",
        },
    )


def test_the_users_content_type_goes_first() -> None:
    message = message_of(callback(headers={"Content-Type": "text/csv"}), b"", INFO)
    assert message.headers["Content-Type"] == "text/csv"
    assert "content-type" not in message.headers


def test_the_size_of_a_message() -> None:
    assert Message("a", b"12345", {"x": "ä", "yz": ""}).size_bytes == len(
        "NATS/1.0\r\nx: ä\r\nyz: \r\n\r\n12345".encode()
    )


def test_a_message_id_tells_two_timers_with_one_id_apart() -> None:
    assert message_id(INFO) == "order-17.1700000000123"


# Replies


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"ok", Outcome.delivered()),
        (b"", Outcome.retry("the receiver gave no answer")),
        (b"retry busy", Outcome.retry("busy")),
        (b"reject no such order", Outcome.rejected("no such order")),
    ],
)
def test_answers(data: bytes, outcome: Outcome) -> None:
    assert outcome_of_reply(Reply(data)) == outcome


def test_rubbish_is_no_acknowledgement() -> None:
    assert outcome_of_reply(Reply(b"\xff" * 100_000)).kind == "retry"


def test_nobody_listens() -> None:
    nobody = Reply(b"", b"NATS/1.0 503\r\n\r\n")
    assert outcome_of_reply(nobody).reason == "nobody listens on the subject (no responders)"
    assert outcome_of_ack(nobody).reason == "no stream takes this subject"


def test_a_service_that_fails_has_not_taken_it() -> None:
    head = b"NATS/1.0\r\nNats-Service-Error: no\troom\r\nNats-Service-Error-Code: 500\r\n\r\n"
    outcome = outcome_of_reply(Reply(b"", head))
    assert outcome == Outcome.retry("the service answered with an error: 500 no room")


@pytest.mark.parametrize(
    "ack", [{"stream": "A", "seq": 1}, {"stream": "A", "seq": 1, "duplicate": True}]
)
def test_a_stream_has_stored_it(ack: dict[str, Any]) -> None:
    assert (
        outcome_of_ack(Reply(json.dumps({"stream": "A", "seq": 1, **ack}).encode()))
        == Outcome.delivered()
    )


@pytest.mark.parametrize(
    "data", [b"", b"ok", b"[]", b"{}", b"{", b"\xff", b'{"stream":1,"seq":1}', b"[" * 100_000]
)
def test_what_is_no_acknowledgement_of_a_stream(data: bytes) -> None:
    assert outcome_of_ack(Reply(data)) == Outcome.retry(
        "the reply is no acknowledgement of a stream"
    )


def test_errors_of_jetstream() -> None:
    def outcome(code: int) -> Outcome:
        error = {"code": 400, "err_code": code, "description": "so it is"}
        return outcome_of_ack(Reply(json.dumps({"error": error}).encode()))

    assert outcome(10077) == Outcome.retry("JetStream: so it is (10077)")
    assert outcome(10054) == Outcome.rejected("JetStream: so it is (10054)")


# Options


def test_servers() -> None:
    servers = read_servers("nats://a, tls://b.example:1 ,nats://[::1]:4223/", PREFIX)
    assert [tuple(server) for server in servers] == [
        ("nats://a:4222", False),
        ("tls://b.example:1", True),
        ("nats://[::1]:4223", False),
    ]
    several = read_servers(["a", "b:1,[::1]:2", "tls://c"], PREFIX)
    assert [server.url for server in several] == [
        "nats://a:4222",
        "nats://b:1",
        "nats://[::1]:2",
        "tls://c:4222",
    ]
    assert read_servers("nats://a", PREFIX, needs_tls=True)[0].needs_tls


@pytest.mark.parametrize(
    "text",
    [
        "",
        " , ",
        "/a",
        "a:b",
        "http://a",
        "ws://a",
        "nats://",
        "nats://:4222",
        "nats://a:b",
        "nats://a:0",
        "nats://a:65536",
        "nats://a/b",
        "nats://a?b",
        "nats://[::1",
        "nats://a b",
    ],
)
def test_malformed_servers(text: str) -> None:
    with pytest.raises(ConfigError, match=r"transport\.nats\.servers"):
        read_servers(text, PREFIX)


def test_credentials_in_an_address_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"\.user and \.password, or \.token") as caught:
        read_servers("nats://ann:s3cret@a", PREFIX)
    assert "s3cret" not in str(caught.value)


def test_credentials() -> None:
    assert credentials(Nats.Options(), PREFIX) == {}
    assert credentials(
        Nats.Options.model_validate({"user": "ann", "password": "s3cret"}), PREFIX
    ) == {
        "user": "ann",
        "password": "s3cret",
    }
    assert credentials(Nats.Options.model_validate({"token": "s3cret"}), PREFIX) == {
        "token": "s3cret"
    }


@pytest.mark.parametrize(
    "given",
    [
        {"user": "ann"},
        {"password": "s3cret"},
        {"user": "ann", "password": "s3cret", "token": "s3cret"},
        {"token": "s3cret", "nkey_seed_file": "seed"},
        {"credentials_file": "no such file"},
        {"nkey_seed_file": "no such file"},
    ],
)
def test_credentials_that_cannot_be_used(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"transport\.nats") as caught:
        credentials(Nats.Options.model_validate(given), PREFIX)
    assert "s3cret" not in str(caught.value)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("s3cret")
    for option in ("credentials_file", "nkey_seed_file"):
        with pytest.raises(ConfigError, match=rf"{option}.* does not hold") as caught:
            credentials(Nats.Options.model_validate({option: path}), PREFIX)
        assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"ca_file.*no certificates"):
        client_tls(path, "transport.nats.ca_file")
    with pytest.raises(ConfigError, match=r"ca_file.*No such file"):
        client_tls(tmp_path / "none", "transport.nats.ca_file")


async def test_what_can_never_work_stops_the_start(tmp_path: Path) -> None:
    for given in ({"servers": "http://a"}, {"ca_file": tmp_path / "none"}, {"user": "ann"}):
        transport = Nats(Nats.Options.model_validate(given))
        with pytest.raises(ConfigError):
            await transport.open()
        await transport.close()


def test_secrets_are_not_shown() -> None:
    options = Nats.Options.model_validate({"password": "s3cret", "token": "s3cret"})
    assert "s3cret" not in f"{options} {options!r}"
    with pytest.raises(ValueError, match="in_flight_max") as caught:
        Nats.Options.model_validate({"servers": "nats://a:s3cret@b", "in_flight_max": 0})
    assert "s3cret" not in str(caught.value)


def test_it_is_installed() -> None:
    assert find("nats").given is Nats


def test_an_unknown_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_library()
    monkeypatch.setattr("skyring.nats.connection.INTERNALS", (*INTERNALS, "_unheard_of"))
    with pytest.raises(ConfigError, match=r"nats-py .*_unheard_of"):
        check_library()
