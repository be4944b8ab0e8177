"""How many connections may stay open for the next request. Pure.

The client limits idle connections for each host, but not over all hosts: timers that go to a new
host each would use up the file descriptors of the process, and with them the node's own port.
"""

from __future__ import annotations

__all__ = ["KeepAlive"]


class KeepAlive:
    """Decides for each request whether its connection may be kept after the answer.

    A host needs as many connections as it has requests at once. These are counted over a period,
    and once they are ``connections_max`` for all hosts together, a request that would need one
    more is told to close it. Connections of the last period may still be idle, so the limit can be
    reached twice.

    Args:
        connections_max: connections that are kept.
        period_ms: when to count anew; twice the time that an idle connection lives.
    """

    def __init__(self, connections_max: int, period_ms: int) -> None:
        self._connections_max = connections_max
        self._period_ms = period_ms
        self._period_start_ms = 0
        self._busy: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self.kept = 0
        self.in_flight = 0

    def begin(self, destination: str, now_ms: int) -> bool:
        """A request begins, epoch milliseconds; may its connection be kept?"""
        # A clock that was set back must not make a period last longer.
        if not 0 <= now_ms - self._period_start_ms < self._period_ms:
            self._period_start_ms = now_ms
            self._kept.clear()
            self.kept = 0
        self.in_flight += 1
        busy = self._busy[destination] = self._busy.get(destination, 0) + 1
        kept = self._kept.get(destination, 0)
        if busy <= kept:
            return True
        if self.kept >= self._connections_max:
            return False
        self._kept[destination] = kept + 1
        self.kept += 1
        return True

    def end(self, destination: str) -> None:
        """A request has ended."""
        self.in_flight -= 1
        busy = self._busy[destination] - 1
        if busy:
            self._busy[destination] = busy
        else:
            del self._busy[destination]
