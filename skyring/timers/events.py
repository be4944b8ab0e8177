"""What is told of timers to whoever watches a node.

``create``, ``update``, ``cancel`` and, of dead letters, ``retry`` and ``delete`` follow a change;
``execute`` comes when a delivery begins, ``success``, ``fail`` and ``dead`` when it has ended. All
but ``execute`` are told after the commit, by the node that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from skyring.timers.record import Record

__all__ = ["Events", "about"]

Events: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Called with the kind of the event and its fields. It must neither block nor raise."""


def about(timer_id: str, record: Record, **more: Any) -> dict[str, Any]:
    """The fields that all events of a timer with a record have; times in epoch milliseconds."""
    return {
        "id": timer_id,
        "due": record.due_ms,
        "transport": record.callback.transport,
        "destination": record.destination,
        **more,
    }
