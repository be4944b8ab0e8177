"""The bytes that a benchmark reads and writes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.bench.errors import BenchError
from skyring.bench.wire import (
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    Framer,
    build_request,
    header,
    split_url,
    status_of,
)

CREATED = b"HTTP/1.1 201 Created\r\nLocation: /timer/a\r\nContent-Length: 0\r\n\r\n"
WITH_BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\nTrailer: 1\r\n\r\n"
)
EMPTY_CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
BARE = b"GET /count HTTP/1.1\r\nhost: h\r\n\r\n"
STREAM = [CREATED, WITH_BODY, CHUNKED, EMPTY_CHUNKED, BARE, WITH_BODY]
BODIES = [b"", b"hello", b"hello, world", b"", b"", b"hello"]


def test_whole_messages() -> None:
    for message, body in zip(STREAM, BODIES, strict=True):
        framer = Framer()
        [(head, found)] = framer.feed(message)
        assert found == body
        assert message.startswith(head)
        assert head.endswith(b"\r\n\r\n")
        assert framer.idle


@given(st.lists(st.integers(0, len(b"".join(STREAM))), max_size=12))
def test_any_pieces_give_the_same_messages(cuts: list[int]) -> None:
    stream = b"".join(STREAM)
    edges = [0, *sorted(cuts), len(stream)]
    framer = Framer()
    messages = []
    for start, stop in pairwise(edges):
        messages += framer.feed(stream[start:stop])
    assert [body for _, body in messages] == BODIES
    assert framer.idle


def test_byte_by_byte() -> None:
    framer = Framer()
    stream = b"".join(STREAM)
    messages = [found for at in range(len(stream)) for found in framer.feed(stream[at : at + 1])]
    assert [body for _, body in messages] == BODIES


def test_a_piece_of_a_message_is_not_idle() -> None:
    framer = Framer()
    assert framer.feed(WITH_BODY[:-1]) == []
    assert not framer.idle


@pytest.mark.parametrize(
    "stream",
    [
        b"x" * (HEAD_BYTES_MAX + 4),
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n" % (BODY_BYTES_MAX + 1),
    ],
)
def test_what_is_out_of_bounds_is_refused(stream: bytes) -> None:
    with pytest.raises(BenchError):
        Framer().feed(stream)


def test_status_of() -> None:
    assert status_of(CREATED) == 201
    for head in (b"", b"SSH-2.0-OpenSSH", b"HTTP/1.1 abc", b"HTTP/2 200"):
        with pytest.raises(BenchError, match="HTTP/1"):
            status_of(head)


def test_header() -> None:
    head = b"POST / HTTP/1.1\r\nWebhook-Id: a:b\r\nwebhook-id: c\r\nempty:\r\n\r\n"
    assert header(head, "webhook-id") == "a:b"
    assert header(head, "WEBHOOK-ID") == "a:b"
    assert header(head, "empty") == ""
    assert header(head, "webhook") is None


def test_a_request_is_framed_as_it_was_built() -> None:
    request = build_request("POST", "h:1", "/timers", b"{}\n{}\n", "application/x-ndjson")
    [(head, body)] = Framer().feed(request)
    assert head.startswith(b"POST /timers HTTP/1.1\r\n")
    assert header(head, "host") == "h:1"
    assert header(head, "content-type") == "application/x-ndjson"
    assert body == b"{}\n{}\n"


def test_split_url() -> None:
    assert split_url("http://127.0.0.1:3000") == ("127.0.0.1", 3000)
    assert split_url("http://node/") == ("node", 80)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:3000", "https://h", "http://", "http://h:x", "http://h:99999", "http://h/p"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(BenchError):
        split_url(url)
