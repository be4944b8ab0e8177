"""What one node says of itself, and the lease that it has for it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from skyring.clock import Clock
from skyring.errors import RingError, Unavailable, Uncertain
from skyring.ring.bus import Bus, NobodyThere
from skyring.ring.host import SlotHost
from skyring.ring.lease import Lease, waited_out_ms
from skyring.ring.membership import Announced, Gossip
from skyring.ring.messages import (
    WIRE_VERSION,
    Garbled,
    ProbeQuestion,
    decode_probe_answer,
    encode,
    other_version,
)
from skyring.ring.observer import Observer, Spawn
from skyring.ring.slots import pack_slots
from skyring.tasks import wait_for_event

__all__ = ["Presence"]

logger = logging.getLogger(__name__)

BEAT_S_MIN = 0.02
"""Between two heartbeats that something new has caused."""
BEATS_MAX = 12
"""Heartbeats whose acknowledgement is waited for."""
ANNOUNCE_PAUSE_S = 0.2


class Presence:
    """Announces this node, and renews its lease.

    Args:
        me: name of this node.
        address: URL of its API.
        heartbeat_ms: pause between two announcements.
        lease_ms: how long the lease lasts.
        bus: where it is announced.
        host: whose slots are named.
        observer: is told first.
        clock: for waits, and for the incarnation.
        spawn: begins tasks.
    """

    def __init__(
        self,
        me: str,
        address: str,
        heartbeat_ms: int,
        lease_ms: int,
        bus: Bus,
        host: SlotHost,
        observer: Observer,
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        self._me = me
        self.address = address
        self._heartbeat_ms = heartbeat_ms
        self._lease_ms = lease_ms
        self._bus = bus
        self._host = host
        self._observer = observer
        self._clock = clock
        self._spawn = spawn
        self._under_way = 0
        self._beat_number = 0
        self.lease = Lease(lease_ms)
        self.state: Announced | None = None
        """What this node says of itself; None before it has joined."""
        self.joining = "the ring is being joined"
        """Why it has not joined yet."""
        self.incarnation = 0
        self.beat = asyncio.Event()
        """Set when there is something new to be said."""

    async def take_name(self) -> None:
        """Make sure that no other node of this name lives, and none that cannot be understood.

        Raises:
            RingError: one does.
            Unavailable: it cannot be told now.
        """
        await self._refuse_other_versions()
        announced = await self._observer.read_announcements()
        mine = [item for item in announced if item.node == self._me]
        last = max((item.incarnation for item in mine), default=0)
        try:
            data = await self._bus.ask(self._me, encode(ProbeQuestion()), self._heartbeat_ms)
            decode_probe_answer(data)
        except NobodyThere:
            if any(item.state != "left" and item.held for item in mine):
                # It was killed, or it is cut off and may act until its lease is over.
                logger.info("waiting for the lease of the last %s to be over", self._me)
                await self._wait_out()
        except (Uncertain, Garbled):
            # It is there and silent. When its lease is over it can do no harm any more.
            logger.warning("a node with the name %s does not answer; waiting", self._me)
            await self._wait_out()
        else:
            raise RingError(
                f"a node with the name {self._me} is in the ring already; give this one another"
                " (--node)"
            )
        self.incarnation = max(self._clock.now_ms(), last + 1)

    async def _refuse_other_versions(self) -> None:
        """Nodes that do not understand each other would not share slots, but fight for them."""
        kept = set(await self._bus.announcements())
        if all(other_version(message) is None for message in kept):
            return
        logger.info("a node with another version was in the ring; is it still?")
        await self._wait_out()
        for message in await self._bus.announcements():
            version = other_version(message)
            if version is not None and message not in kept:
                raise RingError(
                    f"nodes with version {version} of the wire format are in the ring, this program"
                    f" has version {WIRE_VERSION}: stop all of them before the first of the others"
                    " is started"
                )

    def cannot_join(self, error: Unavailable) -> None:
        """It is tried again and again; said once, as long as the reason stays the same."""
        reason = f"the ring cannot be joined yet: {error}"
        if reason != self.joining:
            logger.warning("%s", reason)
        self.joining = reason

    def not_ready(self) -> str | None:
        """Why this node should get no requests now."""
        if not self._bus.is_up:
            return ": ".join(filter(None, ("no connection to NATS", self._bus.down_reason)))
        if self.state is None:
            return self.joining
        if self.state != "alive":
            return f"this node is {self.state}"
        return None if self.may_act() else "the lease has lapsed"

    async def _wait_out(self) -> None:
        await asyncio.sleep(waited_out_ms(self._lease_ms) / 1000)

    def change(self, state: Announced) -> None:
        """Say something else from now on."""
        self.state = state
        self.beat.set()

    async def announce_until_taken(self) -> None:
        """Say it until it is acknowledged."""
        while True:
            with suppress(Unavailable):
                await self.announce()
                return
            await asyncio.sleep(ANNOUNCE_PAUSE_S)

    async def heartbeats(self) -> None:
        """Announce this node again and again."""
        while True:
            self.beat.clear()
            # Each waits for its own acknowledgement: a slow one must not hold up the next.
            if self._bus.is_up and self._under_way < BEATS_MAX:
                self._under_way += 1
                self._spawn(self._one_beat())
            await asyncio.sleep(BEAT_S_MIN)
            await wait_for_event(self.beat, self._heartbeat_ms / 1000 - BEAT_S_MIN)

    async def announce(self) -> None:
        """Say what is so now; when it returns the lease is renewed. Raises Unavailable."""
        assert self.state is not None, "it has a state before it says so"
        self.check_lease()
        sent_ms = self._clock.monotonic_ms()
        self._beat_number += 1
        gossip = Gossip(
            self._me,
            self.incarnation,
            self.state,
            self.address,
            pack_slots(self._host.held()),
            self._host.timers(),
            self._beat_number,
        )
        self._observer.hear(gossip)
        await self._bus.announce(encode(gossip), self._lease_ms)
        self.check_lease()
        self.lease.renewed(sent_ms, self._clock.monotonic_ms())

    def check_lease(self) -> None:
        """Once the lease has lapsed, the slots are dropped before anything else is done.

        While the bus is down nobody can tell whether others took them, and they can still be read.
        """
        if self.lease.has_lapsed(self._clock.monotonic_ms()) and self._bus.is_up:
            held = frozenset(self._host.held())
            if held:
                logger.warning("the lease has lapsed; %d slots are dropped", len(held))
            self._host.drop(held)  # what is being claimed as well
            self.lease.end()

    def may_act(self) -> bool:
        """Does the lease hold?"""
        return self.lease.holds(self._clock.monotonic_ms())

    async def _one_beat(self) -> None:
        try:
            await self.announce()
        except Unavailable as error:
            logger.debug("a heartbeat is not acknowledged: %s", error)
        finally:
            self._under_way -= 1
