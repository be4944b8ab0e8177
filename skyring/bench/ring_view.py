"""What ``GET /ring`` of a node says, as the benchmarks read it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

__all__ = ["MemberView", "RingView", "parse_view"]

PRESENT = frozenset({"alive"})


class MemberView(NamedTuple):
    """A member as another node sees it."""

    node: str
    state: str
    slots_held: int
    slots_placed: int
    timers: int
    """Timers that it has in memory, by its own word."""


class RingView(NamedTuple):
    """The ring as one node sees it."""

    node: str
    slots: int
    members: Mapping[str, MemberView]
    holders: tuple[str | None, ...]
    """By slot."""
    epochs: tuple[int | None, ...]
    """By slot; None for those that this node does not hold."""

    def held_by(self, node: str) -> frozenset[int]:
        """The slots that a node is said to hold."""
        return frozenset(slot for slot, holder in enumerate(self.holders) if holder == node)

    def largest(self) -> str:
        """The member that holds most slots; of several the first by name."""
        counted = Counter(holder for holder in self.holders if holder is not None)
        return min(counted, key=lambda node: (-counted[node], node))

    def missing(self, nodes: Collection[str]) -> str | None:
        """What this ring lacks to be whole with exactly these nodes; None if it lacks nothing."""
        alive = {name for name, member in self.members.items() if member.state in PRESENT}
        if alive != set(nodes):
            states = {name: member.state for name, member in self.members.items()}
            return f"{self.node} sees {states}, not {sorted(nodes)} alive"
        if None in self.holders:
            return f"{self.node} sees {self.holders.count(None)} slots that nobody holds"
        for name in sorted(alive):
            member = self.members[name]
            if not member.slots_held == member.slots_placed == len(self.held_by(name)):
                return (
                    f"{self.node} sees {name} hold {member.slots_held} of {member.slots_placed}"
                    " slots"
                )
        return None


def parse_view(document: Mapping[str, Any]) -> RingView:
    """The answer to ``GET /ring``.

    Raises:
        ValueError: it is that of a node that stands alone, or of something else.
    """
    if document.get("mode") != "ring":
        raise ValueError(f"the node is not in a ring, its mode is {document.get('mode')!r}")
    members = [
        MemberView(
            node=item["node"],
            state=item["state"],
            slots_held=item["slots_held"],
            slots_placed=item["slots_placed"],
            timers=item["timers"],
        )
        for item in document["members"]
    ]
    details = sorted(document["slots_detail"], key=lambda item: item["slot"])
    return RingView(
        node=document["node"],
        slots=document["slots"],
        members={member.node: member for member in members},
        holders=tuple(item["holder"] for item in details),
        epochs=tuple(item["epoch"] for item in details),
    )
