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

    def may_be_cancelled(self, since_s: float, before_s: float) -> bool:
        """May a cancel that was sent before a moment have removed what was there since another?

        One that had its answer by then has removed what was there before. One without an answer
        may come to effect at any time.
        """
        return any(
            op.answer in ("done", "unknown")
            and op.sent_s <= before_s
            and (op.answered_s is None or op.answered_s >= since_s)
            for op in self.cancels
        )

    def may_follow(self, content: str, cancel: Operation) -> bool:
        """May a timer have got this content after a cancel that was acknowledged?

        By a create that is not known to have ended before the cancel was sent. Or by such an
        update, of what any such create has made.
        """

        def is_open(op: Operation) -> bool:
            return op.answered_s is None or op.answered_s > cancel.sent_s

        late = [op for op in self.versions() if is_open(op)]
        made = [op for op in late if op.content == content]
        return any(op.kind == "create" for op in made) or (
            bool(made) and any(op.kind == "create" for op in late)
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
            made_by = unknown.pop(delivery.content, None)
            # Its create was never answered: now its id is known. Whoever was asked has given it one
            # id, and repeats the request with it, so nobody has asked for a second one.
            if made_by is not None:
                found.creates.append(made_by)
        found.deliveries.append(delivery)
    return list(timers.values())
