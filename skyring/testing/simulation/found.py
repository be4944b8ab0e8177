"""Defects that the simulator has found, made again: it must go on finding them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

import skyring.timers.delivery
import skyring.timers.operations
import skyring.timers.service
from skyring.errors import DeliveryInProgress, Fenced, NotFound, Unavailable
from skyring.ring.replays import Replays
from skyring.storage.replicated import ReplicatedStorage
from skyring.storage.slot_work import SlotWork
from skyring.timers.operations import TimerOperations
from skyring.timers.retry import Rescheduled, decide
from skyring.timers.state import TimerState
from skyring.timers.wire import Cancel

__all__ = ["FOUND", "put"]

CLAIMS_MAX = 20


def put(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Have something else in the place of an attribute, as long as the stack is open."""
    stack.enter_context(patch.object(owner, name, value))


def _refused_again(stack: ExitStack) -> None:
    """What is refused when it is sent again was not done, it says."""
    put(stack, skyring.timers.operations, "_of_both", lambda error: error)


def _cancelled_again(stack: ExitStack) -> None:
    """A cancel that is sent again and meets a delivery has come too late, it says."""
    real = TimerOperations._answer

    async def answer(self: TimerOperations, sent: Any) -> Any:
        if not isinstance(sent.operation, Cancel) or not sent.repeated:
            return await real(self, sent)
        try:
            return await real(self, sent)
        except Exception as error:
            if isinstance(error.__cause__, DeliveryInProgress):
                raise error.__cause__ from None
            raise

    put(stack, TimerOperations, "_answer", answer)


def _retried_early(stack: ExitStack) -> None:
    """A retry comes when its wait is over, also if the clock was set back meanwhile."""

    def early(record: Any, outcome: Any, now_ms: int, policy: Any, random: float) -> Any:
        decided = decide(record, outcome, now_ms, policy, random)
        if isinstance(decided, Rescheduled) and decided.record.next_ms == record.due_ms:
            return Rescheduled(replace(decided.record, next_ms=now_ms + 1))
        return decided

    put(stack, skyring.timers.delivery, "decide", early)


def _strange_dead_letter(stack: ExitStack) -> None:
    """A create that is sent again does not know what it has made."""
    put(stack, skyring.timers.service, "_was_made_by", lambda value, mark: False)


def _asked_twice(stack: ExitStack) -> None:
    """A question that comes twice is carried out twice."""
    put(stack, Replays, "is_new", lambda self, asker, incarnation, number: True)


def _denied_without_lease(stack: ExitStack) -> None:
    """A node without a lease says that there is no timer, if it knows none."""

    async def read(self: TimerState, slot: int, key: bytes) -> bytes | None:
        term = self.schedule.term(slot)
        value = await self.storage.get(slot, key)
        if self.schedule.term(slot) != term:
            raise Fenced(f"slot {slot} was lost while it was read")
        return value

    put(stack, TimerState, "read", read)


def _claimed_over_another(stack: ExitStack) -> None:
    """A claim that another node has forestalled is made again at once, over that of the other."""
    real = ReplicatedStorage._claim

    async def claim(self: ReplicatedStorage, slot: SlotWork) -> None:
        for _ in range(CLAIMS_MAX):
            slot.followed_epoch = None
            epoch = slot.replica.epoch
            try:
                await real(self, slot)
                return
            except Unavailable:
                if slot.replica.epoch == epoch:
                    raise

    put(stack, ReplicatedStorage, "_claim", claim)


def _updated_again(stack: ExitStack) -> None:
    """An update that is sent again and finds no timer was not done, it says."""
    real = TimerOperations._update

    async def update(self: TimerOperations, sent: Any, wanted: Any) -> Any:
        try:
            return await real(self, sent, wanted)
        except Exception as error:
            if isinstance(error.__cause__, (DeliveryInProgress, NotFound)):
                raise error.__cause__ from None
            raise

    put(stack, TimerOperations, "_update", update)


FOUND: dict[str, Callable[[ExitStack], None]] = {
    "refused when sent again": _refused_again,
    "cancelled when sent again": _cancelled_again,
    "updated when sent again": _updated_again,
    "created when sent again": _strange_dead_letter,
    "a question that comes twice": _asked_twice,
    "no denial without a lease": _denied_without_lease,
    "no retry before the due time": _retried_early,
    "no claim over a newer one": _claimed_over_another,
}
"""Rules that were broken, by name, and what breaks each again."""
