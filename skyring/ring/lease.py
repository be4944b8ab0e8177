"""How long this node may act on its claims: a pure state machine.

A lease is renewed by an acknowledged heartbeat, and counts from *before* that was sent: so it ends
here before the others, who count from when they heard it, take the slots over (Gray and Cheriton,
1989). Once it has lapsed, no acknowledgement brings it back: the node has to drop its slots first,
for others may have claimed them meanwhile.

All times are monotonic milliseconds of this node.
"""

from __future__ import annotations

__all__ = ["Lease", "waited_out_ms"]

MARGIN = 1.05
"""For clocks that do not run equally fast."""


def waited_out_ms(lease_ms: int) -> int:
    """How long after its last heartbeat another node's lease is over for certain."""
    return int(lease_ms * MARGIN)


class Lease:
    """The lease of one node.

    Args:
        lease_ms: how long it lasts after a heartbeat.
    """

    def __init__(self, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self._until_ms: int | None = None

    def holds(self, now_ms: int) -> bool:
        """May this node act on its claims now?"""
        return self._until_ms is not None and now_ms < self._until_ms

    def left_ms(self, now_ms: int) -> int:
        """How long it still lasts; 0 if it does not hold."""
        return 0 if self._until_ms is None else max(0, self._until_ms - now_ms)

    def has_lapsed(self, now_ms: int) -> bool:
        """Was there one, and is it over?"""
        return self._until_ms is not None and now_ms >= self._until_ms

    def end(self) -> None:
        """The slots are dropped: a new lease may begin."""
        self._until_ms = None

    def renewed(self, sent_ms: int, now_ms: int) -> None:
        """A heartbeat that was sent at ``sent_ms`` is acknowledged now."""
        if self.has_lapsed(now_ms):
            return
        until_ms = sent_ms + self._lease_ms
        if now_ms < until_ms:
            self._until_ms = until_ms if self._until_ms is None else max(self._until_ms, until_ms)
