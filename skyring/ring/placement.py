"""Which node owns which slot: consistent hashing (Karger et al., 1997) on a ketama ring."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

from uhashring import HashRing

__all__ = ["Placement", "place"]

Placement: TypeAlias = tuple[str | None, ...]
"""The owner of each slot, by the number of the slot; None when there are no nodes."""
PLACEMENTS_MAX = 64
"""Placements that are remembered."""


def place(nodes: Iterable[str], slots: int) -> Placement:
    """The owners of all slots.

    It depends on the set of names alone, not on their order. A node that joins takes slots from
    the others and moves none between them; one that leaves gives its slots away and moves no other.

    Args:
        nodes: names of the members that may own slots.
        slots: how many slots there are.
    """
    return _place(tuple(sorted(set(nodes))), slots)


# It takes milliseconds, and the same nodes come and go and come back.
@lru_cache(PLACEMENTS_MAX)
def _place(names: tuple[str, ...], slots: int) -> Placement:
    if not names:
        return (None,) * slots
    ring = HashRing(list(names), hash_fn="ketama")
    return tuple(ring.get_node(f"slot-{number}") for number in range(slots))
