"""What becomes of a timer after a delivery: a pure function of record, outcome and time.

Waits are exponential with full jitter: Marc Brooker, "Exponential Backoff And Jitter" (AWS
Architecture Blog, 2015).
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from skyring.timers.record import Record
from skyring.timers.request import AT_MS_MAX
from skyring.transports.base import Outcome

__all__ = ["Dead", "Gone", "Rescheduled", "RetryPolicy", "Transition", "backoff_ms", "decide"]

REASON_CHARS_MAX = 500
EXPONENT_MAX = 62


class RetryPolicy(NamedTuple):
    """The numbers that hold for one timer."""

    attempts: int
    backoff_ms: int
    max_ms: int

    def for_record(self, record: Record) -> RetryPolicy:
        """This policy, with what the timer itself says in its place."""
        own = record.callback.retry
        if own is None:
            return self
        return RetryPolicy(
            self.attempts if own.attempts is None else own.attempts,
            self.backoff_ms if own.backoff_ms is None else own.backoff_ms,
            self.max_ms if own.max_ms is None else own.max_ms,
        )


class Gone(NamedTuple):
    """Delivered: nothing is left to do."""


class Rescheduled(NamedTuple):
    """To be delivered again, as ``record`` says."""

    record: Record


class Dead(NamedTuple):
    """No further attempt: ``record`` becomes a dead letter."""

    record: Record


Transition = Gone | Rescheduled | Dead
GONE = Gone()


def backoff_ms(policy: RetryPolicy, attempts: int, random: float) -> int:
    """Wait before the next delivery, milliseconds.

    Args:
        attempts: deliveries that have failed, at least 1.
        random: 0 <= random < 1.
    """
    bound_ms = min(policy.max_ms, policy.backoff_ms << min(attempts - 1, EXPONENT_MAX))
    return int(random * (bound_ms + 1))


def decide(
    record: Record, outcome: Outcome, now_ms: int, policy: RetryPolicy, random: float
) -> Transition:
    """The timer's next state.

    Args:
        now_ms: epoch milliseconds, when the delivery ended.
        policy: the node's; the timer's own goes first.
        random: 0 <= random < 1, spreads the retries of many timers.
    """
    if outcome.kind == "delivered":
        return GONE
    attempts = record.attempts + 1
    # A reason may quote anything; a lone surrogate could not be stored.
    reason = outcome.reason[:REASON_CHARS_MAX].encode("utf-8", "replace").decode()
    failed = replace(record, attempts=attempts, last_error=reason)
    policy = policy.for_record(record)
    if outcome.kind == "rejected" or attempts >= policy.attempts:
        return Dead(failed)
    wait_ms = backoff_ms(policy, attempts, random)
    if outcome.after_ms is not None:
        wait_ms = max(wait_ms, outcome.after_ms)
    # The clock may have been set back since it was due.
    next_ms = max(now_ms + wait_ms, record.due_ms)
    return Rescheduled(replace(failed, next_ms=min(next_ms, AT_MS_MAX)))
