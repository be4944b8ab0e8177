"""Operations on timers as they travel between nodes, and their answers.

Each begins with a version byte; the rest is MessagePack. A record travels as it is stored. An
error travels as its stable code, so that the node that was asked by a user answers exactly as the
one that holds the timer would.
"""

from __future__ import annotations

from typing import Annotated, Literal, NoReturn, TypeAlias

import msgspec
from msgspec import Meta

from skyring import errors
from skyring.errors import InvalidRequest, RecordUnreadable, SkyringError, Unavailable
from skyring.timers.parts import Part, PartKind
from skyring.timers.preparing import DESTINATION_CHARS_MAX
from skyring.timers.record import Record, decode_record
from skyring.timers.request import AT_MS_MAX, ID_PATTERN, TIMEOUT_MS_MAX

__all__ = [
    "Added",
    "Answer",
    "BadMessage",
    "Cancel",
    "Create",
    "CreateMany",
    "DeleteDeadLetter",
    "Done",
    "Entry",
    "Failed",
    "Found",
    "Get",
    "Operation",
    "PartRead",
    "ReadPart",
    "Results",
    "RetryDeadLetter",
    "Sent",
    "Update",
    "decode_answer",
    "decode_new_record",
    "decode_operation",
    "encode_answer",
    "encode_operation",
]

VERSION = b"\x01"

NewId: TypeAlias = Annotated[str, Meta(pattern=rf"\A(?:{ID_PATTERN.pattern})\Z")]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=TIMEOUT_MS_MAX)]
Number: TypeAlias = Annotated[int, Meta(ge=0)]

BY_CODE: dict[str, type[SkyringError]] = {
    kind.code: kind for kind in (getattr(errors, name) for name in errors.__all__)
}


class BadMessage(SkyringError):
    """An operation or an answer that cannot be read: forged, damaged, or of another version."""

    code = "bad-message"


# Operations


class Create(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Store a timer."""

    id: NewId
    record: bytes
    named: bool
    """Was the id given by the user?"""


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One of the timers of `CreateMany`; as `Create`."""

    id: NewId
    record: bytes
    named: bool


class CreateMany(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Store timers of one slot."""

    timers: list[Entry]


class Update(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Replace a timer."""

    id: str
    record: bytes


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Remove a timer."""

    id: str


class Get(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Show a timer, or a dead letter."""

    id: str


class RetryDeadLetter(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Make a dead letter a timer again."""

    id: str


class DeleteDeadLetter(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Forget a dead letter."""

    id: str


class ReadPart(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """List timers of some slots; see `skyring.timers.parts.read_part`."""

    slots: list[Number]
    kind: PartKind
    start: bytes
    stop: bytes
    limit: Annotated[int, Meta(ge=1)]
    bytes_max: Number


Operation: TypeAlias = (
    Create | CreateMany | Update | Cancel | Get | RetryDeadLetter | DeleteDeadLetter | ReadPart
)


class Sent(msgspec.Struct, array_like=True, frozen=True):
    """An operation, and what has become of it on its way."""

    waited_ms: Milliseconds
    """How long it has waited at the node that was asked, rounded down."""
    repeated: bool
    """Was it sent before, so that it may have been done already?"""
    operation: Operation


# Answers


class Done(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """It is done."""


class Added(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A timer is stored."""

    new: bool


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """An error: its code, its text, and the fields that some kinds have."""

    code: str
    text: str
    field: str = ""
    retry_after_s: int = 0

    @classmethod
    def of(cls, error: SkyringError) -> Failed:
        """An error as it travels."""
        return cls(
            error.code,
            _sendable(str(error)),
            _sendable(error.field) if isinstance(error, InvalidRequest) else "",
            error.retry_after_s if isinstance(error, Unavailable) else 0,
        )

    def error(self) -> SkyringError:
        """The error that it was; one of an unknown code becomes a plain SkyringError."""
        kind = BY_CODE.get(self.code, SkyringError)
        if issubclass(kind, InvalidRequest):
            prefix = f"{self.field}: " if self.field else ""
            return kind(self.text.removeprefix(prefix), self.field)
        if issubclass(kind, Unavailable):
            return kind(self.text, self.retry_after_s)
        return kind(self.text)


class Results(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """What came of each timer of `CreateMany`, in order."""

    results: list[Added | Failed]


class Found(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """A timer, as it is stored."""

    state: Literal["scheduled", "delivering", "dead"]
    value: bytes


class PartRead(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """A part of a list."""

    part: Part


Answer: TypeAlias = Done | Added | Failed | Results | Found | PartRead

_encode = msgspec.msgpack.Encoder().encode
_decode_sent = msgspec.msgpack.Decoder(Sent).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_decode_json = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encode_operation(operation: Operation, waited_ms: int, repeated: bool) -> bytes:
    """An operation as it travels."""
    return VERSION + _encode(Sent(min(waited_ms, TIMEOUT_MS_MAX), repeated, operation))


def decode_operation(data: bytes) -> Sent:
    """The operation that `encode_operation` was given.

    Raises:
        BadMessage: it cannot be read.
    """
    _check_version(data)
    try:
        return _decode_sent(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(error)


def encode_answer(answer: Answer) -> bytes:
    """An answer as it travels."""
    return VERSION + _encode(answer)


def decode_answer(data: bytes) -> Answer:
    """The answer that `encode_answer` was given.

    Raises:
        BadMessage: it cannot be read.
    """
    _check_version(data)
    try:
        answer: Answer = _decode_answer(memoryview(data)[1:])
        if isinstance(answer, PartRead):
            for item in answer.part.items:
                _ = item.id  # it has one
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(error)
    return answer


def decode_new_record(value: bytes) -> Record:
    """The record of an operation, which must be one that this node could have made itself.

    Raises:
        BadMessage: it is not.
    """
    try:
        record = decode_record(value)
        if record.data_kind != "none":
            record.payload.decode()
        if record.data_kind == "json":
            _decode_json(record.payload)
    except (RecordUnreadable, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(error)
    times = (record.created_ms, record.due_ms, record.next_ms)
    if not all(0 <= time_ms <= AT_MS_MAX for time_ms in times):
        raise BadMessage("a record has a time that cannot be")
    if record.timeout_ms is not None and not 1 <= record.timeout_ms <= TIMEOUT_MS_MAX:
        raise BadMessage("a record has a time-out that cannot be")
    own = record.callback.retry
    limits = [record.callback.timeout_ms]
    if own is not None:
        limits += [own.attempts, own.backoff_ms, own.max_ms]
    if not all(limit is None or 1 <= limit <= AT_MS_MAX for limit in limits):
        raise BadMessage("a callback has a limit that cannot be")
    if record.attempts != 0 or len(record.destination) > DESTINATION_CHARS_MAX:
        raise BadMessage("a record has a value that cannot be")
    return record


def _check_version(data: bytes) -> None:
    if data[:1] != VERSION:
        raise BadMessage(f"it has version {data[:1].hex() or 'none'}, not {VERSION.hex()}")


def _refuse(error: Exception) -> NoReturn:
    raise BadMessage(f"it cannot be read: {error}") from error


def _sendable(text: str) -> str:
    """A lone surrogate cannot be written."""
    return text.encode("utf-8", "backslashreplace").decode()
