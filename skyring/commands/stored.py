"""A timer as the server has it, with the user's own JSON left untouched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from skyring.errors import SkyringError

__all__ = ["Stored", "Unreadable", "read_listed", "read_stored"]


class Stored(msgspec.Struct, frozen=True):
    """The parts of a timer that create it again. What the user wrote is not decoded: a number with
    thirty digits stays one.
    """

    id: str
    next: int
    """Time of the next attempt, epoch milliseconds."""
    callback: msgspec.Raw
    data: msgspec.Raw = msgspec.Raw(b"null")


class Unreadable(msgspec.Struct, frozen=True):
    """A record of which the server can tell no more than its id."""

    id: str
    state: Literal["unreadable"]
    last_error: str = ""
    """Why it cannot be read."""


_decode = msgspec.json.Decoder(Stored).decode
_decode_list = msgspec.json.Decoder(list[Stored]).decode
_decode_unreadable = msgspec.json.Decoder(Unreadable).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_stored(content: bytes) -> Stored:
    """One timer.

    Raises:
        SkyringError: it is none, or the server cannot read it.
    """
    try:
        found = _read_one(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SkyringError(f"the server sent no timer: {error}") from error
    if isinstance(found, Unreadable):
        raise SkyringError(f"the server cannot read {found.id}: {found.last_error}")
    return found


def read_listed(content: bytes) -> Sequence[Stored | Unreadable]:
    """The list in a page.

    Raises:
        msgspec.DecodeError: it is none.
    """
    try:
        return _decode_list(content)
    except msgspec.ValidationError:
        # Seldom: one of them is unreadable, so each is looked at.
        return [_read_one(each) for each in _split(content)]


def _read_one(content: bytes | msgspec.Raw) -> Stored | Unreadable:
    try:
        return _decode(content)
    except msgspec.ValidationError as error:
        try:
            return _decode_unreadable(content)
        except msgspec.ValidationError:
            raise error from None
