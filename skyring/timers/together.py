"""Timers that are created at the same time go to the same slot, so that they share its next write.

An id that we make may fall into any slot. Chosen one by one, the slots of a busy moment are all
different, and each costs a message to the holder and an append to a log of its own. So the slot of
the first is kept for some milliseconds (what Kafka calls a sticky partitioner, KIP-480); over any
longer time all slots get the same.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Mapping, Sequence
from functools import lru_cache

__all__ = ["Together"]

TAIL_CHARS, TAIL_CHARS_MAX = 3, 4
"""Hexadecimal digits at the end of an id that decide about its slot: enough for 256 slots, and for
thousands. At least 62 random bits remain."""
SLOTS_FEW = 256


class Together:
    """Moves ids of one moment into one slot.

    Args:
        slots: how many slots there are. If that is no power of two, ids are left as they are.
        keep_s: how long a slot is kept, seconds.
        timers_max: timers after which another one is taken.
    """

    def __init__(self, slots: int, keep_s: float = 0.002, timers_max: int = 64) -> None:
        self._slots = slots
        self._keep_s = keep_s
        self._timers_max = timers_max
        self._chars = TAIL_CHARS if slots <= SLOTS_FEW else TAIL_CHARS_MAX
        self._zeros = bytes(self._chars)
        self._tails = _tails_by_slot(slots, self._chars)
        self._slot = 0
        self._until_s = 0.0
        self._left = 0

    def place(self, timer_id: str, now_s: float) -> str:
        """An id in the slot of this moment, like the given one in all but its last digits.

        Args:
            timer_id: a fresh id that ends with random hexadecimal digits.
            now_s: monotonic seconds.
        """
        if self._left == 0 or now_s >= self._until_s:
            self._slot = crc32(timer_id.encode()) % self._slots
            self._until_s = now_s + self._keep_s
            self._left = self._timers_max if self._tails else 0
            return timer_id
        self._left -= 1
        head = timer_id[: -self._chars]
        # A checksum of this kind is linear: what the tail adds does not depend on the head.
        rest = (crc32(self._zeros, crc32(head.encode())) ^ crc32(self._zeros)) % self._slots
        tails = self._tails.get(rest ^ self._slot)
        if tails is None:
            return timer_id
        return head + tails[int(timer_id[-self._chars :], 16) % len(tails)]


@lru_cache(2)
def _tails_by_slot(slots: int, chars: int) -> Mapping[int, Sequence[str]]:
    """What each tail adds to the slot of an id."""
    tails: dict[int, list[str]] = {}
    if slots & (slots - 1) == 0:
        for number in range(16**chars):
            tail = f"{number:0{chars}x}"
            tails.setdefault(crc32(tail.encode()) % slots, []).append(tail)
    return tails
