"""What a node in a ring has beside that of one that stands alone."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Mapping
from os import getpid
from random import Random
from typing import Any, NamedTuple

import msgspec

from skyring.clock import Clock
from skyring.nats.durability import Sync, read_sync
from skyring.nats.making import make_link
from skyring.node_slots import NodeSlots
from skyring.ring.answering import ExecuteMany
from skyring.ring.bus import Bus
from skyring.ring.member import MemberSettings, RingMember
from skyring.ring.membership import Timing
from skyring.ring.nats_bus import NatsBus
from skyring.ring.router import Execute, RouterLimits
from skyring.ring.view import Standing, standing_of
from skyring.settings import Settings
from skyring.storage.base import Storage
from skyring.storage.jetstream import JetStreamLog
from skyring.storage.log import Log
from skyring.storage.replicated import ReplicatedStorage, ReplicationLimits
from skyring.timers.recent import RecentIds
from skyring.timers.state import TimerState

__all__ = ["NodeRing", "RingConnection", "connect_ring", "node_name"]

logger = logging.getLogger(__name__)

NODE_CHARS_MAX = 64
ENTRY_ID_BYTES = 12
GONE_MAX = 200_000
"""Timers that are remembered when they are gone: twenty seconds at 10,000 a second."""
PROMISES: dict[Sync, str] = {
    "always": "what is acknowledged survives a power cut of its server",
    "interval": "a power cut of its servers can lose what was acknowledged since the last sync",
    "unknown": "its monitoring does not tell",
}


class RingConnection(NamedTuple):
    """What the nodes of a ring share, and bounds of its use."""

    bus: Bus
    log: Log
    limits: ReplicationLimits = ReplicationLimits()


def node_name(settings: Settings) -> str:
    """The name of a node: as it was given, or host name and port."""
    if settings.node:
        return settings.node
    number = settings.port or getpid()
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
    return f"{host[: NODE_CHARS_MAX - 8]}-{number}"


def node_address(settings: Settings, port: int) -> str:
    """The URL of a node's API, as others are told; "" if it is not known."""
    if settings.advertise or not port:
        return settings.advertise
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def connect_ring(settings: Settings) -> RingConnection:
    """The bus and the log in NATS, not yet open.

    Raises:
        ConfigError: a setting can never work.
    """
    nats, ring = settings.nats, settings.ring
    link = make_link(nats, f"skyring {node_name(settings)}")
    return RingConnection(
        NatsBus(link, ring.name, ring.replicas, nats.request_timeout_ms),
        JetStreamLog(
            link,
            ring.name,
            settings.slots,
            ring.replicas,
            nats.request_timeout_ms,
            ring.log_bytes_max,
        ),
        ReplicationLimits(spare_bytes=ring.log_spare_bytes),
    )


class NodeRing:
    """Storage behind the log, and membership. `join` ties it to the timers.

    Args:
        settings: of the node.
        connection: shared with the others.
        store: the materialised state of this node.
        clock: what time it is.
        random: for ids.
    """

    member: RingMember
    slots: NodeSlots

    def __init__(
        self,
        settings: Settings,
        connection: RingConnection,
        store: Storage,
        clock: Clock,
        random: Random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.name = node_name(settings)
        self.bus, self.log, limits = connection
        self._sync: Sync = "unknown"
        self.damage = store.damage
        """What this node itself could not read back; the log has it all."""
        self.storage = ReplicatedStorage(
            store,
            self.log,
            self.name,
            _entry_ids(random.randbytes(ENTRY_ID_BYTES)),
            self.may_act,
            self._may_read,
            self._fenced,
            limits._replace(claim_ms=settings.ring.lease_ms),
            self._claimed,
        )

    def tie(self, state: TimerState, execute: Execute, execute_many: ExecuteMany) -> None:
        """Tie storage, timers and ring together.

        Args:
            state: the timers of the slots that are held.
            execute: carries out an operation.
            execute_many: carries out what other nodes send.
        """
        ring = self._settings.ring
        self.slots = NodeSlots(self.storage, state, self._inform, self._clock, self._lost)
        self.member = RingMember(
            MemberSettings(
                node=self.name,
                address=node_address(self._settings, self._settings.port),
                slots=self._settings.slots,
                timing=Timing(ring.heartbeat_ms, ring.suspect_ms, ring.dead_ms),
                lease_ms=ring.lease_ms,
                moves_max=ring.moves_max,
                standby_ms=ring.standby_ms,
                router=RouterLimits(
                    request_timeout_ms=ring.request_timeout_ms,
                    waiting_max=ring.waiting_max,
                ),
            ),
            self.bus,
            self.slots,
            execute,
            execute_many,
            self._clock,
            self.emit,
        )

    def timer_options(self) -> dict[str, Any]:
        """What the timers of a ring need: the lease, and where events go."""
        wants_events = self._settings.ring.events == "all"
        # As long as operations are repeated, and the same again for the last of them.
        keep_s = 2 * self._settings.ring.request_timeout_ms / 1000
        return {
            "may_deliver": self.may_act,
            "events": self.emit if wants_events else None,
            "gone": RecentIds(keep_s, GONE_MAX),
        }

    async def open(self) -> None:
        """Connect in the background."""
        await self.bus.open(self.name, self.member)

    async def close(self) -> None:
        """Disconnect."""
        await self.bus.close()

    def listening(self, port: int) -> None:
        """The API is served on this port: the others are told."""
        self.member.presence.address = node_address(self._settings, port)

    def may_act(self) -> bool:
        """Does the lease hold?"""
        return self.member.may_act()

    def emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Publish an event, if the settings want it."""
        if self._settings.ring.events == "none":
            return
        event = {"type": kind, "node": self.name, "time": self._clock.now_ms(), **fields}
        self.bus.emit(kind, msgspec.json.encode(event))

    def view(self) -> dict[str, Any]:
        """For ``GET /ring``."""
        return {
            "mode": "ring",
            "ring": self._settings.ring.name,
            "slots": self._settings.slots,
            "log": {
                "id": self.log.identity,
                "replicas": self._settings.ring.replicas,
                "sync": self._sync,
            },
            **self.member.view(),
        }

    def standing(self) -> Standing:
        """How this node stands in the ring, in numbers."""
        return standing_of(
            self.member.presence,
            self.member.observer,
            self.slots,
            self.bus.is_up,
            self._clock.monotonic_ms(),
        )

    async def _inform(self) -> None:
        sync = await read_sync(self._settings.nats.monitoring)
        if sync != self._sync:
            self._sync = sync
            logger.info("NATS syncs its files: %s (%s)", sync, PROMISES[sync])

    def _may_read(self) -> bool:
        return self.member.may_read()

    def _fenced(self, slot: int) -> None:
        logger.warning("slot %d has been claimed by another node", slot)
        self.slots.fenced([slot])

    def _claimed(self, slot: int, node: str) -> None:
        self.member.observer.claimed(slot, node)

    def _lost(self, slots: Any) -> None:
        self.member.slots_lost(slots)


def _entry_ids(start: bytes) -> Callable[[], bytes]:
    """Ids that no entry of a log ever had: random for this process, then counted."""
    number = 0

    def new_id() -> bytes:
        nonlocal number
        number += 1
        return start + number.to_bytes(6, "big")

    return new_id
