"""The processes of the chaos suite: a ring, or one node that stands alone, each on its own host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from skyring.bench.chaos.sandbox import Host, Network, mount_disk
from skyring.bench.client import status_or_none
from skyring.bench.process import ServerProcess
from skyring.bench.ring_processes import RingNode, RingProcesses
from skyring.cluster.leash import leashed
from skyring.testing.nats_server import NatsServer, server_binary

__all__ = ["HostedNats", "World"]

NATS_PORT = 4222
MONITORING_PORT = 8222
ROUTE_PORT = 6222
HEALTH_S_MAX = 2.0
START_TIMEOUT_S = 60.0
FILLER = "filler"


class HostedNats(NatsServer):
    """A nats-server on a host of its own."""

    def __init__(self, directory: Path, host: Host, config: str) -> None:
        listen = f"listen: {host.address}:{NATS_PORT}\nhttp: {host.address}:{MONITORING_PORT}"
        # What comes later in its configuration counts.
        super().__init__(directory, f"{config}\n{listen}", port=NATS_PORT, name=host.name)
        self.host = host

    @property
    def url(self) -> str:
        return f"nats://{self.host.address}:{NATS_PORT}"

    def spawn(self) -> None:
        command = self.host.command([str(server_binary()), "-c", str(self._config)])
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(leashed(command), stdout=log, stderr=log)

    async def answers(self) -> bool:
        # Of a cluster it says so only when it knows who leads it.
        status = await status_or_none(
            self.host.address, MONITORING_PORT, "/healthz", timeout_s=HEALTH_S_MAX
        )
        return status == 200


class World(RingProcesses):
    """A ring of nodes and nats-servers, or one node that stands alone.

    Args:
        directory: for the files of all processes.
        network: on which each of them has a host.
        nodes: how many, named ``n1`` and so on.
        servers: nats-servers; 0 for a node that stands alone.
        arguments: further ones of each ``skyring run``.
        disk_bytes: each node has a disk of its own of this size; 0: that of the machine.
        environment: of the nodes, such as ``LD_PRELOAD=…``.
    """

    def __init__(
        self,
        directory: Path,
        network: Network,
        *,
        nodes: int = 3,
        servers: int = 1,
        arguments: Sequence[str] = (),
        disk_bytes: int = 0,
        environment: Sequence[str] = (),
    ) -> None:
        super().__init__(
            directory, nodes=nodes, servers=servers, sync="always", arguments=arguments
        )
        self.network = network
        self._disk_bytes = disk_bytes
        self._environment = environment

    @property
    def is_ring(self) -> bool:
        """Or does its node stand alone?"""
        return self._servers > 0

    def host(self, name: str) -> Host:
        """Of a node or a nats-server."""
        return self.network.host(name)

    async def start(self) -> None:
        """NATS, then all nodes; returns when they are whole. Raises BenchError, RuntimeError."""
        hosts = [self.host(f"nats{number}") for number in range(1, self._servers + 1)]
        routes = ", ".join(f'"nats://{host.address}:{ROUTE_PORT}"' for host in hosts)
        for host in hosts:
            listen = f"{host.address}:{ROUTE_PORT}"
            cluster = f"cluster {{ name: chaos, listen: {listen}, routes: [{routes}] }}"
            config = cluster if len(hosts) > 1 else ""
            self.nats.append(HostedNats(self.directory / host.name, host, config))
        await self.start_nats(self.nats)
        names = [f"n{number}" for number in range(1, self._count + 1)]
        for name in names:
            self._make(name)
        await self._launch(names)
        await self.whole()

    async def start_nats(self, servers: Sequence[NatsServer]) -> None:
        """Start servers that do not run; returns when they are healthy."""
        for server in servers:
            server.spawn()
        await self.nats_healthy()

    async def nats_healthy(self) -> None:
        """Until all servers, also those that were not touched, know who leads each stream."""
        for server in self.nats:
            await server.until(server.answers)

    async def whole(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """As that of a ring; a node that stands alone is whole when it is ready."""
        if self.is_ring:
            return await super().whole(timeout_s)
        for node in self.running():
            await node.server.wait_ready()
        return 0.0

    def has_ended(self, name: str) -> bool:
        """Has a node that should run ended by itself?"""
        node = self.nodes[name]
        return node.is_running and not Path(f"/proc/{node.server.pid}/cmdline").read_bytes()

    def fill_disk(self, name: str) -> None:
        """Leave not one byte on a node's disk."""
        block = bytes(1 << 12)
        with (self.nodes[name].server.storage_path / FILLER).open("wb", buffering=0) as file:
            try:
                for _ in range(self._disk_bytes // len(block) + 1):
                    file.write(block)
            except OSError:
                return

    def free_disk(self, name: str) -> None:
        """Give it back."""
        (self.nodes[name].server.storage_path / FILLER).unlink(missing_ok=True)

    def _make(self, name: str) -> None:
        host = self.host(name)
        program = [sys.executable, "-m", "skyring", "run"]
        if self._environment:
            program = ["/usr/bin/env", *self._environment, *program]
        ring = (
            *("--nats", self.nats_url, "--ring", self.ring, "--node", name),
            *("--ring:replicas", str(self._servers)),
        )
        server = ServerProcess(
            self.directory / name,
            command=leashed(host.command(program)),
            arguments=(
                *("--host", host.address, "--log:level", "info"),
                *(ring if self.is_ring else ()),
                *self._arguments,
            ),
            ready_timeout_s=START_TIMEOUT_S,
        )
        server.host = host.address
        if self._disk_bytes:
            mount_disk(server.storage_path, self._disk_bytes)
        self.nodes[name] = RingNode(name, server)
