"""What a history knows of each timer."""

from __future__ import annotations

from skyring.testing.proof.history import Delivery, History, Operation

__all__ = ["Timer", "timers_of"]


class Timer:
    """All that is known of one timer, in the order of time."""

    def __init__(self, timer_id: str) -> None:
        self.id = timer_id
        self.creates: list[Operation] = []
        self.updates: list[Operation] = []
        self.cancels: list[Operation] = []
        self.gets: list[Operation] = []
        self.deliveries: list[Delivery] = []

    def versions(self) -> list[Operation]:
        """All that may have given it content."""
        return [op for op in self.creates + self.updates if op.answer in ("done", "unknown")]

    def may_be_cancelled(self, before_s: float) -> bool:
        """May a cancel that was sent before a moment have removed it?"""
        return any(
            op.answer in ("done", "unknown") and op.sent_s <= before_s for op in self.cancels
        )


def timers_of(history: History) -> list[Timer]:
    """All timers of a history."""
    timers: dict[str, Timer] = {}
    for op in history.operations:
        if op.id:
            timer = timers.setdefault(op.id, Timer(op.id))
            kinds = {"create": timer.creates, "update": timer.updates, "cancel": timer.cancels}
            kinds.get(op.kind, timer.gets).append(op)
    unknown = {op.content: op for op in history.operations if not op.id and op.kind == "create"}
    for delivery in sorted(history.deliveries, key=lambda each: each.began_s):
        found = timers.get(delivery.id)
        if found is None:
            found = timers[delivery.id] = Timer(delivery.id)
            made_by = unknown.get(delivery.content)
            if made_by is not None:  # its create was never answered: now its id is known
                found.creates.append(made_by)
        found.deliveries.append(delivery)
    return list(timers.values())
