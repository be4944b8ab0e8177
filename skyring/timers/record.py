"""One timer as it is kept: its record, its keys in the slot, its place in the due index.

In a slot: ``t/<id>`` holds the record, ``x/<id>`` the record of a dead letter, and the due index is
``d/<next attempt, 8 bytes big-endian><id>`` with the destination as value.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

from skyring.errors import RecordUnreadable
from skyring.storage.base import Write
from skyring.transports.base import Callback

__all__ = [
    "DEAD_PREFIX",
    "DEAD_STOP",
    "DUE_PREFIX",
    "TIMER_PREFIX",
    "TIMER_STOP",
    "DataKind",
    "Hint",
    "Record",
    "dead_key",
    "decode_record",
    "due_key",
    "due_ms_of",
    "encode_record",
    "split_due_key",
    "timer_key",
    "timer_slot",
    "view",
    "writes_delete",
    "writes_put",
]

DataKind: TypeAlias = Literal["none", "text", "json"]

VERSION = b"\x01"
DUE_PREFIX = b"d/"
TIMER_PREFIX, TIMER_STOP = b"t/", b"t0"
"""Records of pending timers: where their keys begin and end."""
DEAD_PREFIX, DEAD_STOP = b"x/", b"x0"
DUE_BYTES = 8

_encode = msgspec.msgpack.Encoder().encode


class Record(msgspec.Struct, array_like=True, frozen=True):
    """A timer. Times in epoch milliseconds. Fields are only ever added, at the end."""

    created_ms: int
    due_ms: int
    """When the user asked for the callback."""
    next_ms: int
    """When the next delivery may begin: ``due_ms`` until one has failed."""
    timeout_ms: int | None
    """The relative time-out as it was given; None when the time was given as ``at``."""
    data_kind: DataKind
    payload: bytes
    """The body of the callback, as it is sent."""
    callback: Callback
    destination: str
    """Receiver that the transport named; deliveries to one destination are limited together."""
    attempts: int = 0
    """Deliveries that have failed."""
    last_error: str | None = None
    mark: int = 0
    """Of the request that created it, if that may be repeated: another one for each."""

    @property
    def content_type(self) -> str | None:
        """Media type of the payload."""
        if self.data_kind == "json":
            return "application/json"
        return "text/plain; charset=utf-8" if self.data_kind == "text" else None

    def same_content(self, other: Record) -> bool:
        """Do both ask for the same? Equal time-outs are, whenever they were counted from."""
        return (
            self.timeout_ms == other.timeout_ms
            and (self.timeout_ms is not None or self.due_ms == other.due_ms)
            and self.data_kind == other.data_kind
            and self.payload == other.payload
            and self.callback == other.callback
        )

    def view(self, timer_id: str, state: str) -> dict[str, Any]:
        """The timer as the API shows it."""
        shown: dict[str, Any] = {
            "id": timer_id,
            "state": state,
            "due": self.due_ms,
            "next": self.next_ms,
            "created": self.created_ms,
            "attempts": self.attempts,
            "last_error": self.last_error,
            "callback": self.callback,
        }
        if self.timeout_ms is not None:
            shown["timeout"] = self.timeout_ms
        if self.data_kind == "json":
            shown["data"] = msgspec.Raw(self.payload)
        elif self.data_kind == "text":
            shown["data"] = self.payload.decode()
        return shown


class Hint(NamedTuple):
    """A place in the due index: where to look when ``due_ms`` has come. The record decides."""

    due_ms: int
    slot: int
    id: str
    destination: str


_decode = msgspec.msgpack.Decoder(Record).decode


def encode_record(record: Record) -> bytes:
    """Version byte and MessagePack."""
    return VERSION + _encode(record)


def decode_record(value: bytes) -> Record:
    """The record that `encode_record` was given.

    Raises:
        RecordUnreadable: another version, or no record at all.
    """
    if value[:1] != VERSION:
        raise RecordUnreadable(f"version {value[:1].hex() or 'missing'}")
    try:
        return _decode(memoryview(value)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordUnreadable(str(error)) from error


def view(timer_id: str, value: bytes, state: str) -> dict[str, Any]:
    """A stored record as the API shows it, also if only its id can be told."""
    try:
        return decode_record(value).view(timer_id, state)
    except (RecordUnreadable, UnicodeDecodeError) as error:
        return {"id": timer_id, "state": "unreadable", "last_error": str(error)}


def timer_slot(timer_id: str, slots: int) -> int:
    """The partition that a timer belongs to."""
    return crc32(timer_id.encode()) % slots


def timer_key(timer_id: str) -> bytes:
    """Key of a pending timer's record."""
    return TIMER_PREFIX + timer_id.encode()


def dead_key(timer_id: str) -> bytes:
    """Key of a dead letter's record."""
    return DEAD_PREFIX + timer_id.encode()


def due_key(due_ms: int, timer_id: str) -> bytes:
    """Key in the due index; sorts by time, then by id."""
    return DUE_PREFIX + due_ms.to_bytes(DUE_BYTES, "big") + timer_id.encode()


def due_ms_of(key: bytes) -> int:
    """Due time of a key in the due index, epoch milliseconds."""
    start = len(DUE_PREFIX)
    return int.from_bytes(key[start : start + DUE_BYTES], "big")


def split_due_key(key: bytes) -> tuple[int, str]:
    """Due time and id of a key in the due index."""
    return due_ms_of(key), key[len(DUE_PREFIX) + DUE_BYTES :].decode()


def writes_put(timer_id: str, record: Record) -> list[Write]:
    """What stores a pending timer."""
    return [
        (timer_key(timer_id), VERSION + _encode(record)),
        (due_key(record.next_ms, timer_id), record.destination.encode()),
    ]


def writes_delete(timer_id: str, record: Record) -> list[Write]:
    """What removes a pending timer."""
    return [(timer_key(timer_id), None), (due_key(record.next_ms, timer_id), None)]
