"""Holds a history against the promises: which of them was broken?

The rules are those of docs/GUARANTEES.md. An operation whose answer is unknown may have come to
effect at any time after it was sent, or never (Herlihy and Wing, 1990; Jepsen calls it ``info``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from skyring.testing.proof.history import Delivery, Fault, History, LogEntry, Operation
from skyring.testing.proof.timers import Timer, timers_of

__all__ = ["Allowance", "Violation", "check"]


class Violation(NamedTuple):
    """A promise that was broken."""

    rule: str
    timer: str
    """Its id; "" if it is about no single timer."""
    text: str


class Allowance(NamedTuple):
    """What a run cannot tell exactly."""

    begun_s: float = 0.0
    """A delivery may have begun so long before its receiver has seen it."""
    fault_s: float = 0.0
    """A fault is felt for so long after its end, and explains duplicates of that time."""
    record_s: float = math.inf
    """So long after a delivery has begun it is recorded: the receiver's answer, and the write.

    Unless a fault that has begun by then hits its node. A write that is in doubt for longer is so
    because of a fault that had begun when it was made."""
    late_s: float | None = None
    """When all is calm a delivery begins so soon after it is due; None: that is not checked."""
    queue_s: float = 0.0
    """One that was asked for before may have to wait for so much longer, behind others."""


def check(history: History, allowance: Allowance | None = None) -> list[Violation]:
    """All violations of a history; none if every promise was kept."""
    allowance = Allowance() if allowance is None else allowance
    found = list(_epochs(history))
    found += [
        Violation("failure", "", f"at {when_s:.3f}: {why}") for when_s, why in history.failures
    ]
    for timer in timers_of(history):
        found += _lost(timer, history, allowance)
        found += _early(timer)
        found += _after_cancel(timer, allowance)
        found += _content(timer, allowance)
        found += _duplicates(timer, history, allowance)
        found += _denied(timer, history, allowance)
        found += _done_though_refused(timer)
        found += _stale(timer)
        found += _conflict(timer)
        if allowance.late_s is not None:
            found += _late(timer, history, allowance.late_s, allowance.queue_s)
    return found


def _lost(timer: Timer, history: History, allowance: Allowance) -> Iterator[Violation]:
    """What was acknowledged last is delivered, or the timer is a dead letter.

    An id is free again when its timer is gone, so the same holds for what was acknowledged before
    a create of other content was.
    """
    if timer.id in history.reported:
        return
    yield from _lost_before(timer, None, history, allowance)
    for op in timer.creates:
        if op.answer == "done":
            yield from _lost_before(timer, op, history, allowance)


def _lost_before(
    timer: Timer, next_one: Operation | None, history: History, allowance: Allowance
) -> Iterator[Violation]:
    """Was anything lost before another timer had the id (None: before the end)?"""

    def is_before(op: Operation) -> bool:
        return next_one is None or (
            op.content != next_one.content
            and op.answered_s is not None
            and op.answered_s < next_one.sent_s
        )

    acknowledged = [
        op for op in timer.creates + timer.updates if op.answer == "done" and is_before(op)
    ]
    until_s = math.inf if next_one is None else next_one.answered_s or math.inf
    if not acknowledged:
        return
    last = max(acknowledged, key=lambda op: op.sent_s)
    if timer.may_be_cancelled(last.sent_s, until_s):
        return
    kept = [
        op
        for op in timer.versions()
        if op.sent_s <= until_s
        and (next_one is None or op.content != next_one.content)
        and not _is_superseded(op, acknowledged, None)
    ]
    if timer.id in history.dead and any(op.may_die for op in kept):
        return
    final = {op.content for op in kept}
    if not any(
        item.taken
        and item.content in final
        and item.began_s <= until_s
        and _is_under_way(item, last.sent_s, history.faults, allowance)
        for item in timer.deliveries
    ):
        text = f"{last.content} was acknowledged at {last.answered_s:.3f} and never delivered"
        yield Violation("lost", timer.id, text)


def _is_under_way(
    item: Delivery, moment_s: float, faults: list[Fault], allowance: Allowance
) -> bool:
    """May a delivery be that of a timer which was there at a moment, or later?

    A timer is there until its delivery is recorded. A create that comes in between is answered as
    one that is done already; one that comes afterwards makes another timer.
    """
    recorded_s = item.began_s + allowance.record_s
    if recorded_s >= moment_s:
        return True
    nodes = frozenset({item.node})
    since_s = item.began_s - allowance.fault_s
    return any(fault.hits(nodes, since_s, recorded_s) for fault in faults)


def _is_superseded(op: Operation, acknowledged: list[Operation], before_s: float | None) -> bool:
    """Has another version certainly taken its place (before a moment)?"""
    if op.answered_s is None:  # it may come to effect at any time
        return False
    return any(
        other.sent_s > op.answered_s
        and other.answered_s is not None
        and (before_s is None or other.answered_s < before_s)
        for other in acknowledged
    )


def _early(timer: Timer) -> Iterator[Violation]:
    dues: dict[str, int] = {}
    for op in timer.creates + timer.updates:  # a repeated create may have been the first to arrive
        if op.due_ms:
            dues[op.content] = min(op.due_ms, dues.get(op.content, op.due_ms))
    for item in timer.deliveries:
        due_ms = max(item.due_ms, dues.get(item.content, 0))
        if item.clock_ms < due_ms:
            text = f"{item.content} at {item.clock_ms}, {due_ms - item.clock_ms} ms before {due_ms}"
            yield Violation("early", timer.id, text)


def _after_cancel(timer: Timer, allowance: Allowance) -> Iterator[Violation]:
    for cancel in timer.cancels:
        if cancel.answer != "done" or cancel.answered_s is None:
            continue
        for item in timer.deliveries:
            if timer.may_follow(item.content, cancel):
                continue
            if item.began_s - allowance.begun_s > cancel.answered_s:
                text = f"delivered at {item.began_s:.3f}, cancelled at {cancel.answered_s:.3f}"
                yield Violation("after cancel", timer.id, text)


def _content(timer: Timer, allowance: Allowance) -> Iterator[Violation]:
    versions = timer.creates + timer.updates
    acknowledged = [op for op in versions if op.answer == "done"]
    for item in timer.deliveries:
        made = [op for op in versions if op.content == item.content]
        if not made:
            yield Violation("content", timer.id, f"nobody has asked for {item.content!r}")
            continue
        before_s = item.began_s - allowance.begun_s
        if all(_is_superseded(op, acknowledged, before_s) for op in made):
            text = f"{item.content} at {item.began_s:.3f}, when another was acknowledged"
            yield Violation("content", timer.id, text)


def _duplicates(timer: Timer, history: History, allowance: Allowance) -> Iterator[Violation]:
    """It is delivered once, unless a fault or a repeated request explains more."""
    last: dict[str, Delivery] = {}
    for item in timer.deliveries:
        before = last.get(item.content)
        if item.taken:
            last[item.content] = item
        if before is None or not before.told or not item.taken:
            continue
        if _was_repeated(timer, item.content, before.began_s):
            continue  # a client that repeats its create may come when the first is delivered
        is_open = item.began_s - allowance.begun_s <= before.began_s  # which of them was first?
        if is_open and (
            not item.told or _may_repeat(timer, item, before, history.faults, allowance)
        ):
            continue
        if not _may_repeat(timer, before, item, history.faults, allowance):
            text = f"{item.content} at {before.began_s:.3f} and again at {item.began_s:.3f}"
            yield Violation("duplicate", timer.id, text)


def _may_repeat(
    timer: Timer, before: Delivery, item: Delivery, faults: list[Fault], allowance: Allowance
) -> bool:
    """Does a fault explain that a delivery came again?

    It has hit the node that had to record the first one, before that could be done. What comes to
    that node afterwards, or to the one that has delivered again, explains nothing.
    """
    since_s = before.began_s - allowance.fault_s
    until_s = min(item.began_s, before.began_s + allowance.record_s)
    if any(fault.hits(frozenset({before.node}), since_s, until_s) for fault in faults):
        return True
    # A node repeats a create that has no answer, and whoever was asked may be a third one. An
    # answer is given before a delivery begins, so what has kept it back had begun by then, too.
    sent_s = [
        op.sent_s
        for op in timer.creates
        if op.content == item.content and (op.answered_s is None or op.answered_s > before.began_s)
    ]
    if not sent_s:
        return False
    since_s = min(*sent_s, before.began_s) - allowance.fault_s
    return any(fault.hits(frozenset({""}), since_s, until_s) for fault in faults)


def _was_repeated(timer: Timer, content: str, since_s: float) -> bool:
    """Is there more than one create, of which one may have been carried out after a moment?"""
    creates = [op for op in timer.creates if op.content == content and op.answer != "refused"]
    return len(creates) > 1 and any(
        op.answered_s is None or op.answered_s > since_s for op in creates
    )


def _stale(timer: Timer) -> Iterator[Violation]:
    """Who looks at a timer is not shown what has certainly been replaced or cancelled before."""
    acknowledged = [op for op in timer.creates + timer.updates if op.answer == "done"]
    for get in timer.gets:
        if get.answer != "done" or not get.content:
            continue
        made = [op for op in timer.creates + timer.updates if op.content == get.content]
        if all(_is_superseded(op, acknowledged, get.sent_s) for op in made):
            text = f"{get.content} was shown at {get.sent_s:.3f}, when it was replaced"
            yield Violation("stale", timer.id, text)
        for cancel in timer.cancels:
            if (
                cancel.answer == "done"
                and cancel.answered_s is not None
                and cancel.answered_s < get.sent_s
                and not timer.may_follow(get.content, cancel)
            ):
                text = f"{get.content} was shown at {get.sent_s:.3f}, when it was cancelled"
                yield Violation("stale", timer.id, text)


def _conflict(timer: Timer) -> Iterator[Violation]:
    """Who repeats a create is not told that the timer has other content."""
    if timer.updates or any(op.may_die for op in timer.creates):
        return
    if len({op.content for op in timer.creates}) == 1:
        for op in timer.creates:
            if op.answer == "conflict":
                text = f"a create of {op.content} at {op.sent_s:.3f} is called another one"
                yield Violation("conflict", timer.id, text)


def _denied(timer: Timer, history: History, allowance: Allowance) -> Iterator[Violation]:
    """Who asks for a timer that is certainly there is not told that there is none."""
    if timer.id in history.reported:
        return
    for op in timer.cancels + timer.updates + timer.gets:
        if op.answer != "missing" or op.answered_s is None:
            continue
        made = [
            each
            for each in timer.creates
            if each.answer == "done"
            and each.answered_s is not None
            and each.answered_s <= op.sent_s
        ]
        if not made:
            continue
        last = max(made, key=lambda each: each.sent_s)
        if timer.may_be_cancelled(last.sent_s, op.answered_s):
            continue
        until_s = op.answered_s + allowance.begun_s
        may_die = any(each.may_die for each in timer.versions())
        contents = {each.content for each in [last, *timer.updates]}
        if any(
            item.content in contents
            and item.began_s <= until_s
            and (item.taken or may_die)
            and _is_under_way(item, last.sent_s, history.faults, allowance)
            for item in timer.deliveries
        ):
            continue
        yield Violation("denied", timer.id, f"{op.kind} at {op.sent_s:.3f}: there is no such timer")


def _done_though_refused(timer: Timer) -> Iterator[Violation]:
    answers: dict[str, list[str]] = {}
    for op in timer.creates + timer.updates:
        answers.setdefault(op.content, []).append(op.answer)
    for content in {item.content: None for item in timer.deliveries}:
        told = answers.get(content, [])
        if told and all(answer in ("refused", "missing", "busy", "conflict") for answer in told):
            text = f"{content} was delivered, and answered {told[0]!r}"
            yield Violation("done though refused", timer.id, text)


def _late(timer: Timer, history: History, late_s: float, queue_s: float) -> Iterator[Violation]:
    """When all is calm deliveries are punctual, and no node takes a timer for due too late."""
    made: dict[str, list[Operation]] = {}
    for op in timer.versions():
        made.setdefault(op.content, []).append(op)
    for content, operations in made.items():
        if all(op.answer != "done" for op in operations):
            continue
        first = next((item for item in timer.deliveries if item.content == content), None)
        if first is None:
            continue
        is_new = history.calm_s is not None and operations[0].sent_s >= history.calm_s
        latest_ms = _due_latest_ms(operations, is_new=is_new)
        due_ms = min(first.due_ms or math.inf, latest_ms)
        if first.due_ms > latest_ms + late_s * 1000:
            text = f"{content} is due {first.due_ms - latest_ms} ms later than was asked for"
            yield Violation("late", timer.id, text)
            continue
        allowed_s = late_s if is_new else late_s + queue_s
        if due_ms == math.inf or first.clock_ms <= due_ms + allowed_s * 1000:
            continue
        if is_new or _is_due_in_calm(due_ms + allowed_s * 1000, due_ms, first, history):
            text = f"{content} {first.clock_ms - due_ms} ms after it was due"
            yield Violation("late", timer.id, text)


def _due_latest_ms(operations: list[Operation], *, is_new: bool) -> float:
    """By what its clients know a content is due then, at the latest; infinity if they do not.

    Where clocks cannot have been changed, no clock has gone on by more than a request took.
    """
    latest_ms = 0.0
    for op in operations:
        if op.answered_s is None:
            return math.inf
        took_ms = math.ceil(1000 * (op.answered_s - op.sent_s))
        if op.due_latest_ms:
            latest_ms = max(latest_ms, op.due_latest_ms)
        elif is_new and op.due_ms and len(operations) == 1:
            latest_ms = op.due_ms + took_ms
        else:
            return math.inf
    return latest_ms


def _is_due_in_calm(late_ms: float, due_ms: float, item: Delivery, history: History) -> bool:
    """Was there calm from when a delivery was due to when it would have been late?"""
    if history.calm_s is None or item.began_s < history.calm_s:  # by a clock that ran ahead
        return False
    if history.calm_ms is not None:
        return history.calm_ms[0] <= due_ms and late_ms <= history.calm_ms[1]
    return due_ms >= item.clock_ms - 1000 * (item.began_s - history.calm_s)


def _epochs(history: History) -> Iterator[Violation]:
    """In each slot epochs rise, each begins with a claim, and one node alone writes in it."""
    slots: dict[int, list[LogEntry]] = {}
    for entry in history.entries:
        slots.setdefault(entry.slot, []).append(entry)
    for slot, entries in slots.items():
        epoch, writer = 0, ""
        for entry in sorted(entries, key=lambda each: each.sequence):
            if entry.epoch < epoch:
                text = f"{entry.writer} in epoch {entry.epoch} after {epoch} of {writer}"
            elif entry.epoch == epoch and entry.writer != writer:
                text = f"{entry.writer} in epoch {epoch} of {writer}"
            elif entry.epoch > epoch and not entry.is_claim:
                text = f"{entry.writer} in epoch {entry.epoch} without a claim"
            else:
                epoch, writer = entry.epoch, entry.writer
                continue
            where = f"slot {slot}, entry {entry.sequence}: {text}"
            yield Violation("epoch", "", where)
            epoch, writer = max(epoch, entry.epoch), entry.writer
