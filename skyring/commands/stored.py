"""A timer as the server has it, with the user's own JSON left untouched."""

from __future__ import annotations

import msgspec

from skyring.errors import SkyringError

__all__ = ["Stored", "read_stored", "read_stored_list"]


class Stored(msgspec.Struct, frozen=True):
    """The parts of a timer that create it again. What the user wrote is not decoded: a number with
    thirty digits stays one.
    """

    id: str
    next: int
    """Time of the next attempt, epoch milliseconds."""
    callback: msgspec.Raw
    data: msgspec.Raw = msgspec.Raw(b"null")


read_stored_list = msgspec.json.Decoder(list[Stored]).decode
_decode = msgspec.json.Decoder(Stored).decode


def read_stored(content: bytes) -> Stored:
    """One timer.

    Raises:
        SkyringError: it is none.
    """
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SkyringError(f"the server sent no timer: {error}") from error
