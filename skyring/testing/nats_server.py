"""Real nats-server processes, alone or as a cluster, for tests, benchmarks and trials."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from skyring.cluster.nats_server import server_binary
from skyring.ports import free_port, free_ports
from skyring.testing.processes import pause_process, resume_process

__all__ = [
    "NatsServer",
    "is_whole",
    "server_binary",
    "start_cluster",
    "stop_cluster",
]

START_S_MAX = 30
EXIT_S_MAX = 10
POLL_S = 0.01
ANSWER_BYTES_MAX = 1 << 20
HOST = "127.0.0.1"


class NatsServer:
    """A server process on the loopback; the same ports and the same store after a restart.

    It is ended with the process that started it, where the system can do that (Linux).

    Args:
        directory: for its configuration, log and store; made if it is missing.
        config: more lines of configuration.
        jetstream: shall it have JetStream?
        sync: "always" syncs each message to the disk before it is acknowledged; "default" leaves it
            to the server, which does so every two minutes.
        port: for clients; 0 takes a free one.
        name: of the server.
    """

    def __init__(
        self,
        directory: Path,
        config: str = "",
        *,
        jetstream: bool = True,
        sync: Literal["always", "default"] = "always",
        port: int = 0,
        name: str = "",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if port == 0 else port
        self.monitoring_port = free_port()
        self.name = name
        self.log = directory / "nats.log"
        self.store = directory / "store"
        """The files of JetStream."""
        self._config = directory / "nats.conf"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listen: {HOST}:{self.port}", f"http: {HOST}:{self.monitoring_port}"]
        if name:
            lines.append(f"server_name: {json.dumps(name)}")
        if jetstream:
            store = f"store_dir: {json.dumps(str(self.store))}"
            lines.append(
                f"jetstream {{ {store}{', sync_interval: always' if sync == 'always' else ''} }}"
            )
        self._config.write_text("\n".join([*lines, config, ""]))

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"nats://{HOST}:{self.port}"

    @property
    def monitoring_url(self) -> str:
        """Where it tells about itself."""
        return f"http://{HOST}:{self.monitoring_port}"

    @property
    def pid(self) -> int | None:
        """Of the process; None if it was not started, or ended here."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended by itself; None while it runs."""
        return None if self._process is None else self._process.poll()

    async def start(self) -> None:
        """Returns when it takes connections.

        Raises:
            SkyringError: there is no program to be started.
            RuntimeError: it has ended, and this is the end of its log.
            TimeoutError: it does not come up.
        """
        self.spawn()
        await self.until(self.answers)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for what nobody tells when it is so.

        Raises:
            RuntimeError: it has ended, and this is the end of its log.
            TimeoutError: it never is.
        """
        async with asyncio.timeout(START_S_MAX):
            while not await condition():
                if self.exit_code is not None:
                    raise RuntimeError(f"nats-server has ended: {self.log_end()}")
                await asyncio.sleep(POLL_S)

    def spawn(self) -> None:
        """Start it, and wait for nothing.

        Raises:
            SkyringError: there is no program to be started.
        """
        command = [str(server_binary()), "-c", str(self._config)]
        setpriv = shutil.which("setpriv")
        if setpriv is not None:
            command = [setpriv, "--pdeathsig", "KILL", *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    async def pause(self) -> None:
        """SIGSTOP. Returns when it has taken effect."""
        assert self._process is not None
        await pause_process(self._process.pid)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        resume_process(self._process.pid)

    def kill(self) -> None:
        """SIGKILL. May be called at any time."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that takes too long. May be called at any time."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(EXIT_S_MAX):
                while process.poll() is None:
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            pass
        finally:
            self.kill()

    def erase(self) -> None:
        """Remove what JetStream has stored."""
        shutil.rmtree(self.store, ignore_errors=True)

    def log_end(self, lines_max: int = 5) -> str:
        """The last lines of its log."""
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-lines_max:])

    async def monitoring(self, path: str) -> dict[str, Any]:
        """What it tells about itself, such as ``/varz``; empty if it does not answer."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self.monitoring_port)
        except OSError:
            return {}
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            answer = await reader.read(-1)
        except OSError:
            return {}
        finally:
            await _close(writer)
        try:
            found = json.loads(answer.partition(b"\r\n\r\n")[2][:ANSWER_BYTES_MAX])
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    async def answers(self) -> bool:
        """Does it take connections?"""
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO ")
        except OSError:
            return False
        finally:
            await _close(writer)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        self.kill()


async def start_cluster(
    directory: Path,
    count: int,
    config: str = "",
    *,
    sync: Literal["always", "default"] = "always",
    port: int = 0,
) -> list[NatsServer]:
    """Servers that share JetStream, ready for streams with as many replicas.

    Args:
        directory: for a directory of each.
        count: how many.
        config: more lines of configuration.
        sync: see `NatsServer`.
        port: of the first; the others have those behind it. 0 takes free ones.

    Raises:
        SkyringError: there is no program to be started.
        RuntimeError: one has ended.
        TimeoutError: they do not come together.
    """
    route_ports = free_ports(count)
    routes = ", ".join(f'"nats://{HOST}:{route}"' for route in route_ports)
    servers = [
        NatsServer(
            directory / f"nats-{number}",
            f"cluster {{ name: skyring, listen: {HOST}:{route}, routes: [{routes}] }}\n{config}",
            sync=sync,
            port=port and port + number - 1,
            name=f"nats-{number}",
        )
        for number, route in enumerate(route_ports, 1)
    ]
    try:
        for server in servers:
            server.spawn()
        for server in servers:
            await server.until(partial(is_whole, servers))
    except BaseException:
        for server in servers:
            server.kill()
        raise
    return servers


async def stop_cluster(servers: Sequence[NatsServer]) -> None:
    """End all of them."""
    await asyncio.gather(*(server.stop() for server in servers))


async def is_whole(servers: Sequence[NatsServer]) -> bool:
    """Do all take connections, and has one of them heard of all others that they are there?"""
    for server in servers:
        if not await server.answers():
            return False
    for server in servers:
        cluster = (await server.monitoring("/jsz")).get("meta_cluster") or {}
        replicas = cluster.get("replicas") or []
        if cluster.get("leader") == server.name:
            current = [each for each in replicas if each.get("current")]
            return len(current) == len(servers) - 1
    return False


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
