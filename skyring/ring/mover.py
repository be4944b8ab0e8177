"""Carries out what `Ownership` decides: follows, asks, claims."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skyring.clock import Clock
from skyring.errors import TooLarge, Unavailable
from skyring.ring.bus import Bus
from skyring.ring.host import SlotHost
from skyring.ring.messages import Garbled, ReleaseQuestion, decode_release_answer, encode
from skyring.ring.observer import Observer, Spawn
from skyring.ring.ownership import Ownership
from skyring.ring.slots import pack_slots, unpack_slots

__all__ = ["Mover"]

logger = logging.getLogger(__name__)


class Mover:
    """Brings slots to this node.

    Args:
        me: name of this node.
        slots: how many slots there are.
        ownership: decides.
        host: who keeps the slots.
        bus: the way to their holders.
        observer: knows who holds what.
        spawn: begins a task that belongs to the ring.
        clock: for waits.
        changed: called when slots were claimed.
        ask_timeout_ms: how long a holder is waited for.
    """

    def __init__(
        self,
        me: str,
        slots: int,
        ownership: Ownership,
        host: SlotHost,
        bus: Bus,
        observer: Observer,
        spawn: Spawn,
        clock: Clock,
        changed: Callable[[frozenset[int]], None],
        ask_timeout_ms: int,
    ) -> None:
        self._me = me
        self._slots = slots
        self._ownership = ownership
        self._host = host
        self._bus = bus
        self._observer = observer
        self._spawn = spawn
        self._clock = clock
        self._changed = changed
        self._ask_timeout_ms = ask_timeout_ms
        self._claims = 0
        self._no_claims = asyncio.Event()
        self._no_claims.set()
        self.wake = asyncio.Event()
        """Set when there may be a next step."""

    def step(self) -> None:
        """Begin what is to be done now."""
        holders, claimants = self._observer.holders(), self._observer.claimants()
        steps = self._ownership.step(holders, claimants, self._clock.monotonic_ms())
        if steps.follow:
            self._spawn(self._follow(steps.follow))
        for node, slots in steps.ask.items():
            self._spawn(self._ask(node, slots))
        if steps.claim:
            self._spawn(self._claim(steps.claim, self._observer.was_claimed(steps.claim)))
        if steps.overtake:
            self._spawn(self._claim(steps.overtake, has_doubt=True))

    async def idle(self) -> None:
        """Wait until no claim is under way."""
        await self._no_claims.wait()

    async def _follow(self, slots: frozenset[int]) -> None:
        try:
            await self._host.follow(slots)
        except Unavailable as error:
            logger.debug("%d slots cannot be read: %s", len(slots), error)
            self._ownership.not_followed(slots, self._clock.monotonic_ms())
        else:
            self._ownership.followed(slots)
        self.wake.set()

    async def _ask(self, node: str, slots: frozenset[int]) -> None:
        released: frozenset[int] = frozenset()
        question = ReleaseQuestion(self._me, pack_slots(slots))
        try:
            data = await self._bus.ask(node, encode(question), self._ask_timeout_ms)
            answer = decode_release_answer(data)
            released = unpack_slots(answer.slots, self._slots) & slots
        except (Unavailable, TooLarge, Garbled) as error:
            logger.debug("%s does not release %d slots: %s", node, len(slots), error)
        self._ownership.released(released, node)
        self._ownership.refused(slots - released, self._clock.monotonic_ms())
        self.wake.set()

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        self._claims += 1
        self._no_claims.clear()
        try:
            yield
        finally:
            self._claims -= 1
            if not self._claims:
                self._no_claims.set()

    async def _claim(self, slots: frozenset[int], has_doubt: bool) -> None:
        with self._claiming():
            try:
                free = slots - await self._taken(slots) if has_doubt else slots
                if free:
                    await self._host.claim(free)
            except Unavailable as error:
                logger.warning("%d slots cannot be claimed now: %s", len(slots), error)
        held = slots.intersection(self._host.held())
        self._ownership.claimed(held)
        self._ownership.lost(slots - held, self._clock.monotonic_ms())
        if held:
            self._changed(held)
        self.wake.set()

    async def _taken(self, slots: frozenset[int]) -> frozenset[int]:
        """A last look: those for which others may act, by what the server keeps of them.

        It is the server that renews leases. Whoever is not heard here, and has its announcements
        kept there, lives, and may act on what it holds or has claimed.

        Raises:
            Unavailable: that cannot be read now.
        """
        await self._observer.read_announcements()
        holders, claimants = self._observer.holders(), self._observer.claimants()
        return self._ownership.taken(slots, holders, claimants, self._clock.monotonic_ms())
