"""What one message of a slot's log says, and how it is written."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from skyring.errors import RecordUnreadable
from skyring.storage.base import Write

__all__ = ["ENTRY_VERSION", "Entry", "EntryKind", "NoEntry", "decode_entry", "encode_entry"]

ENTRY_VERSION = 1

EntryKind: TypeAlias = Literal["claim", "batch", "snapshot"]
"""A ``claim`` begins an epoch, a ``batch`` is a commit or several, a ``snapshot`` is some of the
live keys, written again so that older entries can go."""


class NoEntry(RecordUnreadable):
    """A message of the log that no version of this program has written."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One message of the log of a slot."""

    version: int
    kind: EntryKind
    epoch: int
    """Of the claim under which it was written."""
    node: str
    """Name of the node that wrote it."""
    id: bytes
    """Different for every entry ever written: by it a node knows its own again."""
    previous: int
    """Sequence of the slot's entry before it, 0 if there was none: shows that none is missing."""
    writes: list[Write] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)
_any_decoder = msgspec.msgpack.Decoder(list[Any])


def encode_entry(entry: Entry) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(entry)


def decode_entry(message: bytes) -> Entry:
    """What a message says.

    Raises:
        RecordUnreadable: it was written by another version of this program.
        NoEntry: it was not written by this program at all.
    """
    try:
        entry = _decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        version = _version_of(message)
        if version is None or version == ENTRY_VERSION:
            raise NoEntry(f"it is no entry of a log: {error}") from error
        raise RecordUnreadable(f"an entry of the log has version {version}") from error
    if entry.version != ENTRY_VERSION:
        raise RecordUnreadable(f"an entry of the log has version {entry.version}")
    return entry


def _version_of(message: bytes) -> int | None:
    """All versions begin with their number and their kind."""
    try:
        fields = _any_decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(fields) < 2 or type(fields[0]) is not int or not isinstance(fields[1], str):
        return None
    return fields[0]
