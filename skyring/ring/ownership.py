"""Which slots this node is to take, and when it may: a pure state machine.

    idle ──► following ──► ready ──► asking ──► released ──► claiming ──► held
                             │                                   ▲
                             └── no holder, or its lease is over ┘

A slot is moved by its new owner. It reads the log while the old holder still serves, asks that one
to release, and claims. Who stands in the log as the last to have claimed it is asked as well, for
it may not have said so yet. A holder that does not answer is waited out for its lease, measured
from when it was last heard, and then overtaken; the claim's epoch fences it. A slot that is held
and placed elsewhere is served until its new owner asks for it.

All times are monotonic milliseconds of this node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from skyring.ring.placement import Placement

__all__ = ["Holder", "Ownership", "Steps"]

Phase: TypeAlias = Literal["idle", "following", "ready", "asking", "released", "claiming", "held"]


class Holder(NamedTuple):
    """Another node that says that it holds a slot."""

    name: str
    lease_until_ms: int
    """From then on it can no longer act on its claim."""
    is_listening: bool
    """Is there anybody to be asked?"""


class Steps(NamedTuple):
    """What is to be done now; each ends with a call of the event that it names."""

    follow: frozenset[int] = frozenset()
    """Read the logs of these slots: `followed`."""
    ask: Mapping[str, frozenset[int]] = {}
    """Ask these nodes to release these slots: `released` or `refused`."""
    claim: frozenset[int] = frozenset()
    """Claim these slots, which were released: `claimed` or `lost`."""
    overtake: frozenset[int] = frozenset()
    """Claim these slots, which nobody is known to hold any more, after a last look."""


class Ownership:
    """The slots as one node has them.

    Args:
        me: the name of this node.
        slots: how many slots there are.
        moves_max: slots that are taken from living holders at once. Each is without one meanwhile.
        ask_again_ms: pause before a holder that has refused is asked again.
        grace_ms: how long a slot that is new here, and that nobody is known to hold, is left alone:
            another node may be claiming it in this moment.
    """

    def __init__(
        self, me: str, slots: int, moves_max: int, ask_again_ms: int, grace_ms: int = 0
    ) -> None:
        self._me = me
        self._moves_max = moves_max
        self._ask_again_ms = ask_again_ms
        self._grace_ms = grace_ms
        self._left_alone_until_ms = [0] * slots
        self._released_by: list[frozenset[str]] = [frozenset()] * slots
        self._phases: list[Phase] = ["idle"] * slots
        self._not_before_ms = [0] * slots
        self._placement: Placement = (None,) * slots

    def phase(self, slot: int) -> Phase:
        """How far a slot has come on its way to this node."""
        return self._phases[slot]

    def held(self) -> frozenset[int]:
        """The slots that this node holds."""
        return frozenset(slot for slot, phase in enumerate(self._phases) if phase == "held")

    def missing(self) -> frozenset[int]:
        """The slots that are placed here and not held yet."""
        return frozenset(
            slot
            for slot, owner in enumerate(self._placement)
            if owner == self._me and self._phases[slot] != "held"
        )

    # Events

    def placed(self, placement: Placement, now_ms: int) -> None:
        """The members have changed. What is on its way here and placed elsewhere now is let go."""
        before, self._placement = self._placement, placement
        for slot, owner in enumerate(placement):
            if owner == self._me != before[slot]:
                self._left_alone_until_ms[slot] = now_ms + self._grace_ms
            if owner != self._me and self._phases[slot] in (
                "following",
                "ready",
                "asking",
                "released",
            ):
                self._phases[slot] = "idle"
                self._released_by[slot] = frozenset()

    def followed(self, slots: Iterable[int]) -> None:
        """The logs of these slots have been read up to their ends."""
        self._move(slots, "following", "ready")

    def not_followed(self, slots: Iterable[int], now_ms: int) -> None:
        """The logs could not be read."""
        self._put_off(slots, "following", "idle", now_ms)

    def released(self, slots: Iterable[int], by: str) -> None:
        """This node does not act for them any more: if nobody else may, they can be claimed."""
        for slot in slots:
            if self._phases[slot] == "asking":
                self._phases[slot] = "released"
                self._released_by[slot] |= {by}

    def left(self, slots: Iterable[int]) -> None:
        """A node that is leaving says that it holds these no more: they need not be left alone.

        It may still be finishing what it has accepted. Who asks it is answered after that, or by
        nobody when it has left.
        """
        for slot in slots:
            self._left_alone_until_ms[slot] = 0

    def refused(self, slots: Iterable[int], now_ms: int) -> None:
        """The holder has not answered, or will not release them now."""
        self._put_off(slots, "asking", "ready", now_ms)

    def claimed(self, slots: Iterable[int]) -> None:
        """The claims of these slots are in their logs."""
        self._move(slots, "claiming", "held")

    def lost(self, slots: Iterable[int], now_ms: int) -> None:
        """They are not held (any more): released, fenced, or not claimed."""
        for slot in slots:
            self._phases[slot] = "idle"
            self._released_by[slot] = frozenset()
            self._not_before_ms[slot] = now_ms + self._ask_again_ms

    def taken(
        self,
        slots: Iterable[int],
        holders: Mapping[int, Sequence[Holder]],
        claimants: Mapping[int, Holder],
        now_ms: int,
    ) -> frozenset[int]:
        """Those of these slots for which others may act, but for those that have released them.

        Args:
            slots: that are to be claimed.
            holders: see `step`.
            claimants: see `step`.
            now_ms: now.
        """
        return frozenset(slot for slot in slots if self._others(slot, holders, claimants, now_ms))

    def _others(
        self,
        slot: int,
        holders: Mapping[int, Sequence[Holder]],
        claimants: Mapping[int, Holder],
        now_ms: int,
    ) -> list[Holder]:
        return [
            other
            for other in (*holders.get(slot, ()), *([claimants[slot]] if slot in claimants else ()))
            if other.name not in self._released_by[slot] and now_ms < other.lease_until_ms
        ]

    def step(
        self,
        holders: Mapping[int, Sequence[Holder]],
        claimants: Mapping[int, Holder],
        now_ms: int,
    ) -> Steps:
        """What is to be done now.

        Args:
            holders: all other nodes that say that they hold slots, by the number of the slot. It
                may be several, of which one does not know yet that another has claimed it.
            claimants: other nodes that have claimed slots, as the logs say, and have perhaps not
                said so yet.
            now_ms: now.
        """
        follow: set[int] = set()
        ask: dict[str, set[int]] = {}
        claim: set[int] = set()
        overtake: set[int] = set()
        moving = sum(phase in ("asking", "released", "claiming") for phase in self._phases)
        for slot, phase in enumerate(self._phases):
            if self._placement[slot] != self._me or now_ms < self._not_before_ms[slot]:
                continue
            if phase == "idle":
                # All together: who reads the logs of many slots reads them in one go.
                self._phases[slot] = "following"
                follow.add(slot)
            if phase not in ("released", "ready"):
                continue
            others = self._others(slot, holders, claimants, now_ms)
            if phase == "released" and not others:
                self._phases[slot] = "claiming"
                claim.add(slot)
            elif phase == "released":  # there is one more to be asked
                moving -= 1
                phase = self._phases[slot] = "ready"
            if phase == "ready":
                listening = [other.name for other in others if other.is_listening]
                may_overtake = slot in holders or now_ms >= self._left_alone_until_ms[slot]
                if not others and may_overtake:
                    self._phases[slot] = "claiming"
                    overtake.add(slot)
                elif listening and moving < self._moves_max:
                    moving += 1
                    self._phases[slot] = "asking"
                    ask.setdefault(listening[0], set()).add(slot)
        return Steps(
            frozenset(follow),
            {name: frozenset(asked) for name, asked in ask.items()},
            frozenset(claim),
            frozenset(overtake),
        )

    def _move(self, slots: Iterable[int], before: Phase, after: Phase) -> None:
        for slot in slots:
            if self._phases[slot] == before:
                self._phases[slot] = after

    def _put_off(self, slots: Iterable[int], before: Phase, after: Phase, now_ms: int) -> None:
        for slot in slots:
            if self._phases[slot] == before:
                self._phases[slot] = after
                self._not_before_ms[slot] = now_ms + self._ask_again_ms
