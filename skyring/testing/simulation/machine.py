"""A simulated machine: clocks, a disk, a connection, and a real node that can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from random import Random
from typing import Any

from skyring.errors import SkyringError
from skyring.node import Node
from skyring.node_ring import RingConnection
from skyring.settings import Settings
from skyring.storage.leveldb import LevelDBStorage
from skyring.storage.replicated import ReplicationLimits
from skyring.testing.simulation.clock import SimulatedClock
from skyring.testing.simulation.disk import Disk, SimulatedFiles, SimulatedWorker
from skyring.testing.simulation.log import LogServer, SimulatedLog
from skyring.testing.simulation.loop import Process, SimulatedLoop
from skyring.testing.simulation.network import SimulatedBus, Wire
from skyring.testing.simulation.receiver import Receivers, SimulatedTransport

__all__ = ["Machine"]


class Machine:
    """One machine. Whoever has its name joins the ring under it.

    Args:
        settings: of its node; without NATS the connection decides about the mode.
        limits: bounds of the replication.
        loop: where it runs.
        random: for everything on it.
        wire: its connection; None: its node stands alone.
        log: the stream; None likewise.
        receivers: where its transport leads.
        failed: called with the machine and the reason when its node has failed.
    """

    def __init__(
        self,
        settings: Settings,
        limits: ReplicationLimits,
        loop: SimulatedLoop,
        random: Random,
        wire: Wire | None,
        log: LogServer | None,
        receivers: Receivers,
        failed: Callable[[Machine, str], None],
    ) -> None:
        self.name = settings.node
        self.settings = settings
        self._limits = limits
        self.random = random
        self.disk = Disk(random)
        self.clock = SimulatedClock(
            loop, began_s=random.uniform(0, 1e6), rate=random.uniform(0.9999, 1.0001)
        )
        self.wire = wire
        self._log = log
        self._loop = loop
        self._receivers = receivers
        self._failed = failed
        self.starts = 0
        self.node: Node | None = None
        """If it is running."""
        self.process: Process | None = None
        self.processes: list[Process] = []
        self.is_stopping = False
        self.stopped_s: list[float] = []
        """When it was told to stop."""
        self._bus: SimulatedBus | None = None

    @property
    def is_serving(self) -> bool:
        """Does it take requests?"""
        return self.node is not None and not self.is_stopping

    @property
    def is_ready(self) -> bool:
        """Would it get requests from a load balancer?"""
        return self.is_serving and self.node is not None and self.node.not_ready() is None

    def acts_for(self) -> Collection[int]:
        """The slots of a ring whose timers its node would deliver and change now."""
        ring = None if self.node is None else self.node._ring
        return ring.storage.held() if ring is not None and ring.may_act() else ()

    def start(self) -> None:
        """Start the node, unless it runs."""
        if self.process is not None:
            return
        self.starts += 1
        self.is_stopping = False
        self.process = Process(f"{self.name}/{self.starts}", self._loop)
        self.processes.append(self.process)
        self.process.spawn(self._live(self.process))

    def kill(self, *, power: bool) -> None:
        """Kill the node, or cut the power of the machine."""
        if self.process is None:
            return
        self.process.kill()
        if power:
            self.disk.cut_power()
        else:
            self.disk.close()
        self._gone()

    def stop(self) -> asyncio.Task[Any] | None:
        """Stop the node as SIGTERM does."""
        if self.process is None or self.node is None or self.is_stopping:
            return None
        self.is_stopping = True
        self.stopped_s.append(self._loop.time())
        return self.process.spawn(self._stop(self.process, self.node))

    async def _live(self, process: Process) -> None:
        try:
            node = self._make(process)
            await node.start()
            self.node = node
            await node.wait()
        except SkyringError as error:
            self._end(process, f"{error.code}: {error}")
        except Exception as error:  # a defect
            self._end(process, f"{type(error).__name__}: {error}")

    def _end(self, process: Process, reason: str) -> None:
        """The process ends because its node has failed."""
        if not process.is_killed and self.process is process:
            process.kill()
            self.disk.close()
            self._gone()
            self._failed(self, reason)

    async def _stop(self, process: Process, node: Node) -> None:
        await node.stop()
        for error in process.unseen():
            self._failed(self, f"nobody has seen {error!r}")
        if self.process is process:
            process.kill()
            self.disk.close()
            self._gone()

    def _gone(self) -> None:
        self.node = self.process = None
        self.is_stopping = False
        if self._bus is not None:
            self._bus.gone()
            self._bus = None
        if self.wire is not None:
            self.wire.detach()

    def _make(self, process: Process) -> Node:
        settings = self.settings
        connection = None
        if self.wire is not None and self._log is not None:
            self.wire.attach(process)
            timeout_s = settings.nats.request_timeout_ms / 1000
            self._bus = SimulatedBus(self.wire, timeout_s)
            log = SimulatedLog(self._log, self.wire, process.name, timeout_s)
            connection = RingConnection(self._bus, log, self._limits)
        storage = LevelDBStorage(
            SimulatedFiles(self.disk, settings.slots),
            sync=connection is None,
            reopen_timeout_ms=settings.storage.reopen_timeout_ms,
            worker=lambda loop, name: SimulatedWorker(self.disk, loop, name),
        )
        node = Node(
            settings,
            transports=[SimulatedTransport(self._receivers, self.name, self.clock)],
            clock=self.clock,
            connection=connection,
            storage=storage,
            random=Random(self.random.random()),
        )
        del node._transports["http"]  # it would read certificates at each start
        return node
