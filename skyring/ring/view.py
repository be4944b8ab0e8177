"""The ring as one node sees it, as ``GET /ring`` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from skyring.ring.host import SlotHost
from skyring.ring.membership import MemberState
from skyring.ring.observer import Observer
from skyring.ring.ownership import Ownership
from skyring.ring.presence import Presence

__all__ = ["Standing", "standing_of", "view_of"]


class Standing(NamedTuple):
    """The same in a few numbers, for the metrics."""

    slots_held: int
    slots_without_holder: int
    members: Mapping[MemberState, int]
    """How many of each state; all states are there."""
    lease_ms: int
    """What is left of the lease of this node."""
    is_connected: bool


def standing_of(
    presence: Presence, observer: Observer, host: SlotHost, is_up: bool, now_ms: int
) -> Standing:
    """How this node stands, as it sees it. The work is bounded by slots and members."""
    states = Counter(member.state for member in observer.membership.members())
    holders = map(observer.table.holder, range(len(observer.placement)))
    return Standing(
        slots_held=len(host.held()),
        slots_without_holder=sum(holder is None for holder in holders),
        members={state: states[state] for state in get_args(MemberState)},
        lease_ms=presence.lease.left_ms(now_ms),
        is_connected=is_up,
    )


def view_of(
    me: str,
    presence: Presence,
    observer: Observer,
    ownership: Ownership,
    host: SlotHost,
    is_up: bool,
    now_ms: int,
) -> dict[str, Any]:
    """Members, slots, and how this node stands."""
    held = host.held()
    table = observer.table
    placed = Counter(observer.placement)
    members = [
        {
            "node": member.name,
            "state": member.state,
            "address": member.gossip.address,
            "incarnation": member.gossip.incarnation,
            "slots_held": len(table.said_to_hold(member.name)),
            "slots_placed": placed[member.name],
            "timers": member.gossip.timers,
            "silent_ms": 0 if member.name == me else max(0, now_ms - member.heard_ms),
            "is_self": member.name == me,
        }
        for member in observer.membership.members()
    ]
    slots = [
        {
            "slot": slot,
            "owner": owner,
            "holder": table.holder(slot),
            "epoch": host.epoch(slot) or None,
            "lag": 0 if slot in held else None,
            "phase": ownership.phase(slot),
        }
        for slot, owner in enumerate(observer.placement)
    ]
    return {
        "node": me,
        "state": presence.state,
        "connected": is_up,
        "lease_ms": presence.lease.left_ms(now_ms),
        "garbled": observer.garbled,
        "members": members,
        "slots_detail": slots,
        "unheld": [item["slot"] for item in slots if item["holder"] is None],
    }
