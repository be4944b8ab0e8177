"""What the rooms of a node have counted, under the names of the metrics."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import get_args

from skyring.counting import Readings
from skyring.ring.membership import MemberState
from skyring.ring.view import Standing
from skyring.settings import Settings
from skyring.storage.base import Damage
from skyring.timers.delivery import Delivery
from skyring.timers.state import TimerState
from skyring.version import VERSION

__all__ = ["NodeReadings"]


class NodeReadings:
    """Reads the counters of one node; nothing is locked, and no timer is looked at.

    Args:
        settings: of the node.
        is_ready: should it get requests now?
        state: its timers.
        delivery: their delivery.
        damage: of its storage.
        standing: how it stands in its ring; None if it stands alone.
    """

    def __init__(
        self,
        settings: Settings,
        is_ready: Callable[[], bool],
        state: TimerState,
        delivery: Delivery,
        damage: Damage,
        standing: Callable[[], Standing] | None,
    ) -> None:
        self._settings = settings
        self._is_ready = is_ready
        self._state = state
        self._delivery = delivery
        self._damage = damage
        self._standing = standing
        self._build = (VERSION, platform.python_version())

    def __call__(self) -> Readings:
        counts = self._state.counts
        return {
            "skyring_build_info": {self._build: 1},
            "skyring_ready": self._is_ready(),
            "skyring_operations_total": {(kind,): n for kind, n in counts.changes.items()},
            "skyring_deliveries_total": {(name,): n for name, n in counts.outcomes.items()},
            "skyring_delivery_lateness_seconds": counts.lateness,
            "skyring_delivery_duration_seconds": counts.duration,
            "skyring_deliveries_in_flight": self._delivery.in_flight,
            "skyring_deliveries_waiting": self._delivery.waiting,
            "skyring_timers_scheduled": len(self._state.schedule),
            "skyring_storage_damaged_records_total": self._damage.records,
            **self._in_ring(),
        }

    def _in_ring(self) -> Readings:
        standing = self._alone() if self._standing is None else self._standing()
        return {
            "skyring_ring_slots_held": standing.slots_held,
            "skyring_ring_slots_without_holder": standing.slots_without_holder,
            "skyring_ring_members": {(state,): n for state, n in standing.members.items()},
            "skyring_ring_lease_seconds": standing.lease_ms / 1000,
            "skyring_ring_connected": standing.is_connected,
        }

    def _alone(self) -> Standing:
        """A node without a ring holds every slot, and knows no members."""
        members = dict.fromkeys(get_args(MemberState), 0)
        return Standing(self._settings.slots, 0, members, 0, False)
