"""What clients take from what a node answers."""

from __future__ import annotations

from typing import Any

from skyring.errors import (
    Conflict,
    DeliveryInProgress,
    NotFound,
    TooLarge,
    Unavailable,
    Uncertain,
)
from skyring.testing.proof.history import Answer

__all__ = ["NobodyListens", "answer_of"]


class NobodyListens(Unavailable):
    """No node has heard of the request."""


def answer_of(result: Any) -> Answer:
    """What a client takes from a result, or from an error."""
    if not isinstance(result, BaseException):
        return "done"
    if isinstance(result, NotFound):
        return "missing"
    if isinstance(result, DeliveryInProgress):
        return "busy"
    if isinstance(result, Conflict):
        return "conflict"
    if isinstance(result, (TooLarge, Unavailable)) and not isinstance(result, Uncertain):
        return "refused"
    return "unknown"
