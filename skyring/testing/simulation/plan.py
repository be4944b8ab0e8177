"""What a seed stands for: the ring, the load and the faults of one simulation.

Each seed allows a random part of all faults only: what hides behind the more frequent ones shows
when those are away (Groce et al., "Swarm Testing", 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from skyring.settings import (
    DeliverySettings,
    NatsSettings,
    RetrySettings,
    RingSettings,
    Settings,
    ShutdownSettings,
    StorageSettings,
    TimerSettings,
)
from skyring.storage.replicated import ReplicationLimits

__all__ = ["BULK_MAX", "FAULTS", "Planned", "SeedPlan", "make_plan"]

ALONE = ("kill", "power cut", "stall", "stop", "slow disk", "failing disk", "clock", "receivers")
RING = (
    "kill in the act",
    "kill all",
    "power cut of all",
    "new disk",
    "cut off",
    "deaf",
    "mute",
    "lag",
    "pair",
    "rivals",
    "split",
    "no connections",
    "bad network",
    "log away",
    "silent log",
    "slow log",
    "bad log",
)
FAULTS = ALONE + RING
"""Kinds of faults."""
DAY_MS = 86_400_000
BULK_MAX = 60
"""Timers in one bulk create."""

MANY, MANY_TIMERS = 0.02, (2_000, 3_000)
"""Part of the seeds with a few thousand timers, and how many these are."""


@dataclass(frozen=True)
class Planned:
    """A fault that is to come."""

    kind: str
    start_s: float
    duration_s: float
    machine: int
    """Number of the machine that is hit."""
    other: int
    """Of another one, for faults between two."""
    force: float
    """How bad it is, 0 to 1."""


@dataclass(frozen=True)
class SeedPlan:
    """One simulation."""

    seed: int
    is_ring: bool
    machines: int
    absent: int
    """So many of them join later."""
    load_s: float
    """How long clients make new timers, and faults come."""
    timers: int
    timeout_s_max: float
    latency_s_max: float
    """Of receivers, when all is well."""
    settings: Settings
    """Without the name of the node."""
    limits: ReplicationLimits
    faults: Sequence[Planned]
    payload_bytes_max: int
    """In one message of the simulated NATS."""

    @property
    def lease_s(self) -> float:
        return self.settings.ring.lease_ms / 1000

    @property
    def backlog_s(self) -> float:
        """How long it takes to deliver everything, one after the other."""
        together = self.settings.delivery.in_flight_per_destination_max
        return 2 * (2 * self.timers) * self.latency_s_max / together

    @property
    def queue_s(self) -> float:
        """How long a timer that is punctual may wait, of a bulk that is due at one time."""
        together = self.settings.delivery.in_flight_per_destination_max
        return BULK_MAX * self.latency_s_max / together


def make_plan(seed: int) -> SeedPlan:
    """The plan of a seed: always the same."""
    random = Random(f"plan {seed}")
    is_ring = random.random() < 0.85
    pace = random.choice((1, 1, 2, 5)) if is_ring else 1
    machines = random.choice((3, 3, 3, 4, 5, 5, 7)) if is_ring else 1
    load_s = random.uniform(15, 45) * pace
    count = int(random.choice((60, 150, 150, 300, 300, 600, 2_000)) * random.uniform(0.5, 1.0))
    many = Random(f"many timers {seed}")
    if many.random() < MANY:
        count = many.randint(*MANY_TIMERS)
    latency_s_max = random.choice((0.005, 0.05, 0.5))
    return SeedPlan(
        seed=seed,
        is_ring=is_ring,
        machines=machines,
        absent=random.choice((0, 0, 1)) if machines > 3 else 0,
        load_s=load_s,
        timers=count,
        timeout_s_max=random.choice((2.0, 5.0, 20.0)) * pace,
        latency_s_max=latency_s_max,
        settings=_settings(random, pace, latency_s_max),
        limits=ReplicationLimits(
            spare_bytes=random.choice((1_024, 4_096, 32_768)),
            snapshot_keys_max=random.choice((2, 10, 500)),
            doubt_ms=random.choice((500, 5_000)),
        ),
        faults=_faults(random, is_ring, machines, load_s, pace),
        payload_bytes_max=random.choice((32_768, 131_072, 131_072)),
    )


def _settings(random: Random, pace: int, latency_s_max: float) -> Settings:
    return Settings(
        slots=random.choice((8, 16, 32)),
        storage=StorageSettings(reopen_timeout_ms=120_000),
        nats=NatsSettings(request_timeout_ms=random.choice((500, 2_000, 5_000))),
        ring=RingSettings(
            heartbeat_ms=500 * pace,
            suspect_ms=1_500 * pace,
            dead_ms=2_500 * pace,
            lease_ms=random.choice((3_000, 3_000, 6_000)) * pace,
            request_timeout_ms=random.choice((2_000, 10_000)) * pace,
            moves_max=random.choice((1, 4, 8, 64)),
            standby_ms=random.choice((0, 1_000, 5_000)) * pace,
            events="none",
        ),
        timers=TimerSettings(
            window_ms=random.choice((1_000, 5_000, 60_000)),
            scheduled_max=random.choice((100, 1_000, 100_000)),
        ),
        delivery=DeliverySettings(
            timeout_ms=max(random.choice((200, 1_000, 5_000)), int(4_000 * latency_s_max)),
            in_flight_max=random.choice((8, 128, 1_024)),
            in_flight_per_destination_max=random.choice((4, 128)),
        ),
        retry=RetrySettings(attempts=1_000, backoff_ms=200, max_ms=2_000),
        shutdown=ShutdownSettings(drain_ms=random.choice((500, 5_000))),
    )


def _faults(
    random: Random, is_ring: bool, machines: int, load_s: float, pace: int
) -> list[Planned]:
    possible = FAULTS if is_ring else ALONE
    allowed = random.sample(possible, random.randint(1, min(6, len(possible))))
    count = random.choice((0, 1, 2, 4, 8, 16))
    faults = []
    for _ in range(count):
        # From a moment to several leases.
        duration_s = random.choice((0.05, 0.5, 2.0, 5.0, 10.0)) * random.uniform(0.5, 1.5) * pace
        faults.append(
            Planned(
                random.choice(allowed),
                random.uniform(0.0, 0.9) * load_s,
                duration_s,
                random.randrange(machines),
                random.randrange(machines),
                random.random(),
            )
        )
    return sorted(faults, key=lambda fault: fault.start_s)
