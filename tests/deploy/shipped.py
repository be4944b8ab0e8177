"""The files of ``deploy/`` at work: NATS servers from its configuration, and nodes as its users."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from skyring.bench.ring_processes import RingProcesses
from skyring.cluster.leash import leashed
from skyring.nats import Connection, Link, Server, make_link
from skyring.ports import free_ports
from skyring.settings import NatsSettings
from skyring.testing.nats_server import NatsServer, is_whole, server_binary
from tests.deploy.units import Unit, confined

__all__ = [
    "DEPLOY",
    "HOST",
    "RING",
    "Outcome",
    "ShippedNats",
    "ShippedRing",
    "ShippedServer",
    "eventually",
    "run",
    "settled",
    "write_settings",
]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONFIGURATION = ("nats.conf", "accounts.conf")
RING = "main"
RUN_S_MAX = 60
CONNECT_S_MAX = 20
POLL_S = 0.01
HOST = "127.0.0.1"


class Outcome(NamedTuple):
    """How a program ended, and what it said."""

    code: int
    out: str
    err: str


def run(*command: str | Path, cwd: Path, **environment: str) -> Outcome:
    """Run a program to its end."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


class ShippedServer(NatsServer):
    """A server that runs with the files of ``deploy/nats``, copied into its directory.

    Only its addresses are other ones: several run on one machine.

    Args:
        directory: for these files, its log and its store.
        name: of the server; its certificate is in ``certificates/NAME`` of ``made``.
        made: directory with certificates and passwords.
        route_port: for the other servers.
    """

    def __init__(self, directory: Path, name: str, made: Path, route_port: int) -> None:
        super().__init__(directory, name=name)
        self.directory = directory
        self.route_port = route_port
        self.route_ports: Sequence[int] = ()
        self.unit: Unit | None = None
        """Whose restrictions it has, if any."""
        for file in CONFIGURATION:
            shutil.copy(DEPLOY / "nats" / file, directory)
        shutil.copy(made / "passwords.conf", directory)
        shutil.copytree(made / "certificates" / name, directory / "certificates")

    @property
    def url(self) -> str:
        return f"tls://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What the configuration takes from the environment."""
        return {
            "NATS_NAME": self.name,
            "NATS_DATA": str(self.store),
            "NATS_MONITORING": f"{HOST}:{self.monitoring_port}",
        }

    def spawn(self) -> None:
        # Certificates hold names for routes, so that 127.0.0.1 would not do.
        routes = ",".join(f"nats://localhost:{port}" for port in self.route_ports)
        command = [str(server_binary()), "-c", "nats.conf", "-a", HOST, "-p", str(self.port)]
        command += ["--cluster", f"nats://localhost:{self.route_port}", "--routes", routes]
        if self.unit is not None:
            command = confined(self.unit, command)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                leashed(command),
                cwd=self.directory,
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
            )

    def reload(self) -> None:
        """Have it read its files again."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGHUP)

    def log_lines(self, pattern: str) -> list[str]:
        """Lines of its log that match."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if re.search(pattern, line)]


class ShippedNats:
    """Three servers with certificates and passwords as the scripts of ``deploy/nats`` make them.

    Args:
        directory: for everything.
    """

    def __init__(self, directory: Path) -> None:
        self.made = directory / "made"
        self.made.mkdir(parents=True)
        scripts = DEPLOY / "nats"
        names = ("nats-1", "nats-2", "nats-3")
        for command in (
            (scripts / "make-certificates", "--client", "stranger", "certificates", *names),
            (scripts / "make-passwords",),
        ):
            made = run(*command, cwd=self.made)
            assert made.code == 0, made.err
        ports = free_ports(len(names))
        self.servers = [
            ShippedServer(directory / name, name, self.made, port)
            for name, port in zip(names, ports, strict=True)
        ]
        for server in self.servers:
            server.route_ports = ports

    @property
    def urls(self) -> list[str]:
        """Where clients connect to."""
        return [server.url for server in self.servers]

    @property
    def ca_file(self) -> Path:
        return self.made / "certificates" / "ca.pem"

    @cached_property
    def passwords(self) -> dict[str, str]:
        """By user."""
        text = (self.made / "passwords.conf").read_text()
        found = re.findall(r'^(\w+)_PASSWORD: "(.*)"$', text, re.M)
        return {name.lower(): password for name, password in found}

    async def start(self) -> None:
        """Returns when they are a cluster."""
        try:
            for server in self.servers:
                server.spawn()
            for server in self.servers:
                await server.until(partial(is_whole, self.servers))
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End them."""
        for server in self.servers:
            server.kill()

    def refusals(self, user: str) -> list[str]:
        """What the servers have denied to this user, by their logs."""
        pattern = f'/user:{user}" - .* Violation'
        return [line for server in self.servers for line in server.log_lines(pattern)]

    # Those who connect

    def settings(self, user: str, **more: Any) -> NatsSettings:
        """For a link of Skyring as this user."""
        given: dict[str, Any] = {
            "servers": tuple(self.urls),
            "user": user,
            "password": self.passwords[user],
            "ca_file": self.ca_file,
            "reconnect_pause_ms": 10,
            # All connect to the first server, also when this machine is busy: what one has said is
            # not known on the others at once.
            "connect_timeout_ms": CONNECT_S_MAX * 1000,
        }
        return NatsSettings.model_validate(given | more)

    @asynccontextmanager
    async def linked(self, user: str, **more: Any) -> AsyncIterator[Link]:
        """A link of Skyring that has connected as this user."""
        link = make_link(self.settings(user, **more), f"test {user}")
        await link.start()
        try:
            await eventually(lambda: link.session is not None)
            yield link
        finally:
            await link.stop()

    @asynccontextmanager
    async def client(self, role: str, **more: Any) -> AsyncIterator[tuple[Connection, list[str]]]:
        """A connection in this role, and what the server has denied to it so far.

        nats-py's own client would not tell when the server has read everything.
        """
        denied: list[str] = []
        made = Connection(Server(self.urls[0], needs_tls=True))
        made.on_refusal = denied.append
        given: dict[str, Any] = {
            "user": role,
            "password": self.passwords[role],
            "tls": ssl.create_default_context(cafile=self.ca_file),
            "connect_timeout": CONNECT_S_MAX,
        }
        try:
            await made.establish(given | more)
            yield made, denied
        finally:
            await made.dispose()


class ShippedRing(RingProcesses):
    """Nodes of one ring, as real processes, with the user ``node`` unless told otherwise.

    Args:
        directory: for the files of the nodes.
        nats: its servers.
        nodes: how many.
    """

    def __init__(self, directory: Path, nats: ShippedNats, nodes: int, *arguments: str) -> None:
        file = write_settings(directory, nats, "node")
        super().__init__(
            directory, nodes=nodes, servers=3, arguments=("--config", str(file), *arguments)
        )
        self.ring = RING
        self._urls = ",".join(nats.urls)

    @property
    def nats_url(self) -> str:
        return self._urls

    async def start(self) -> None:
        names = [f"n{number}" for number in range(1, self._count + 1)]
        for name in names:
            self._make(name)
        await self._launch(names)
        await self.whole()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self


def write_settings(directory: Path, nats: ShippedNats, user: str, password: str = "") -> Path:
    """A file for ``skyring run --config`` with a way to NATS."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{user}.toml"
    file.write_text(
        "[nats]\n"
        f'user = "{user}"\n'
        f'password = "{password or nats.passwords[user]}"\n'
        f'ca_file = "{nats.ca_file}"\n'
    )
    return file


async def eventually(reached: Callable[[], bool]) -> None:
    """For what nobody tells when it is so."""
    async with asyncio.timeout(RUN_S_MAX):
        while not reached():
            await asyncio.sleep(POLL_S)


async def settled(client: Connection) -> None:
    """The server has read what was sent before, and what it has answered is here."""
    async with asyncio.timeout(CONNECT_S_MAX):
        await client.ping()
