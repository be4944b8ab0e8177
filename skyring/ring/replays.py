"""Which questions have come before: a sliding window for each asker (RFC 4303, section 3.4.3).

A question that comes twice would be carried out twice, and whoever asked knows one answer of the
two. Its operation may have been refused the first time, and be done the second.
"""

from __future__ import annotations

__all__ = ["Replays"]

WINDOW = 4_096
"""Questions that may overtake one."""
MASK = (1 << WINDOW) - 1
ASKERS_MAX = 1_000


class Replays:
    """Knows the numbers of questions, which rise by one with each."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, int, int]] = {}
        """By asker: its incarnation, the highest number, and a bit for each of those below it."""

    def is_new(self, asker: str, incarnation: int, number: int) -> bool:
        """Take note of a question; False if it came before, or is older than the window."""
        known, highest, bits = self._windows.get(asker, (incarnation, 0, 0))
        if incarnation < known:
            return False
        if incarnation > known:
            highest, bits = 0, 0
        behind = highest - number
        if behind >= WINDOW:
            return False
        if behind < 0:
            bits = (bits << min(-behind, WINDOW) | 1) & MASK
            highest = number
        elif bits >> behind & 1:
            return False
        else:
            bits |= 1 << behind
        if asker not in self._windows and len(self._windows) >= ASKERS_MAX:
            del self._windows[next(iter(self._windows))]
        self._windows[asker] = (incarnation, highest, bits)
        return True
