"""What nodes send each other, and how it is written: a version byte, then MessagePack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from skyring.errors import SkyringError
from skyring.ring.membership import Gossip

__all__ = [
    "ALONE",
    "LATE",
    "MOVED",
    "TOO_LONG",
    "WIRE_VERSION",
    "Garbled",
    "OperationsAnswer",
    "OperationsQuestion",
    "ProbeAnswer",
    "ProbeQuestion",
    "Question",
    "ReleaseAnswer",
    "ReleaseQuestion",
    "decode_gossip",
    "decode_operations_answer",
    "decode_probe_answer",
    "decode_question",
    "decode_release_answer",
    "encode",
    "other_version",
]

WIRE_VERSION = 1

MOVED = 0
"""The slot is not held here (any more); nothing was done."""
TOO_LONG = 1
"""It was done, and the answer is longer than a message may be."""
ALONE = 2
"""It was done, and the answer did not fit into this message; ask again, alone."""
LATE = 3
"""It is being done, or waits for it; ask again."""
PREFIX = bytes([WIRE_VERSION])
VERSIONS_END = 32
"""Versions will not get so high; what begins with more is no message of a node."""


class Garbled(SkyringError):
    """A message that cannot be read: forged, damaged, or of another version."""

    code = "garbled"


class ProbeQuestion(msgspec.Struct, frozen=True, array_like=True, tag="probe"):
    """Are you there?"""


class ReleaseQuestion(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Give these slots to me."""

    node: str
    slots: bytes
    """As by `skyring.ring.slots.pack_slots`."""


class OperationsQuestion(msgspec.Struct, frozen=True, array_like=True, tag="operations"):
    """Carry these out; each is of slots that you hold."""

    operations: list[bytes]
    node: str = ""
    """Who asks."""
    incarnation: int = 0
    """Of that node."""
    number: int = 0
    """Rises by one with each question of an incarnation, from 1; 0: they are not counted."""
    given_up: list[int] = []
    """Numbers of earlier ones to this node that had no answer: who has not seen them yet must not
    carry them out any more, for what they asked is asked again."""


Question: TypeAlias = ProbeQuestion | ReleaseQuestion | OperationsQuestion


class ProbeAnswer(msgspec.Struct, frozen=True, array_like=True):
    """I am."""

    incarnation: int


class ReleaseAnswer(msgspec.Struct, frozen=True, array_like=True):
    """These are yours now."""

    slots: bytes


class OperationsAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What came of the operations, in their order."""

    answers: list[bytes | int]
    """A number is one of `MOVED`, `TOO_LONG`, `ALONE`, `LATE`."""


_encoder = msgspec.msgpack.Encoder()


def encode(message: Gossip | Question | ProbeAnswer | ReleaseAnswer | OperationsAnswer) -> bytes:
    """The bytes of a message."""
    return PREFIX + _encoder.encode(message)


def other_version(message: bytes) -> int | None:
    """The version of a message that a program with another wire format may have sent."""
    version = message[0] if message else 0
    return version if 0 < version < VERSIONS_END and version != WIRE_VERSION else None


def _reader(kind: Any, what: str) -> Callable[[bytes], Any]:
    decode = msgspec.msgpack.Decoder(kind).decode

    def read(data: bytes) -> Any:
        if data[:1] != PREFIX:
            raise Garbled(f"{what} has version {data[:1].hex() or 'none'}, not {WIRE_VERSION}")
        try:
            return decode(memoryview(data)[1:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Garbled(f"{what} cannot be read: {error}") from error

    return read


decode_gossip: Callable[[bytes], Gossip] = _reader(Gossip, "an announcement")
"""Raises Garbled, as all of these do."""
decode_question: Callable[[bytes], Question] = _reader(Question, "a question")
decode_probe_answer: Callable[[bytes], ProbeAnswer] = _reader(ProbeAnswer, "an answer")
decode_release_answer: Callable[[bytes], ReleaseAnswer] = _reader(ReleaseAnswer, "an answer")
decode_operations_answer: Callable[[bytes], OperationsAnswer] = _reader(
    OperationsAnswer, "an answer"
)
