"""Ids of timers: UUID version 7 (RFC 9562, section 5.7).

They begin with the time of creation, so that new records land next to each other in the storage.
"""

from __future__ import annotations

from collections.abc import Callable
from os import urandom

__all__ = ["IdSource"]

RANDOM_CHARS = 20
POOL_BYTES = 200 * RANDOM_CHARS
VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class IdSource:
    """Makes ids.

    Args:
        random_bytes: makes so many random bytes. It is asked for those of many ids at once.
    """

    def __init__(self, random_bytes: Callable[[int], bytes] = urandom) -> None:
        self._random_bytes = random_bytes
        self._pool = ""
        self._used_chars = 0

    def new(self, now_ms: int) -> str:
        """A fresh id. ``now_ms`` in epoch milliseconds."""
        start = self._used_chars
        if start == len(self._pool):
            self._pool, start = self._random_bytes(POOL_BYTES).hex(), 0
        self._used_chars = end = start + RANDOM_CHARS
        random, time = self._pool[start:end], f"{now_ms:012x}"
        variant = VARIANTS[random[3]]
        return f"{time[:8]}-{time[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"
