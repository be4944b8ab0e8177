#!/usr/bin/env python3
"""Starts the cluster of docker-compose.yml, and shows that it keeps what is promised.

    .venv/bin/python deploy/compose/rehearse.py     # needs Docker

It sends the curl lines of the README through nginx; creates timers while one node after another
and a NATS server are killed and started again; restarts all nodes in turn under load; and counts.
The cluster has a name and volumes of its own, and is removed in the end, unless --keep is given.
Ends with 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from load import Load, Receiver, Sent, percentile

from tests.documents import blocks, commands, curl, expected_status

NODES = [f"node-{number}" for number in range(1, 6)]
START_TIMEOUT_S = 300
HEALTHY_TIMEOUT_S = 120
DELIVERED_TIMEOUT_S = 60
BETWEEN_S = 3.0
"""Between a node that is well again and the next blow."""
LATE_S_MAX = 5.0
"""A delivery during a rolling restart may be so late."""
CREATES_PER_S = 70.0
ROLLING_PER_S = 50.0


class Failed(Exception):
    """The rehearsal cannot go on."""


class Compose:
    """The command of Docker for several containers, of either kind."""

    def __init__(self, project: str, environment: dict[str, str]) -> None:
        self._command = [*_compose_command(), "-p", project, "-f", str(HERE / "docker-compose.yml")]
        self._environment = os.environ | environment
        self._project = project

    def run(self, *arguments: str, timeout_s: float = START_TIMEOUT_S) -> str:
        """What a command says; raises Failed when it fails."""
        command = [*self._command, *arguments]
        done = subprocess.run(
            command,
            cwd=HERE,  # where .env is
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            raise Failed(f"{' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-2_000:]}")
        return done.stdout

    async def later(self, *arguments: str) -> str:
        """The same beside other work."""
        return await asyncio.to_thread(self.run, *arguments)

    def container(self, service: str) -> str:
        """Id of the container of a service."""
        return self.run("ps", "-a", "-q", service).strip()

    async def until_healthy(self, services: Sequence[str]) -> None:
        """Wait until containers say that they are well."""
        ids = {service: await asyncio.to_thread(self.container, service) for service in services}
        async with asyncio.timeout(HEALTHY_TIMEOUT_S):
            for service, container in ids.items():
                while (
                    await _docker("inspect", "-f", "{{.State.Health.Status}}", container)
                    != "healthy"
                ):
                    await asyncio.sleep(0.25)
                print(f"  {service} is well", flush=True) if len(ids) > 1 else None


def _compose_command() -> list[str]:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise Failed("neither `docker compose` nor docker-compose is installed")


async def _docker(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    if process.returncode:
        raise Failed(f"docker {arguments[0]} failed: {error.decode().strip()}")
    return out.decode().strip()


class Rehearsal:
    """All acts of it, and what came of each.

    Args:
        compose: starts and stops.
        url: where nginx listens.
        network: first three bytes of the addresses of the ring; .1 is this machine.
        timers: how many are created while nodes are killed.
    """

    def __init__(self, compose: Compose, url: str, network: str, timers: int) -> None:
        self.compose = compose
        self.url = url
        self.gateway = f"{network}.1"
        self.timers = timers
        self.report: dict[str, Any] = {}
        self.broken: list[str] = []

    async def play(self) -> None:
        """All acts, one after the other."""
        self.report["versions"] = await self._versions()
        async with Receiver() as receiver:
            self.report["README"] = await self._readme(receiver)
            self.report["kills"] = await self._act(
                receiver, self.timers, CREATES_PER_S, self._kill_all_in_turn, (3_000, 20_000)
            )
            rolling = await self._act(
                receiver, 0, ROLLING_PER_S, self._restart_all_in_turn, (1_000, 10_000)
            )
            self.report["rolling restart"] = rolling
            if rolling["late_s_max"] > LATE_S_MAX:
                self.broken.append(f"a delivery was {rolling['late_s_max']:.1f} s late")

    async def _readme(self, receiver: Receiver) -> dict[str, Any]:
        """The curl lines of the README; only where the callbacks lead is another address."""
        answers = []
        found = [command for block in blocks(README, "sh") for command in commands(block)]
        for command in (each for each in found if each.startswith("curl ")):
            addresses = (self.url.partition("//")[2], f"{self.gateway}:{receiver.port}")
            status, _ = await curl(command, *addresses)
            answers.append(status)
            if status != expected_status(command):
                self.broken.append(f"{status} to {command}")
        await receiver.wait_for_any(DELIVERED_TIMEOUT_S)
        if not receiver.arrived:
            self.broken.append("the timer of the README did not come")
        return {"answers": answers, "deliveries": len(receiver.arrived)}

    async def _versions(self) -> dict[str, str]:
        found = {"docker": await _docker("version", "-f", "{{.Server.Version}}")}
        for service, command in (
            ("node-1", ("skyring", "--version")),
            ("nats-1", ("nats-server", "--version")),
        ):
            found[service] = await _docker("exec", self.compose.container(service), *command)
        nginx = self.compose.container("nginx")
        found["nginx"] = await _docker("exec", nginx, "sh", "-c", "nginx -v 2>&1")
        size = await _docker(
            "image", "inspect", "-f", "{{.Size}}", _image("SKYRING_IMAGE", "skyring:latest")
        )
        base = await _docker(
            "image", "inspect", "-f", "{{.Size}}", _image("SKYRING_BASE_IMAGE", "python:3.12-slim")
        )
        found["image beyond its base"] = f"{(int(size) - int(base)) / 1e6:.0f} MB"
        return found

    async def _act(
        self,
        receiver: Receiver,
        count: int,
        per_s: float,
        blows: Callable[[], Awaitable[list[str]]],
        timeouts_ms: tuple[int, int],
    ) -> dict[str, Any]:
        """Timers under load and blows; what was promised of them."""
        load = Load(self.url, f"http://{self.gateway}:{receiver.port}/", per_s, timeouts_ms)
        receiver.forget()
        sending = asyncio.create_task(load.run(count))
        struck = await blows()
        load.stop()
        sent = await sending
        done = [each for each in sent if each.id]
        await receiver.wait_for({each.id for each in done}, DELIVERED_TIMEOUT_S)
        result = _result(sent, receiver) | {"blows": struck}
        for name in ("failed", "lost", "early"):
            if result[name]:
                self.broken.append(f"{result[name]} timers {name} while {', '.join(struck)}")
        print(json.dumps(result), flush=True)
        return result

    async def _kill_all_in_turn(self) -> list[str]:
        struck = []
        for number, node in enumerate(NODES):
            await asyncio.sleep(BETWEEN_S)
            if number == 2:
                struck.append("kill nats-2")
                await self._kill("nats-2")
                await asyncio.sleep(BETWEEN_S)
                await self._start("nats-2")
            struck.append(f"kill {node}")
            await self._kill(node)
            await asyncio.sleep(BETWEEN_S)
            await self._start(node)
        return struck

    async def _kill(self, service: str) -> None:
        print(f"kill {service}", flush=True)
        await _docker("kill", "-s", "KILL", self.compose.container(service))

    async def _start(self, service: str) -> None:
        await _docker("start", self.compose.container(service))
        await self.compose.until_healthy([service])

    async def _restart_all_in_turn(self) -> list[str]:
        struck = []
        for node in NODES:
            await asyncio.sleep(BETWEEN_S)
            print(f"restart {node}", flush=True)
            struck.append(f"restart {node}")
            container = self.compose.container(node)
            await _docker("stop", "-t", "30", container)
            await self._start(node)
        await asyncio.sleep(BETWEEN_S)
        return struck


def _image(variable: str, default: str) -> str:
    """The name of an image, as compose finds it."""
    if variable in os.environ:
        return os.environ[variable]
    file = HERE / ".env"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next(
        (line.partition("=")[2] for line in lines if line.startswith(f"{variable}=")), default
    )


def _result(sent: Sequence[Sent], receiver: Receiver) -> dict[str, Any]:
    done = [each for each in sent if each.id]
    late_ms = sorted(
        arrivals[0].late_ms for each in done if (arrivals := receiver.arrived.get(each.id))
    )
    latencies_ms = sorted(each.took_ms for each in sent)
    return {
        "timers": len(sent),
        "failed": len(sent) - len(done),
        "statuses": {
            str(status): sum(each.status == status for each in sent)
            for status in sorted({each.status for each in sent})
        },
        "lost": sum(each.id not in receiver.arrived for each in done),
        "early": sum(late < 0 for late in late_ms),
        "twice": sum(len(receiver.arrived.get(each.id, ())) > 1 for each in done),
        "late_ms_p50": percentile(late_ms, 50),
        "late_ms_p99": percentile(late_ms, 99),
        "late_s_max": round(late_ms[-1] / 1000, 3) if late_ms else 0.0,
        "create_ms_p50": percentile(latencies_ms, 50),
        "create_ms_p99": percentile(latencies_ms, 99),
        "create_ms_max": latencies_ms[-1] if latencies_ms else 0.0,
    }


@asynccontextmanager
async def _cluster(compose: Compose, keep: bool) -> Any:
    print("building and starting; that takes some minutes the first time", flush=True)
    began_s = time.monotonic()
    try:
        compose.run("build", "node-1", timeout_s=3 * START_TIMEOUT_S)
        compose.run("up", "-d")
        await compose.until_healthy(["nginx"])
        print(f"all is well after {time.monotonic() - began_s:.0f} s", flush=True)
        yield
    finally:
        if not keep:
            compose.run("--profile", "monitoring", "down", "-v")


async def _main(arguments: argparse.Namespace) -> int:
    environment = {
        "SKYRING_NETWORK": arguments.network,
        "SKYRING_PORT_PUBLISHED": str(arguments.port),
    }
    compose = Compose(arguments.project, environment)
    rehearsal = Rehearsal(
        compose, f"http://127.0.0.1:{arguments.port}", arguments.network, arguments.timers
    )
    async with _cluster(compose, arguments.keep):
        await rehearsal.play()
    text = json.dumps(rehearsal.report, indent=1)
    if arguments.report:
        arguments.report.write_text(text + "\n", encoding="utf-8")
    print(text)
    for each in rehearsal.broken:
        print(f"BROKEN: {each}")
    return 1 if rehearsal.broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timers", type=int, default=5_000, help="while nodes are killed (5000)")
    parser.add_argument("--port", type=int, default=8080, help="where nginx listens (8080)")
    parser.add_argument("--network", default="10.213.57", help="first three bytes of its addresses")
    parser.add_argument("--project", default="skyring-rehearsal", help="name of the cluster")
    parser.add_argument("--report", type=Path, help="write what came of it there, as JSON")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(_main(_arguments())))
    except Failed as error:
        sys.exit(f"rehearse: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
