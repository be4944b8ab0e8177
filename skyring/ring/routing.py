"""Which node is said to hold a slot: pure, made of what the nodes announce.

It may be out of date by a heartbeat. Whoever is asked in vain says so, and the table is asked
again.
"""

from __future__ import annotations

from collections.abc import Mapping

from skyring.ring.membership import GONE, Member
from skyring.ring.slots import unpack_slots

__all__ = ["RoutingTable"]


class RoutingTable:
    """Holders by slot.

    Args:
        slots: how many slots there are.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: dict[str, tuple[bytes, frozenset[int]]] = {}
        self._holders: list[list[str]] = [[] for _ in range(slots)]

    def told(self, member: Member) -> bool:
        """A member has announced itself, or has changed; did it begin to hold slots?"""
        return self.told_held(member.name, b"" if member.state in GONE else member.gossip.held)

    def told_held(self, name: str, packed: bytes) -> bool:
        """The slots that a node holds, as by `pack_slots`; did it begin to hold some?"""
        before = self._held.get(name, (b"", frozenset()))
        if before[0] == packed:
            return False
        held = unpack_slots(packed, self._slots)
        self._held[name] = (packed, held)
        for slot in before[1] - held:
            self._holders[slot].remove(name)
        for slot in held - before[1]:
            self._holders[slot].append(name)  # the last one to begin is the most likely
        if not held:
            del self._held[name]
        return bool(held - before[1])

    def holder(self, slot: int) -> str | None:
        """The node that is said to hold a slot."""
        holders = self._holders[slot]
        return holders[-1] if holders else None

    def said_to_hold(self, name: str) -> frozenset[int]:
        """The slots that a node says it holds."""
        held = self._held.get(name)
        return frozenset() if held is None else held[1]

    def by_node(self) -> Mapping[str, list[int]]:
        """Slots by the node that is said to hold them."""
        nodes: dict[str, list[int]] = {}
        for slot, holders in enumerate(self._holders):
            if holders:
                nodes.setdefault(holders[-1], []).append(slot)
        return nodes
