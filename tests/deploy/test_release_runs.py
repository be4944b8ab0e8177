"""The real program with the settings of the chart, on real servers with the values for NATS."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyring.bench.client import status_or_none
from skyring.bench.process import ServerProcess
from skyring.ports import free_port
from skyring.testing.nats_server import NatsServer
from tests.acceptance.receiver import CallbackReceiver
from tests.deploy.chart import DEPLOY, Release, read_yaml
from tests.deploy.nats_chart import nats_conf, written
from tests.deploy.test_chart import rendered
from tests.deploy.test_chart_fits import environment

NATS_VALUES = read_yaml(DEPLOY / "kubernetes" / "nats-values.yaml")
PASSWORD = "p0123456789abcdef"
NODES = 3
WAIT_S_MAX = 60


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Secret of the README holds."""
    monkeypatch.setenv("SKYRING_PASSWORD", PASSWORD)
    monkeypatch.setenv("SYS_PASSWORD", "p1")
    monkeypatch.setenv("SKYRING_NATS__USER", "skyring")
    monkeypatch.setenv("SKYRING_NATS__PASSWORD", PASSWORD)


def probe_paths(release: Release) -> set[str]:
    names = ("startupProbe", "livenessProbe", "readinessProbe")
    return {release.container[name]["httpGet"]["path"] for name in names}


def node(release: Release, directory: Path, number: int, *options: str) -> ServerProcess:
    """A node as its pod would start it; other are only what differs on one machine."""
    directory.mkdir()
    file = directory / "skyring.toml"
    file.write_text(release.toml)
    variables = environment(release, f"skyring-{number}")
    arguments = ["--config", str(file), "--node", variables["SKYRING_NODE"]]
    arguments += ["--advertise", variables["SKYRING_ADVERTISE"], *options]
    return ServerProcess(directory, arguments=arguments, ready_timeout_s=WAIT_S_MAX)


def servers(directory: Path) -> list[NatsServer]:
    """The servers of the StatefulSet of NATS, on the loopback."""
    routes = [free_port() for _ in range(NATS_VALUES["config"]["cluster"]["replicas"])]
    found = []
    for number, port in enumerate(routes):
        conf = nats_conf(NATS_VALUES)
        for key in ("server_name", "port", "http_port"):
            del conf[key]
        conf["cluster"] |= {
            "host": "127.0.0.1",
            "port": port,
            "routes": [f"nats://127.0.0.1:{each}" for each in routes],
        }
        conf["jetstream"]["store_dir"] = str(directory / f"store-{number}")
        folder = directory / f"nats-{number}"
        found.append(NatsServer(folder, written(conf), jetstream=False, name=f"nats-{number}"))
    return found


async def has_leader(each: NatsServer) -> bool:
    cluster: dict[str, Any] = (await each.monitoring("/jsz")).get("meta_cluster") or {}
    return bool(cluster.get("leader")) and cluster.get("cluster_size") == NODES


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[list[NatsServer]]:
    found = servers(tmp_path)
    try:
        for each in found:
            each.spawn()
        yield found
    finally:
        for each in found:
            each.kill()


@contextlib.asynccontextmanager
async def ring(
    release: Release, directory: Path, nats: list[NatsServer]
) -> AsyncIterator[list[ServerProcess]]:
    for server in nats:
        await server.until(partial(has_leader, server))
    urls = ",".join(server.url for server in nats)
    options = ("--nats", urls, "--nats:monitoring", nats[0].monitoring_url)
    nodes = [
        node(release, directory / f"node-{number}", number, *options) for number in range(NODES)
    ]
    try:
        for each in nodes:  # all at once, as podManagementPolicy has it
            each.launch()
        for each in nodes:
            await each.wait_ready()
        yield nodes
    finally:
        for each in nodes:
            await each.kill()


async def test_one_node_with_the_values_for_one(tmp_path: Path) -> None:
    release = rendered("standalone")
    async with node(release, tmp_path / "node", 0) as server:
        for path in probe_paths(release):
            assert await status_or_none(server.host, server.port, path, timeout_s=5) == 200, path
        assert (server.storage_path / "CURRENT").exists()


async def test_a_ring_with_the_values_for_nats(tmp_path: Path, nats: list[NatsServer]) -> None:
    release = rendered("default")
    grace_s = release.pod["terminationGracePeriodSeconds"]
    async with (
        ring(release, tmp_path, nats) as nodes,
        CallbackReceiver() as receiver,
        httpx.AsyncClient() as http,
    ):
        for path in probe_paths(release):
            for each in nodes:
                assert await status_or_none(each.host, each.port, path, timeout_s=5) == 200
        view = (await http.get(f"{nodes[0].url}/ring")).json()
        assert view["log"] | {"id": ""} == {"id": "", "replicas": 3, "sync": "always"}
        assert {each["node"]: each["address"] for each in view["members"]} == {
            f"skyring-{number}": f"http://skyring-{number}.skyring-headless.timers.svc:3000"
            for number in range(NODES)
        }
        timer = {"timeout": 1, "callback": receiver.callback()}
        for each in nodes:
            assert (await http.post(f"{each.url}/timer", json=timer)).status_code == 201
        assert len(await receiver.wait(NODES)) == NODES
        # One pod is taken away: it ends by itself, long before it would be killed.
        began = time.monotonic()
        assert await nodes[-1].stop(grace_s) == 0
        assert time.monotonic() - began < grace_s / 2
        assert (await http.post(f"{nodes[0].url}/timer", json=timer)).status_code == 201
        assert len(await receiver.wait(NODES + 1)) == NODES + 1
