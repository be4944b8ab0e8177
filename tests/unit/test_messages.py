"""What nodes send each other, written and read; and what strangers send."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
    encode,
)

READERS: list[Callable[[bytes], Any]] = [
    messages.decode_gossip,
    messages.decode_question,
    messages.decode_probe_answer,
    messages.decode_release_answer,
    messages.decode_operations_answer,
]


@pytest.mark.parametrize(
    ("message", "decode"),
    [
        (ProbeQuestion(), messages.decode_question),
        (ReleaseQuestion("a", b"\x03"), messages.decode_question),
        (OperationsQuestion([b"x", b""]), messages.decode_question),
        (ProbeAnswer(12), messages.decode_probe_answer),
        (ReleaseAnswer(b""), messages.decode_release_answer),
        (OperationsAnswer([b"x", 0, 3, 1]), messages.decode_operations_answer),
        (Gossip("a", 1, "leaving", "http://x", b"\x01", 9), messages.decode_gossip),
    ],
)
def test_what_was_written_is_read(message: Any, decode: Callable[[bytes], Any]) -> None:
    assert decode(encode(message)) == message


@given(st.binary())
@example(b"")
@example(b"\x01")
@example(b"\x02" + encode(ProbeQuestion())[1:])
@example(b"\x01" + b"\x91" * 2_000)
def test_what_strangers_send_is_garbled_at_most(data: bytes) -> None:
    for decode in READERS:
        with suppress(Garbled):
            decode(data)


def test_another_version_is_named() -> None:
    with pytest.raises(Garbled, match="version 02, not 1"):
        messages.decode_question(b"\x02" + encode(ProbeQuestion())[1:])
