"""A ring of real processes on the loopback: nats-servers, nodes, and what can befall them.

Every process is ended by its own process id. Those of Linux end with the benchmark, also when that
is killed. Nothing here waits without a bound.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from skyring.bench.client import Connection
from skyring.bench.errors import BenchError
from skyring.bench.process import ServerProcess
from skyring.bench.ring_events import EventWatch
from skyring.bench.ring_view import RingView, parse_view
from skyring.cluster.leash import leashed
from skyring.errors import ConfigError
from skyring.testing.nats_server import NatsServer, start_cluster, stop_cluster
from skyring.testing.processes import pause_process, resume_process

__all__ = ["RingCommon", "RingNode", "RingProcesses", "Sync", "open_ring"]

logger = logging.getLogger(__name__)

Sync: TypeAlias = Literal["always", "default"]

NAME = "bench"
POLL_S = 0.05
VIEW_TIMEOUT_S = 5.0
WHOLE_TIMEOUT_S = 60.0
START_TIMEOUT_S = 60.0
WORDS_OF_A_DEFECT = ("Traceback (most recent call last)", "never retrieved", " CRITICAL ")


def _silent(message: str) -> None:
    pass


@dataclass(frozen=True)
class RingCommon:
    """What every benchmark of the ring is told."""

    nodes: int = 3
    servers: int = 1
    """nats-servers, each of which keeps every log: 1 or 3."""
    sync: Sync = "default"
    """Does NATS sync what it stores before it acknowledges?"""
    node_arguments: Sequence[str] = ()
    """Further arguments of each ``skyring run``."""
    directory: Path | None = None
    """Where the files of the processes go, and stay, with all events of the ring; None takes a
    temporary one."""
    progress: Callable[[str], None] = _silent
    """Called with one line now and then."""

    def parameters(self) -> dict[str, object]:
        """For a report."""
        told: dict[str, object] = {"nodes": self.nodes, "R": self.servers, "sync": self.sync}
        return told | ({"arguments": list(self.node_arguments)} if self.node_arguments else {})


class RingNode:
    """One node: a server process with a name."""

    def __init__(self, name: str, server: ServerProcess) -> None:
        self.name = name
        self.server = server
        self.is_running = False
        self.is_frozen = False

    async def view(self) -> RingView:
        """The ring as this node sees it.

        Raises:
            BenchError: it does not answer, or is in no ring.
        """
        async with Connection(self.server.host, self.server.port) as connection:
            status, body = await connection.request("GET", "/ring", timeout_s=VIEW_TIMEOUT_S)
        if status != 200:
            raise BenchError(f"{self.name} answered {status} to GET /ring")
        try:
            return parse_view(json.loads(body))
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"what {self.name} answers to GET /ring: {error!r}") from error

    def defects(self) -> list[str]:
        """Lines of its log that should never be there."""
        found = [
            line.strip()
            for line in self.server.log.splitlines()
            if any(word in line for word in WORDS_OF_A_DEFECT)
        ]
        return [f"{self.name}: {line}" for line in found]


class RingProcesses:
    """nats-servers and the nodes of one ring.

        async with RingProcesses(tmp_path, nodes=3) as ring:
            await ring.kill("n2")
            await ring.whole()

    Args:
        directory: for the files of all processes.
        nodes: how many to start, named ``n1`` and so on.
        servers: nats-servers; with 3 each log is kept by all of them.
        sync: "always" has NATS sync each message to the disk before it is acknowledged.
        arguments: further ones of each ``skyring run``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        servers: int = 1,
        sync: Sync = "default",
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.ring = NAME
        self.nats: list[NatsServer] = []
        self.nodes: dict[str, RingNode] = {}
        self._count = nodes
        self._servers = servers
        self._sync = sync
        self._arguments = arguments

    # Looking

    @property
    def nats_url(self) -> str:
        """All nats-servers, as ``--nats`` takes them."""
        return ",".join(server.url for server in self.nats)

    def node(self, name: str) -> RingNode:
        """A node by its name."""
        return self.nodes[name]

    def running(self) -> list[RingNode]:
        """The nodes that run and are not frozen, by name."""
        return [
            node for _, node in sorted(self.nodes.items()) if node.is_running and not node.is_frozen
        ]

    def defects(self) -> list[str]:
        """What the logs of the nodes say that should never be there."""
        return [line for node in self.nodes.values() for line in node.defects()]

    async def view(self, name: str | None = None) -> RingView:
        """The ring as a node sees it; None takes the first that runs. Raises BenchError."""
        return await (self.running()[0] if name is None else self.nodes[name]).view()

    async def whole(self, timeout_s: float = WHOLE_TIMEOUT_S) -> float:
        """Wait until all that run agree that they are the ring and hold every slot; the seconds.

        Raises:
            BenchError: that does not come about, and what is missing.
        """
        began_s = time.monotonic()
        while True:
            missing = await self._missing()
            if missing is None:
                return time.monotonic() - began_s
            if time.monotonic() - began_s > timeout_s:
                raise BenchError(f"the ring is not whole after {timeout_s:g} s: {missing}")
            await asyncio.sleep(POLL_S)

    async def taken_over(self, gone: str, timeout_s: float = WHOLE_TIMEOUT_S) -> float:
        """Wait until all slots are held, and none by this node; the seconds. Raises BenchError."""
        began_s = time.monotonic()
        while True:
            try:
                holders = (await self.view()).holders
            except BenchError as error:
                holders, said = (None,), str(error)
            else:
                said = f"{holders.count(None)} slots unheld, {holders.count(gone)} held by {gone}"
            if None not in holders and gone not in holders:
                return time.monotonic() - began_s
            if time.monotonic() - began_s > timeout_s:
                raise BenchError(f"{gone} is not replaced after {timeout_s:g} s: {said}")
            await asyncio.sleep(POLL_S)

    async def _missing(self) -> str | None:
        nodes = self.running()
        names = [node.name for node in nodes]
        for node in nodes:
            try:
                missing = (await node.view()).missing(names)
            except BenchError as error:
                missing = str(error)
            if missing is not None:
                return missing
        return None

    # Life

    async def start(self) -> None:
        """NATS, then all nodes at once; returns when the ring is whole.

        Raises:
            BenchError: it does not come up. What was started is for `close` to end.
        """
        try:
            if self._servers == 1:
                only = NatsServer(self.directory / "nats-1", sync=self._sync)
                self.nats = [only]
                await only.start()
            else:
                self.nats = await start_cluster(self.directory, self._servers, sync=self._sync)
        except (ConfigError, RuntimeError, TimeoutError) as error:
            raise BenchError(f"nats-server does not start: {error}") from error
        names = [f"n{number}" for number in range(1, self._count + 1)]
        for name in names:
            self._make(name)
        await self._launch(names)
        await self.whole()

    async def add(self, name: str) -> RingNode:
        """Start a further node, or one that was stopped before; returns when it is ready."""
        if name not in self.nodes:
            self._make(name)
        await self._launch([name])
        return self.nodes[name]

    async def restart(self, name: str, *, empty: bool = False) -> None:
        """Start a node that was killed or stopped; returns when it is ready.

        Args:
            empty: shall it have lost its files?
        """
        if empty:
            shutil.rmtree(self.nodes[name].server.storage_path, ignore_errors=True)
        await self._launch([name])

    async def stop(self, name: str, timeout_s: float = 60.0) -> int:
        """SIGTERM: it leaves the ring. Returns its exit code when it has ended."""
        node = self.nodes[name]
        code = await node.server.stop(timeout_s)
        node.is_running = False
        return code

    async def kill(self, name: str) -> int:
        """SIGKILL; returns the exit code, which is -9 if the node was alive until then."""
        node = self.nodes[name]
        code = await node.server.kill()
        node.is_running = node.is_frozen = False
        return code

    async def freeze(self, name: str) -> None:
        """SIGSTOP; returns when it has taken effect."""
        node = self.nodes[name]
        await pause_process(node.server.pid)
        node.is_frozen = True

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        node = self.nodes[name]
        resume_process(node.server.pid)
        node.is_frozen = False

    async def ended(self, name: str, timeout_s: float = 60.0) -> int:
        """Wait until a node ends by itself; its exit code. Raises BenchError if it does not."""
        node = self.nodes[name]
        try:
            return await node.server.ended(timeout_s)
        finally:
            node.is_running = False

    async def close(self) -> None:
        """Kill all of them. May be called at any time."""
        for name in self.nodes:
            await self.kill(name)
        for server in self.nats:
            server.kill()
        await stop_cluster(self.nats)

    def _make(self, name: str) -> None:
        server = ServerProcess(
            self.directory / name,
            command=leashed([sys.executable, "-m", "skyring", "run"]),
            arguments=(
                *("--nats", self.nats_url, "--ring", self.ring, "--node", name),
                *("--ring:replicas", str(self._servers), "--log:level", "info"),
                *self._arguments,
            ),
            ready_timeout_s=START_TIMEOUT_S,
        )
        self.nodes[name] = RingNode(name, server)

    async def _launch(self, names: Collection[str]) -> None:
        for name in names:
            self.nodes[name].server.launch()
            self.nodes[name].is_running = True
        for name in names:
            try:
                await self.nodes[name].server.wait_ready()
            except BenchError as error:
                raise BenchError(f"{name}: {error}") from error

    async def __aenter__(self) -> RingProcesses:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


@asynccontextmanager
async def open_ring(common: RingCommon) -> AsyncIterator[RingProcesses]:
    """A ring as the benchmark was told, whole; ended afterwards, its files removed or kept.

    Raises:
        BenchError: it does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="skyring-ring-") as temporary:
        directory = Path(temporary) if common.directory is None else common.directory
        async with RingProcesses(
            directory,
            nodes=common.nodes,
            servers=common.servers,
            sync=common.sync,
            arguments=common.node_arguments,
        ) as ring:
            if common.directory is None:
                yield ring
                return
            events = directory / "events.ndjson"
            async with EventWatch(ring.nats_url, ring.ring, file=events):
                yield ring
