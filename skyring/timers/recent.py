"""Timers that are gone, remembered for a while.

An operation that had no answer is repeated, by the node that took the request. By then the timer
may have been created, delivered and deleted: it must not be created again, and whoever cancelled it
has to be told that it is done.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Ending", "RecentIds"]

Ending: TypeAlias = Literal["delivery", "cancel", "delete", "retry"]
"""What a timer went by; ``delete`` and ``retry`` are of a dead letter."""


class RecentIds:
    """Remembers ids for ``keep_s`` at least, and twice as long at most.

    Args:
        keep_s: seconds; 0 is for nodes that need not remember anything.
        ids_max: when there are more, the older ones are forgotten before their time.
    """

    def __init__(self, keep_s: float, ids_max: int) -> None:
        self._keep_s = keep_s
        self._half = max(1, ids_max // 2)
        self._recent: dict[str, tuple[Ending, int]] = {}
        self._older: dict[str, tuple[Ending, int]] = {}
        self._since_s = 0.0

    def add(self, timer_id: str, ending: Ending, mark: int, now_s: float) -> None:
        """A timer has gone.

        Args:
            mark: of the request that created it; an id can be used again.
            now_s: monotonic seconds.
        """
        if not self._keep_s:
            return
        if now_s - self._since_s >= self._keep_s or len(self._recent) >= self._half:
            self._recent, self._older = {}, self._recent
            self._since_s = now_s
        self._recent[timer_id] = (ending, mark)

    def ending(self, timer_id: str) -> Ending | None:
        """What the last timer of this id went by, if that is remembered."""
        found = self._get(timer_id)
        return None if found is None else found[0]

    def was_made_by(self, timer_id: str, mark: int) -> bool:
        """Is it remembered that the timer which this request created has gone?"""
        found = self._get(timer_id)
        return found is not None and found[0] != "retry" and found[1] == mark

    def _get(self, timer_id: str) -> tuple[Ending, int] | None:
        return self._recent.get(timer_id) or self._older.get(timer_id)
