"""Who is in the ring: a pure state machine, after SWIM (Das et al., 2002) and Lifeguard (2018).

    joining ──► alive ◄──► suspect ──► dead
                  │                      ▲
                  └──► leaving ──► left  │ a later incarnation of the same name begins anew

It is fed with what is heard and with the time, and answers what has changed and who is to be asked.
It only proposes: which node may write to a slot is decided by the epoch of the slot's claim.

All times are monotonic milliseconds of this node. Time in which this node itself did not run, or
could hear nobody, counts against no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

__all__ = [
    "Change",
    "ChangeKind",
    "Effects",
    "Gossip",
    "Member",
    "MemberState",
    "Membership",
    "Timing",
]

Announced: TypeAlias = Literal["joining", "alive", "leaving", "left"]
"""What a node says of itself."""
MemberState: TypeAlias = Literal["joining", "alive", "leaving", "left", "suspect", "dead"]
"""What others make of it."""
ChangeKind: TypeAlias = Literal["join", "alive", "leaving", "leave", "suspect", "dead", "restart"]

GONE = frozenset({"left", "dead"})


class Timing(NamedTuple):
    """How long silence is borne, milliseconds."""

    heartbeat_ms: int = 500
    """Between two gossips of a node."""
    suspect_ms: int = 1_500
    """Silence after which a member is asked directly."""
    dead_ms: int = 2_500
    """Silence after which a member that did not answer is taken for dead."""
    forget_ms: int = 3_600_000
    """How long a member that is gone stays known."""


class Gossip(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of itself in each heartbeat."""

    node: str
    incarnation: int
    """Rises with each start of the node."""
    state: Announced
    address: str = ""
    """Base URL of its HTTP API."""
    held: bytes = b""
    """Slots that it holds, as by `skyring.ring.slots.pack_slots`."""
    timers: int = 0
    """Timers that it has in memory."""
    beat: int = 0
    """Rises with each announcement of an incarnation; 0: they are not counted."""


class Member(msgspec.Struct, frozen=True):
    """A node as it is known here."""

    gossip: Gossip
    state: MemberState
    heard_ms: int
    """When it was heard last."""
    asked: bool = False
    """Has it been asked directly since?"""

    @property
    def name(self) -> str:
        return self.gossip.node


class Change(NamedTuple):
    """Something that others want to know."""

    kind: ChangeKind
    member: Member


class Effects(NamedTuple):
    """What follows from an event."""

    changes: Sequence[Change] = ()
    ask: Sequence[str] = ()
    """Names of members to be asked directly, over the bus; tell `Membership.answered`."""


NOTHING = Effects()


class Membership:
    """The members as one node sees them. Its own name is never suspected.

    Args:
        me: the name of this node.
        timing: how long silence is borne.
        now_ms: monotonic milliseconds.
    """

    def __init__(self, me: str, timing: Timing, now_ms: int) -> None:
        self._me = me
        self._timing = timing
        self._members: dict[str, Member] = {}
        self._ticked_ms = now_ms
        self._deaf_since_ms: int | None = None

    def members(self) -> list[Member]:
        """All that are known, by name; those that are gone too."""
        return [self._members[name] for name in sorted(self._members)]

    def get(self, name: str) -> Member | None:
        """A member by its name."""
        return self._members.get(name)

    def owners(self) -> list[str]:
        """Names of those that slots are placed on, sorted.

        A suspect keeps its slots until it is dead; one that is leaving gives them away.
        """
        return [
            member.name
            for member in self.members()
            if member.state in ("alive", "suspect") and member.gossip.state == "alive"
        ]

    # Events

    def heard(self, gossip: Gossip, now_ms: int) -> Effects:
        """A gossip has come, from another node or from this one."""
        known = self._members.get(gossip.node)
        if known is not None and gossip.incarnation < known.gossip.incarnation:
            return NOTHING  # a message that was long on its way
        if (
            known is not None
            and gossip.incarnation == known.gossip.incarnation
            and 0 < gossip.beat <= known.gossip.beat
        ):
            return NOTHING  # it was read again, or came late: no sign of life
        member = Member(gossip, gossip.state, now_ms)
        if known is None:
            return self._set(member, "join") if gossip.state not in GONE else self._set(member)
        if gossip.incarnation > known.gossip.incarnation:
            return self._set(member, "join" if known.state in GONE else "restart")
        if known.state == "left":
            return NOTHING  # it said farewell; what comes now was sent before
        changed = known.state != gossip.state
        return self._set(member, _kind_of(gossip.state) if changed else None)

    def answered(self, name: str, incarnation: int, now_ms: int) -> Effects:
        """A member that was asked directly has answered."""
        known = self._members.get(name)
        if known is None or known.gossip.incarnation != incarnation or known.state in GONE:
            return NOTHING
        back = known.state == "suspect"
        member = replace(known, state=known.gossip.state, heard_ms=now_ms, asked=False)
        return self._set(member, _kind_of(member.state) if back else None)

    def deaf(self, now_ms: int) -> None:
        """The bus is gone: nobody can be heard."""
        if self._deaf_since_ms is None:
            self._deaf_since_ms = now_ms

    def hearing(self, now_ms: int) -> None:
        """The bus is back."""
        if self._deaf_since_ms is not None:
            self._forgive(now_ms - self._deaf_since_ms)
            self._deaf_since_ms = None

    def tick(self, now_ms: int) -> Effects:
        """Time has passed. Call it every ``heartbeat_ms``."""
        if self._deaf_since_ms is not None:
            self._ticked_ms = now_ms
            return NOTHING
        # Whoever has not run for a while would take everybody for dead when it wakes up.
        stalled_ms = now_ms - self._ticked_ms - self._timing.heartbeat_ms
        if stalled_ms > 0:
            self._forgive(stalled_ms)
        self._ticked_ms = now_ms
        changes: list[Change] = []
        ask: list[str] = []
        for member in self.members():
            silent_ms = now_ms - member.heard_ms
            if member.state in GONE:
                if silent_ms > self._timing.forget_ms:
                    del self._members[member.name]
            elif member.name != self._me:
                self._judge(member, silent_ms, changes, ask)
        return Effects(changes, ask)

    # Helpers

    def _judge(self, member: Member, silent_ms: int, changes: list[Change], ask: list[str]) -> None:
        if silent_ms >= self._timing.dead_ms and member.asked:
            changes += self._set(replace(member, state="dead"), "dead").changes
        elif silent_ms >= self._timing.suspect_ms and not member.asked:
            suspect = replace(member, state="suspect", asked=True)
            changes += self._set(suspect, "suspect").changes
            ask.append(member.name)

    def _forgive(self, ms: int) -> None:
        for name, member in self._members.items():
            self._members[name] = replace(member, heard_ms=member.heard_ms + ms)

    def _set(self, member: Member, kind: ChangeKind | None = None) -> Effects:
        self._members[member.name] = member
        return NOTHING if kind is None else Effects([Change(kind, member)])


def _kind_of(state: MemberState) -> ChangeKind:
    return "leave" if state == "left" else "join" if state == "joining" else state
