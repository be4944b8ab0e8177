"""What a server says, in pieces of any size; and the bytes of what is said to it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from skyring.nats.message import Message, Received, Reply, encode_message
from skyring.nats.parser import Parser, Take


class Notes:
    """A sink that writes everything down."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.takers: dict[bytes, Take] = {b"7": self._take}

    def _take(self, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        self.said.append((subject, reply, head, data))

    async def _process_err(self, err_msg: str) -> None:
        self.said.append(f"error {err_msg}")

    async def _process_info(self, info: dict[str, object]) -> None:
        self.said.append(info)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self.said.append((sid, subject, reply, headers, data))

    async def _process_ping(self) -> None:
        self.said.append("ping")

    async def _process_pong(self) -> None:
        self.said.append("pong")


def heard(pieces: list[bytes]) -> list[Any]:
    notes = Notes()
    parser = Parser(notes)

    async def parse() -> None:
        for piece in pieces:
            await parser.parse(piece)

    asyncio.run(parse())
    return notes.said


STREAM = b"".join(
    (
        b'INFO {"max_payload": 5}\r\n',
        b"MSG a.b 7 3\r\nx\r\n\r\n",
        b"PING\r\n",
        b"MSG a.b 7 re.1 0\r\n\r\n",
        b"HMSG a.b 7 re.1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        b"HMSG a 7 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        b"+OK\r\n",
        b"MSG a 8 re 2\r\nhi\r\n",
        b"HMSG a 8 12 13\r\nNATS/1.0\r\n\r\nx\r\n",
        b"-ERR 'Permissions Violation for Publish to \"A\"'\r\n",
        b"PONG\r\n",
    )
)
SAID = [
    {"max_payload": 5},
    (b"a.b", b"", b"", b"x\r\n"),
    "ping",
    (b"a.b", b"re.1", b"", b""),
    (b"a.b", b"re.1", b"NATS/1.0\r\n\r\n", b"hi"),
    (b"a", b"", b"NATS/1.0\r\n\r\n", b""),
    (8, b"a", b"re", b"", b"hi"),
    (8, b"a", b"", b"NATS/1.0\r\n\r\n", b"x"),
    "error 'Permissions Violation for Publish to \"A\"'",
    "pong",
]


@given(st.lists(st.integers(0, len(STREAM))))
def test_the_pieces_do_not_matter(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(STREAM)]
    assert heard([STREAM[a:b] for a, b in pairwise(at)]) == SAID


def test_byte_by_byte() -> None:
    assert heard([STREAM[at : at + 1] for at in range(len(STREAM))]) == SAID


@pytest.mark.parametrize(
    "line",
    [
        b"HELLO\r\n",
        b"\r\n",
        b"MSG\r\n",
        b"MSG a 7 x\r\n",
        b"MSG a 7 -1\r\n",
        b"HMSG a 7 9 8\r\n",
        b"MSG a 7 999999999999\r\n",
        b"INFO {\r\n",
        b"x" * 1_100_000,
    ],
)
def test_what_no_server_says(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        heard([line])


def test_messages_as_they_are_written() -> None:
    assert encode_message(Message("a.b", b"xy")) == (b"PUB a.b 2\r\nxy\r\n", 2)
    assert encode_message(Message("a.b", b""), b"re.1") == (b"PUB a.b re.1 0\r\n\r\n", 0)
    message = Message("a", b"xy", {"k": "ä"})
    assert encode_message(message, b"re") == (
        "HPUB a re 19 21\r\nNATS/1.0\r\nk: ä\r\n\r\nxy\r\n".encode(),
        message.size_bytes,
    )


@pytest.mark.parametrize(
    "message",
    [
        Message("", b""),
        Message("a b", b""),
        Message(" a", b""),
        Message("a\r\nPUB", b""),
        Message("a\r\n", b""),
        Message("a", b"", {"a": "x\r\ny: z"}),
        Message("a", b"", {"a": "x\n"}),
        Message("a", b"", {"a\r": "x"}),
        Message("a", b"", {"a": "\ud800"}),
    ],
)
def test_messages_that_could_be_taken_for_something_else(message: Message) -> None:
    with pytest.raises(ValueError, match=r"holds|encode"):
        encode_message(message)


def test_headers_are_read() -> None:
    head = b"NATS/1.0 503 No  Responders\r\nA: b: c\r\nx:\r\nd:  \xff\xc3\xa4 \r\nnone\r\n\r\n"
    assert Reply(b"", head).headers == {
        "Status": "503",
        "Description": "No  Responders",
        "A": "b: c",
        "x": "",
        "d": "\ufffdä",
    }
    assert Reply(b"", head).is_no_responders
    assert not Reply(b"x", head).is_no_responders
    assert Received("a", "", b"", b"NATS/1.0\r\na: b\r\n\r\n").headers == {"a": "b"}
    assert Reply(b"").headers == {}
