"""Mutations that keep to a format: the decoders themselves are C, where no coverage guides."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from skyring.storage.seal import seal
from tests.fuzz.target import Format

__all__ = ["mutate_format", "reseal"]

DEPTH_MAX = 8
NUMBERS = [0, 1, -1, 7, 127, 128, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63]
NUMBERS += [2**64 - 1, -(2**31), -(2**63), 253_402_300_799_999, 253_402_300_800_000]
TEXTS = ["", "a", "\0", "ä", "\ud7ff", "😀", "x" * 129, "x" * 1_001, "http", "id", "\r\n", "2030"]
OTHERS: list[Any] = [None, True, False, 1.5, -0.0, 1e308, [], {}, [[]], {"a": {"a": []}}]
BYTES = [b"", b"\0", b"\xff", b"\x80" * 9, b"d/" + bytes(8) + b"\xff", b"{}", b"l/applied"]

Codec = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
CODECS: dict[Format, Codec] = {
    "msgpack": (msgspec.msgpack.decode, msgspec.msgpack.encode),
    "json": (msgspec.json.decode, msgspec.json.encode),
}


def mutate_format(data: bytes, kind: Format, prefix_bytes: int, seed: int) -> bytes | None:
    """Other data of the same format; None if these have another one.

    Args:
        kind: the format.
        prefix_bytes: what stands before it, and stays.
        seed: the same gives the same.
    """
    codec = CODECS.get(kind)
    if codec is None:
        return None
    decode, encode = codec
    try:
        value = decode(data[prefix_bytes:])
        changed = _Mutation(random.Random(seed), kind == "msgpack").of(value, 0)
        return data[:prefix_bytes] + encode(changed)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError, TypeError):
        return None


def reseal(data: bytes, key_bytes: int) -> bytes:
    """A sound checksum for what a mutation has made, which no chance would find."""
    key = data[:key_bytes]
    return key + seal(key, data[key_bytes + 1 : -4])


class _Mutation:
    """One change, somewhere in a value."""

    def __init__(self, chance: random.Random, has_bytes: bool) -> None:
        self._chance = chance
        self._has_bytes = has_bytes

    def of(self, value: Any, depth: int) -> Any:
        chance = self._chance
        if depth < DEPTH_MAX and value and chance.random() < 0.8:
            if isinstance(value, list):
                return self._list(value, depth)
            if isinstance(value, dict):
                return self._dict(value, depth)
        if isinstance(value, (str, bytes)) and value and chance.random() < 0.5:
            return self._string(value)
        if type(value) is int and chance.random() < 0.3:
            return value + chance.choice([-1, 1, 256])
        return self._another(value)

    def _list(self, value: list[Any], depth: int) -> list[Any]:
        at = self._chance.randrange(len(value))
        match self._chance.randrange(10):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[: at + 1], *value[at:]]
            case 2:
                return [*value, self._another(None)]
            case _:
                return [*value[:at], self.of(value[at], depth + 1), *value[at + 1 :]]

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:
        name = self._chance.choice(list(value))
        match self._chance.randrange(10):
            case 0:
                return {key: item for key, item in value.items() if key != name}
            case 1:
                return {**value, self._chance.choice(TEXTS): self._another(None)}
            case _:
                return {**value, name: self.of(value[name], depth + 1)}

    def _string(self, value: Any) -> Any:
        at = self._chance.randrange(len(value))
        part = value[at : at + self._chance.randrange(1, 9)]
        return value[:at] + part * self._chance.choice([0, 2, 3]) + value[at + len(part) :]

    def _another(self, value: Any) -> Any:
        """Mostly of the same type, so that the reader does not end here."""
        kinds: list[list[Any]] = [NUMBERS, TEXTS, OTHERS, *([BYTES] if self._has_bytes else [])]
        if self._chance.random() < 0.7:
            for kind, choices in ((bool, [True, False]), (int, NUMBERS), (str, TEXTS)):
                if isinstance(value, kind):
                    return self._chance.choice(choices)
            if isinstance(value, bytes):
                return self._chance.choice(BYTES)
        return self._chance.choice(self._chance.choice(kinds))
