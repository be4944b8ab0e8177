"""What routed timers need of a ring, which knows nothing of timers but bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = ["Route", "Routed"]


class Routed(Protocol):
    """Something to be done in a slot, or in several."""

    def encode(self, waited_ms: int, repeated: bool) -> bytes:
        """The operation as it travels.

        Args:
            waited_ms: how long it has waited on its way, rounded down.
            repeated: was it sent before, so that it may have been done already?
        """


class Route(Protocol):
    """The way to the nodes that hold the slots.

    Operations are carried out by `skyring.timers.operations.TimerOperations`. One that ends with
    Fenced there has changed nothing, and may be sent elsewhere as if it had never been sent.
    """

    @property
    def operation_bytes_max(self) -> int:
        """Of an operation as it travels, and of its answer, as far as is known now."""

    def is_here(self, slot: int) -> bool:
        """Does this node hold a slot, and may it act?"""

    async def run(self, slot: int, operation: Routed) -> bytes:
        """Have an operation carried out by whoever holds its slot; its answer.

        Raises:
            Unavailable: nothing was done (Uncertain: perhaps it was).
            TooLarge: it does not fit into a message.
        """

    async def run_at(self, node: str, operation: Routed) -> bytes:
        """Have an operation that only reads carried out by one node; its answer.

        Raises:
            Unavailable: it cannot be asked now, or does not hold all the slots (any more).
        """

    def holders(self) -> Mapping[str, Sequence[int]]:
        """Slots by the node that is known to hold them, this one among them.

        A slot without a holder is missing.
        """
