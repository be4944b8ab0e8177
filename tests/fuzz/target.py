"""What a fuzz target is: a check that takes any bytes, and seeds to begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, TypeVar

__all__ = ["Format", "Target", "refusal", "stable"]

T = TypeVar("T")
Error = TypeVar("Error", bound=Exception)
Format: TypeAlias = Literal["msgpack", "json", "bytes"]


class Target(NamedTuple):
    """One thing that reads what others have written."""

    check: Callable[[bytes], None]
    """Raises, if these bytes do what no bytes may do. The documented refusals are none of it."""
    seeds: Callable[[], list[bytes]]
    """Bytes that are read without a complaint, for the most part."""
    format: Format
    """In what they are written, so that mutations can keep to it now and then."""
    prefix_bytes: int = 0
    """What stands before that, such as a version byte."""


def stable(value: T, encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
    """What has been read can be written, and is then read as the same."""
    written = encode(value)
    again = decode(written)
    assert again == value, (value, again)
    assert encode(again) == written


def refusal(kind: type[Error], read: Callable[..., T], *arguments: object) -> T | Error:
    """What is read, or the error of this kind that says why it is not."""
    try:
        return read(*arguments)
    except kind as error:
        return error
