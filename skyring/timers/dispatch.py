"""Which due timer is delivered next: fair between destinations, bounded for each and in all.

Pure. A receiver that is slow or silent fills its own queue and its own places; the others get
theirs in turn.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

from skyring.timers.record import Hint

__all__ = ["Dispatcher", "Verdict"]


Verdict: TypeAlias = Literal["queued", "hold", "put off"]


class _Queue:
    """Due timers of one destination."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, Hint]] = deque()  # with the time of their queueing
        self.in_flight = 0


class Dispatcher:
    """Due timers that wait for a place.

    Args:
        in_flight_max: deliveries under way at once.
        in_flight_per_destination_max: the same for one destination.
        waiting_max: timers that wait in all. Once there are so many, a destination that has its
            share of them gets no more; in all there are never more than twice as many.
        slow_ms: a destination whose first timer has waited longer than this is slow.
    """

    def __init__(
        self,
        in_flight_max: int,
        in_flight_per_destination_max: int,
        waiting_max: int,
        slow_ms: int,
    ) -> None:
        self._in_flight_max = in_flight_max
        self._per_destination_max = in_flight_per_destination_max
        self._waiting_max = waiting_max
        self._slow_ms = slow_ms
        self._queues: dict[str, _Queue] = {}
        # Destinations with a timer waiting and a place free, each once.
        self._turns: deque[str] = deque()
        self.in_flight = 0
        self.waiting = 0

    def add(self, hint: Hint, now_ms: int) -> Verdict:
        """Queue a due timer, if there is room.

        If not, it is to be held until there is, or, when its destination is slow, to be put off:
        or else the timers of all others would wait behind those of one that does not answer.
        """
        queue = self._queues.get(hint.destination)
        if queue is None:
            queue = self._queues[hint.destination] = _Queue()
        if self.waiting >= self._waiting_max and not self._has_share_left(queue):
            if not queue.waiting:
                if not queue.in_flight:
                    del self._queues[hint.destination]
                return "hold"
            slow = now_ms - queue.waiting[0][0] > self._slow_ms
            return "put off" if slow else "hold"
        queue.waiting.append((now_ms, hint))
        self.waiting += 1
        if len(queue.waiting) == 1 and queue.in_flight < self._per_destination_max:
            self._turns.append(hint.destination)
        return "queued"

    def _has_share_left(self, queue: _Queue) -> bool:
        share = self._waiting_max // len(self._queues)
        return len(queue.waiting) < share and self.waiting < 2 * self._waiting_max

    def take(self) -> Hint | None:
        """The next timer to deliver, which then counts as in flight; None if none may begin."""
        if self.in_flight >= self._in_flight_max or not self._turns:
            return None
        destination = self._turns.popleft()
        queue = self._queues[destination]
        _, hint = queue.waiting.popleft()
        queue.in_flight += 1
        self.in_flight += 1
        self.waiting -= 1
        if queue.waiting and queue.in_flight < self._per_destination_max:
            self._turns.append(destination)
        return hint

    def done(self, destination: str) -> None:
        """A delivery has ended; its place is free."""
        queue = self._queues[destination]
        was_full = queue.in_flight >= self._per_destination_max
        queue.in_flight -= 1
        self.in_flight -= 1
        if queue.waiting:
            if was_full:
                self._turns.append(destination)
        elif queue.in_flight == 0:
            del self._queues[destination]
