"""A node as a member of the ring: it joins, takes its slots, serves the others, and leaves.

What is to be done is decided by pure machines (`Membership`, `Ownership`, `Lease`, `RoutingTable`);
here and in the modules beside it is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from skyring.clock import Clock
from skyring.errors import RingError, Unavailable
from skyring.ring.answering import Answering, ExecuteMany
from skyring.ring.bus import Answer, Bus
from skyring.ring.contest import Contest
from skyring.ring.host import SlotHost
from skyring.ring.lease import waited_out_ms
from skyring.ring.membership import Timing
from skyring.ring.mover import Mover
from skyring.ring.observer import EmitEvent, Observer
from skyring.ring.ownership import Ownership
from skyring.ring.presence import Presence
from skyring.ring.router import Execute, Router, RouterLimits
from skyring.ring.slots import pack_slots
from skyring.ring.standby import Standby
from skyring.ring.view import view_of
from skyring.tasks import wait_for_event

__all__ = ["MemberSettings", "RingMember"]

logger = logging.getLogger(__name__)

TICKS = 5
"""Looks at what time has brought, for each heartbeat; two a second at least."""
JOIN_PAUSE_S = 0.5
MOVE_ASK_TIMEOUT_MS = 3_000
FAREWELL_S = 2.0  # for the last questions to be answered
RELEASE_S = 3.0  # for the storage to finish what is under way when this node leaves


class MemberSettings(NamedTuple):
    """What a member has to know."""

    node: str
    address: str
    slots: int
    timing: Timing
    lease_ms: int
    moves_max: int
    standby_ms: int
    router: RouterLimits


class RingMember:
    """One node's part in the ring. It implements `skyring.ring.bus.Listener`.

    Args:
        settings: who it is, and bounds.
        bus: the way to the others.
        host: who keeps the slots.
        execute: carries out an operation on slots that are held here.
        execute_many: the same for several that another node has sent.
        clock: what time it is.
        emit: publishes events.
    """

    def __init__(
        self,
        settings: MemberSettings,
        bus: Bus,
        host: SlotHost,
        execute: Execute,
        execute_many: ExecuteMany,
        clock: Clock,
        emit: EmitEvent,
    ) -> None:
        me, slots, timing = settings.node, settings.slots, settings.timing
        self._me = me
        self._bus = bus
        self._host = host
        self._clock = clock
        self._emit = emit
        self._standby_ms = settings.standby_ms
        self._is_settled = False
        self._is_informed = False
        """Is it known who is there? Not just after a connection was made."""
        self._tick_s = min(0.5, timing.heartbeat_ms / 1_000 / TICKS)
        self._group: asyncio.TaskGroup | None = None
        self._up = asyncio.Event()
        self._empty = asyncio.Event()
        self._failure: asyncio.Future[None] | None = None
        self.observer = Observer(
            me,
            slots,
            timing,
            settings.lease_ms,
            bus,
            clock,
            self._spawn,
            emit,
            self._on_change,
            lambda name: self.router.gone(name),
        )
        self.presence = Presence(
            me,
            settings.address,
            timing.heartbeat_ms,
            settings.lease_ms,
            bus,
            host,
            self.observer,
            clock,
            self._spawn,
        )
        self._contest = Contest(host, self._spawn)
        self.ownership = Ownership(
            me,
            slots,
            settings.moves_max,
            ask_again_ms=timing.heartbeat_ms // 2,
            # Its last claims may not have been announced: so its lease is waited out in any case.
            grace_ms=max(timing.heartbeat_ms, waited_out_ms(settings.lease_ms) - timing.dead_ms),
        )
        self._mover = Mover(
            me,
            slots,
            self.ownership,
            host,
            bus,
            self.observer,
            self._spawn,
            clock,
            self._on_claimed,
            MOVE_ASK_TIMEOUT_MS,
        )
        self.router = Router(
            me,
            bus,
            self.observer.table,
            self.is_here,
            execute,
            self._spawn,
            clock,
            settings.router,
            lambda: self.presence.incarnation,
        )
        self._answering = Answering(
            host,
            execute_many,
            slots,
            lambda: self.presence.incarnation,
            lambda: bus.payload_bytes_max,
            self._on_released,
            lambda slot: self.ownership.phase(slot) == "claiming",
            self._spawn,
            self.observer.note_garbled,
        )

    # What others want to know

    def may_act(self) -> bool:
        """Does the lease hold? Without it nothing is delivered and nothing written."""
        return self.presence.may_act()

    def may_read(self) -> bool:
        """May what is held be read?

        While NATS is away also without the lease: it may be out of date, but nobody knows better.
        """
        return self.presence.may_act() or not self._bus.is_up

    def is_here(self, slot: int) -> bool:
        """Does this node hold a slot, and may it act?"""
        return slot in self._host.held() and self.presence.may_act()

    def not_ready(self) -> str | None:
        """Why this node should get no requests now."""
        reason = self.presence.not_ready()
        if reason is None and not self._is_settled:
            reason = "this node is taking its slots"
        return reason

    def view(self) -> dict[str, Any]:
        """The ring as this node sees it, for ``GET /ring``."""
        return view_of(
            self._me,
            self.presence,
            self.observer,
            self.ownership,
            self._host,
            self._bus.is_up,
            self._clock.monotonic_ms(),
        )

    # Life

    async def run(self) -> None:
        """Join, and be a member until cancelled.

        Raises:
            RingError: the ring does not take this node, or not any more.
            StorageError: what this node keeps does not belong to the ring.
        """
        self._failure = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(_raise(self._failure), name="ring-failure")
            await self._join()
            group.create_task(self.presence.heartbeats(), name="ring-heartbeats")
            group.create_task(self._ticks(), name="ring-ticks")
            if self._standby_ms:
                group.create_task(self._standby().run(), name="ring-standby")

    async def leave(self, timeout_s: float) -> None:
        """Give all slots to the others, and say farewell.

        Args:
            timeout_s: for that, and for deliveries under way; then they are let go as they are.
        """
        if self.presence.state in (None, "left"):
            return
        self.presence.change("leaving")
        end_s = asyncio.get_running_loop().time() + timeout_s
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end_s):
                while self._host.held() and self._bus.is_up and self.observer.membership.owners():
                    self._empty.clear()
                    await wait_for_event(self._empty, self._tick_s)
        left_s = end_s - asyncio.get_running_loop().time() if self._bus.is_up else 0.0
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_S + left_s):
                await self._mover.idle()
                self._forget(await self._host.release(list(self._host.held()), left_s))
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(FAREWELL_S):
                # A question that comes to nobody is asked again; one that is lost is a riddle.
                await self._bus.drain()
                await self._answering.idle()
        self.presence.change("left")
        with suppress(Unavailable):
            await self.presence.announce()

    async def _join(self) -> None:
        while True:
            await self._up.wait()
            try:
                await self._host.verify()
                await self.presence.take_name()
                self._is_informed = True
                break
            except Unavailable as error:
                self.presence.cannot_join(error)
                await asyncio.sleep(JOIN_PAUSE_S)
        self._bus.serve()
        self.presence.state = "joining"
        await self.presence.announce_until_taken()
        self._spawn(self._host.inform())
        if self.presence.state == "joining":  # or it is leaving already
            self.presence.change("alive")
            logger.info("%s has joined the ring", self._me)

    async def _ticks(self) -> None:
        while True:
            self.presence.check_lease()
            self.observer.tick()
            if self.presence.state == "alive" and self._is_informed and self.may_act():
                if self.ownership.missing():
                    self._mover.step()
                else:
                    self._is_settled = self._me in self.observer.membership.owners()
            await wait_for_event(self._mover.wake, self._tick_s)
            self._mover.wake.clear()

    def _standby(self) -> Standby:
        return Standby(
            self._me,
            len(self.observer.placement),
            self._host,
            self.ownership,
            self.observer.membership.owners,
            lambda: self._is_settled and self._is_informed and self._bus.is_up,
            self._standby_ms,
        )

    # What the bus tells

    def heard(self, announcement: bytes) -> None:
        """A node has announced itself."""
        gossip = self.observer.read(announcement)
        if gossip is None:
            return
        if gossip.node != self._me:
            self.ownership.left(self.observer.hear(gossip))
            held = self.observer.table.said_to_hold(gossip.node)
            self._contest.heard(held, self._clock.monotonic_ms())
        elif self._needs_name() and gossip.incarnation > self.presence.incarnation:
            self._fail(RingError(f"another node with the name {self._me} has joined the ring"))

    def _needs_name(self) -> bool:
        """Who has given everything away has no part in the ring any more."""
        return self.presence.state in ("joining", "alive") or bool(self._host.held())

    def asked(self, question: bytes, answer: Answer) -> None:
        """Another node asks this one."""
        self._answering.take(question, answer)

    def connected(self) -> None:
        """The bus is up."""
        self.presence.check_lease()  # before anything is heard that counts on it
        self._is_informed = False
        self.observer.membership.hearing(self._clock.monotonic_ms())
        self._up.set()
        if self.presence.state is not None:
            self._spawn(self._reconnected())

    def disconnected(self, reason: str) -> None:
        """The bus is down."""
        self._up.clear()
        self._is_informed = False
        self.observer.membership.deaf(self._clock.monotonic_ms())

    async def _reconnected(self) -> None:
        while self._bus.is_up:
            try:
                await self._host.verify()
                await self.observer.read_announcements()
            except Unavailable as error:
                logger.debug("after the connection was made anew: %s", error)
                await asyncio.sleep(JOIN_PAUSE_S)
            else:
                self._is_informed = self._bus.is_up
                self._spawn(self._host.inform())
                break
        self.presence.beat.set()
        self._mover.wake.set()

    # Slots that come and go

    def slots_lost(self, slots: Iterable[int]) -> None:
        """Slots are not held any more: others have claimed them, or the lease has lapsed."""
        lost = frozenset(slots)
        self._emit("lost", {"slots": sorted(lost)})
        self._forget(lost)

    def _on_change(self) -> None:
        """A slot may have a new owner, or a new holder."""
        self.ownership.placed(self.observer.placement, self._clock.monotonic_ms())
        self._mover.wake.set()
        self.router.changed()

    def _on_claimed(self, slots: frozenset[int]) -> None:
        self._contest.claimed(slots, self._clock.monotonic_ms())
        self._emit("claim", {"slots": sorted(slots)})
        self._tell_held()

    def _on_released(self, slots: frozenset[int], to: str) -> None:
        self._emit("release", {"slots": sorted(slots), "to": to})
        self._forget(slots)

    def _forget(self, slots: frozenset[int]) -> None:
        self.ownership.lost(slots, self._clock.monotonic_ms())
        self._contest.forget(slots)
        self._tell_held()
        self._mover.wake.set()
        if not self._host.held():
            self._empty.set()

    def _tell_held(self) -> None:
        """What this node holds has changed: its own requests know at once, the others soon."""
        self.observer.holds(pack_slots(self._host.held()))
        self.presence.beat.set()

    def _spawn(self, work: Awaitable[None]) -> bool:
        """Begin a task that belongs to the ring; False if the ring does not run (any more)."""
        assert isinstance(work, Coroutine)
        try:
            if self._group is None:
                raise RuntimeError("the ring does not run yet")
            self._group.create_task(work)
        except RuntimeError:
            work.close()
            return False
        return True

    def _fail(self, error: Exception) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)


async def _raise(failure: asyncio.Future[None]) -> None:
    await failure
