"""Reading ahead the logs of the slots that a node would own if their owner died.

A takeover then has to read seconds of them, and not all that is in them. Kafka Streams calls such
copies standby replicas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from skyring.errors import Unavailable
from skyring.ring.host import SlotHost
from skyring.ring.ownership import Ownership
from skyring.ring.placement import Placement, place

__all__ = ["Standby"]

logger = logging.getLogger(__name__)


class Standby:
    """Follows logs in the background.

    Args:
        me: name of this node.
        slots: how many slots there are.
        host: reads logs.
        ownership: knows which slots are on their way here, or here.
        owners: the nodes that slots are placed on now.
        may_run: is this a moment to do so?
        interval_ms: pause between two readings.
    """

    def __init__(
        self,
        me: str,
        slots: int,
        host: SlotHost,
        ownership: Ownership,
        owners: Callable[[], Sequence[str]],
        may_run: Callable[[], bool],
        interval_ms: int,
    ) -> None:
        self._me = me
        self._slots = slots
        self._host = host
        self._ownership = ownership
        self._owners = owners
        self._may_run = may_run
        self._interval_ms = interval_ms
        self._made_for: Sequence[str] = ()
        self._mine: frozenset[int] = frozenset()

    async def run(self) -> None:
        """Read again and again. StorageError as of `SlotHost.follow`."""
        while True:
            await asyncio.sleep(self._interval_ms / 1000)
            if not self._may_run():
                continue
            wanted = [
                slot for slot in await self._inherited() if self._ownership.phase(slot) == "idle"
            ]
            try:
                await self._host.follow(wanted)
            except Unavailable as error:
                logger.debug("nothing is read ahead now: %s", error)

    async def _inherited(self) -> frozenset[int]:
        """The slots that would be placed here if their owner were not there."""
        owners = self._owners()
        if owners != self._made_for:
            mine: set[int] = set()
            now = place(owners, self._slots)
            for gone in owners:
                if gone != self._me:
                    without = place((name for name in owners if name != gone), self._slots)
                    mine |= _moved(now, without, gone, self._me)
                await asyncio.sleep(0)  # each placement takes some milliseconds
            self._made_for, self._mine = owners, frozenset(mine)
        return self._mine


def _moved(before: Placement, after: Placement, source: str, target: str) -> set[int]:
    return {slot for slot, owner in enumerate(before) if owner == source and after[slot] == target}
