"""What a callback may look like, and how messages and answers are framed."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.transports import Callback, InvalidRequest
from skyring_tcp import Tcp
from skyring_tcp.rules import (
    BadAnswer,
    Framing,
    LengthFraming,
    NewlineFraming,
    failure_reason,
    read_target,
)

FRAMINGS = [LengthFraming(1024), NewlineFraming(1024)]


@pytest.mark.parametrize(
    ("uri", "host", "port", "destination"),
    [
        ("tcp://localhost:7000", "localhost", 7000, "tcp:localhost:7000"),
        ("tcp://127.0.0.1:1", "127.0.0.1", 1, "tcp:127.0.0.1:1"),
        ("tls://Orders.Example.com:65535", "orders.example.com", 65535, None),
        ("TCP://a_b-c.d:07", "a_b-c.d", 7, "tcp:a_b-c.d:7"),
        ("tcp://[::1]:7000", "::1", 7000, "tcp:[::1]:7000"),
        ("tcp://[0:0:0:0:0:0:0:1]:7000", "::1", 7000, "tcp:[::1]:7000"),
        ("tcp://1password.example:7", "1password.example", 7, None),
    ],
)
def test_addresses(uri: str, host: str, port: int, destination: str | None) -> None:
    target = read_target(uri)
    assert (target.host, target.port) == (host, port)
    assert target.is_tls == uri.startswith("tls")
    assert destination is None or target.destination == destination


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "tcp",
        "tcp:",
        "tcp://",
        "tcp://:7000",
        "tcp://host",
        "tcp://host:",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host:123456",
        "tcp://host:-1",
        "tcp://host:+1",
        "tcp://host: 1",
        "tcp://host:1 ",
        " tcp://host:1",
        "tcp://host:1\n",
        "tcp://host:٣",
        "tcp://host:1/",
        "tcp://host:1?a=b",
        "tcp://host:1#a",
        "tcp://user@host:1",
        "tcp://ho st:1",
        "tcp://ho\x00st:1",
        "tcp://höst:1",
        "tcp://host..example:1",
        "tcp://.host:1",
        "tcp://host.:1",
        "tcp://-host:1",
        "tcp://*:1",
        "tcp://127.1:1",
        "tcp://2130706433:1",
        "tcp://0x7f000001:1",
        "tcp://127.0.0.256:1",
        "tcp://127.0.0.01:1",
        "tcp://::1:7000",
        "tcp://[]:1",
        "tcp://[::1]",
        "tcp://[::1:1",
        "tcp://[::1%lo]:1",
        "tcp://[localhost]:1",
        "tcp://[[::1]]:1",
        "http://host:1",
        "tcp:///host:1",
        "tcp://" + "a" * 64 + ":1",
        "tcp://" + "a." * 127 + "a:1",
        "tcp://" + "a" * 10_000 + ":1",
    ],
)
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Tcp().check(Callback("tcp", "send", uri))
    assert caught.value.field == "callback.uri"
    with pytest.raises(InvalidRequest):
        Tcp().destination(Callback("tcp", "send", uri))


@pytest.mark.parametrize("method", ["send", "SEND", "Send"])
def test_the_method(method: str) -> None:
    Tcp().check(Callback("tcp", method, "tcp://a:1"))


@pytest.mark.parametrize("method", ["", "post", "send ", "ſend", "push"])
def test_methods_that_are_none(method: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Tcp().check(Callback("tcp", method, "tcp://a:1"))
    assert caught.value.field == "callback.method"


def test_headers_travel_in_the_envelope_only() -> None:
    callback = Callback("tcp", "send", "tcp://a:1", headers={"a": "b"})
    Tcp(Tcp.Options(content="envelope")).check(callback)
    with pytest.raises(InvalidRequest) as caught:
        Tcp().check(callback)
    assert caught.value.field == "callback.headers"
    assert "content=envelope" in str(caught.value)


@pytest.mark.parametrize("framing", FRAMINGS)
@given(data=st.data())
def test_answers_are_read_however_they_are_cut(framing: Framing, data: st.DataObject) -> None:
    chars = st.binary(max_size=40).filter(lambda each: b"\n" not in each)
    answers = data.draw(st.lists(chars, min_size=1, max_size=4))
    stream = b"".join(framing.pack(answer) for answer in answers)
    size = data.draw(st.integers(1, len(stream)))
    received, found = bytearray(), []
    for start in range(0, len(stream), size):
        received += stream[start : start + size]
        while (answer := framing.take_answer(received)) is not None:
            found.append(answer)
    assert found == answers
    assert not received


def test_the_frames() -> None:
    length, newline = FRAMINGS
    assert length.pack(b"") == b"\0\0\0\0"
    assert length.pack(b"a\nb") == b"\0\0\0\3a\nb"
    assert newline.pack(b"") == b"\n"
    assert newline.pack(b"ab\r") == b"ab\r\n"
    with pytest.raises(ValueError, match="line feed"):
        newline.pack(b"a\nb")


def test_an_answer_may_be_as_long_as_its_maximum() -> None:
    for framing in (LengthFraming(5), NewlineFraming(5)):
        assert framing.take_answer(bytearray(framing.pack(b"12345"))) == b"12345"
        with pytest.raises(BadAnswer, match="longer than 5 bytes"):
            framing.take_answer(bytearray(framing.pack(b"123456")))
    with pytest.raises(BadAnswer):  # nobody waits for a line that is too long to be taken
        NewlineFraming(5).take_answer(bytearray(b"123456"))
    with pytest.raises(BadAnswer):
        LengthFraming(5).take_answer(bytearray(b"HTTP"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "connection reset by peer"),
        (OSError(errno.ENETUNREACH, "x"), os.strerror(errno.ENETUNREACH).lower()),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "host name not resolved: Name or service not known",
        ),
        (OSError("Multiple exceptions:\n1, 2"), "Multiple exceptions: 1, 2"),
        (ConnectionResetError(), "the connection failed"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] x"), "TLS: [SSL: WRONG_VERSION_NUMBER] x"),
    ],
)
def test_reasons(error: OSError, reason: str) -> None:
    if isinstance(error, ssl.SSLError):
        assert failure_reason(error).startswith("TLS: ")
    else:
        assert failure_reason(error) == reason
