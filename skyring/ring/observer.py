"""What one node makes of what the others announce: who is there, who holds what, who owns what."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

from skyring.clock import Clock
from skyring.errors import Unavailable
from skyring.ring.bus import Bus
from skyring.ring.lease import waited_out_ms
from skyring.ring.membership import Effects, Gossip, Membership, Timing
from skyring.ring.messages import Garbled, ProbeQuestion, decode_gossip, decode_probe_answer, encode
from skyring.ring.ownership import Holder
from skyring.ring.placement import place
from skyring.ring.routing import RoutingTable
from skyring.ring.slots import unpack_slots

__all__ = ["EmitEvent", "Observer", "Spawn"]

logger = logging.getLogger(__name__)

EmitEvent: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Publishes an event: its kind, and what it says."""
Spawn: TypeAlias = Callable[[Awaitable[None]], bool]
"""Begins a task that belongs to the ring; False if the ring does not run (any more)."""

NODE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ADDRESS_CHARS_MAX = 500


class Observer:
    """Membership, routing table and placement, kept up to date.

    Args:
        me: name of this node.
        slots: how many slots there are.
        timing: how long silence is borne.
        lease_ms: how long the others' leases last.
        bus: where they are heard.
        clock: for waits.
        spawn: begins tasks.
        emit: publishes events.
        changed: called when a slot may have a new owner or a new holder.
        gone: called with the name of a member that answers nothing any more.
    """

    def __init__(
        self,
        me: str,
        slots: int,
        timing: Timing,
        lease_ms: int,
        bus: Bus,
        clock: Clock,
        spawn: Spawn,
        emit: EmitEvent,
        changed: Callable[[], None],
        gone: Callable[[str], None],
    ) -> None:
        self._me = me
        self._slots = slots
        self._timing = timing
        self._lease_ms = waited_out_ms(lease_ms)
        self._bus = bus
        self._clock = clock
        self._spawn = spawn
        self._emit = emit
        self._changed = changed
        self._gone = gone
        self.membership = Membership(me, timing, self._clock.monotonic_ms())
        self.table = RoutingTable(slots)
        self.placement = place((), slots)
        self._claims: dict[int, tuple[str, int]] = {}
        self.garbled = 0
        """Messages that could not be read."""

    def hear(self, gossip: Gossip) -> frozenset[int]:
        """A node has said this of itself. If it is leaving: the slots that it holds no more."""
        held = self.table.said_to_hold(gossip.node)
        effects = self.membership.heard(gossip, self._clock.monotonic_ms())
        member = self.membership.get(gossip.node)
        has_more = member is not None and self.table.told(member)
        self.apply(effects)
        if has_more:
            self._changed()
        if gossip.state not in ("leaving", "left"):
            return frozenset()
        return held - self.table.said_to_hold(gossip.node)

    def holds(self, held: bytes) -> None:
        """The slots that this node itself holds, as by `pack_slots`."""
        if self.table.told_held(self._me, held):
            self._changed()

    def tick(self) -> None:
        """Time has passed."""
        self.apply(self.membership.tick(self._clock.monotonic_ms()))

    def apply(self, effects: Effects) -> None:
        """Do what has followed from an event of the membership."""
        for kind, member in effects.changes:
            logger.info("%s: %s", member.name, kind)
            self._emit(kind, {"member": member.name, "address": member.gossip.address})
            self.table.told(member)
            if kind in ("dead", "leave", "restart"):
                self._gone(member.name)
        for name in effects.ask:
            self._spawn(self._probe(name))
        if effects.changes:
            self.placement = place(self.membership.owners(), self._slots)
            self._changed()

    def holders(self) -> dict[int, list[Holder]]:
        """Others that say that they hold slots, and how long their word counts."""
        holders: dict[int, list[Holder]] = {}
        for member in self.membership.members():
            if member.name == self._me or member.state == "left":
                continue
            until_ms = member.heard_ms + self._lease_ms
            holder = Holder(member.name, until_ms, member.state != "dead")
            # The table forgets the slots of the dead; their leases go on all the same.
            for slot in unpack_slots(member.gossip.held, self._slots):
                holders.setdefault(slot, []).append(holder)
        return holders

    def claimed(self, slot: int, node: str) -> None:
        """A node has claimed a slot: that was read in its log just now."""
        self._claims[slot] = node, self._clock.monotonic_ms()

    def claimants(self) -> dict[int, Holder]:
        """Others that have claimed slots, and until when they may act on that and be silent.

        A node has to know of its claim within a lease, and its lease then ends after another one.
        What was read of it earlier may have been told meanwhile, or is not so any more.
        """
        now_ms = self._clock.monotonic_ms()
        claimants: dict[int, Holder] = {}
        for slot, (node, read_ms) in list(self._claims.items()):
            until_ms = read_ms + 2 * self._lease_ms
            member = self.membership.get(node)
            if now_ms >= until_ms:
                del self._claims[slot]
            elif node != self._me and member is not None and member.state != "left":
                is_dead = member.state == "dead"
                if is_dead:
                    until_ms = min(until_ms, member.heard_ms + self._lease_ms)
                claimants[slot] = Holder(node, until_ms, not is_dead)
        return claimants

    def was_claimed(self, slots: Iterable[int]) -> bool:
        """Has another node claimed one of these lately, whether it lives or not?"""
        claims = (self._claims.get(slot) for slot in slots)
        return any(claim is not None and claim[0] != self._me for claim in claims)

    async def read_announcements(self) -> list[Gossip]:
        """The last word of each node: whoever held slots may still have its lease.

        Raises:
            Unavailable: they cannot be read now.
        """
        found = [self.read(data) for data in await self._bus.announcements()]
        gossips = [gossip for gossip in found if gossip is not None]
        for gossip in gossips:
            if gossip.node != self._me:
                self.hear(gossip)
        return gossips

    def read(self, announcement: bytes) -> Gossip | None:
        """What an announcement says; None, and counted, if it cannot be read."""
        try:
            gossip = decode_gossip(announcement)
            if (
                NODE_NAME.fullmatch(gossip.node) is None
                or len(gossip.address) > ADDRESS_CHARS_MAX
                or len(gossip.held) > (self._slots + 7) // 8
            ):
                raise Garbled("an announcement says what no node would")
        except Garbled as error:
            self.note_garbled(error)
            return None
        return gossip

    def note_garbled(self, error: Garbled) -> None:
        """A message could not be read."""
        self.garbled += 1
        if self.garbled == 1:
            logger.warning("a message is dropped: %s (further ones are only counted)", error)

    async def _probe(self, name: str) -> None:
        timeout_ms = self._timing.dead_ms - self._timing.suspect_ms
        try:
            data = await self._bus.ask(name, encode(ProbeQuestion()), timeout_ms)
            incarnation = decode_probe_answer(data).incarnation
        except (Unavailable, Garbled) as error:
            logger.debug("%s does not answer: %s", name, error)
        else:
            self.apply(self.membership.answered(name, incarnation, self._clock.monotonic_ms()))
