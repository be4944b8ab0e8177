"""The files of deploy/compose and the Dockerfile: what can be told without Docker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from skyring.settings import ShutdownSettings, load_settings
from tests.deploy.stopping import stop_s_max

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
NODES = [f"node-{number}" for number in range(1, 6)]
SERVERS = ["nats-1", "nats-2", "nats-3"]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text(encoding="utf-8"))
    found = document["services"]
    assert isinstance(found, dict)
    return found


def defaults(text: str) -> str:
    """A value as it is when nothing is in the environment."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("node", NODES)
def test_the_settings_of_a_node(
    node: str, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SKYRING_")]:
        monkeypatch.delenv(name)
    environment = services[node]["environment"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert settings.node == node
    assert settings.advertise == f"http://{node}:3000"
    assert list(settings.nats.servers) == [f"{server}:4222" for server in SERVERS]
    assert settings.ring.replicas == len(SERVERS)
    assert services[node]["volumes"] == [f"{node}:/data"], "each has a volume of its own"


@pytest.mark.parametrize("node", NODES)
def test_a_node_has_time_to_stop(node: str, services: dict[str, Any]) -> None:
    grace_s = int(services[node]["stop_grace_period"].removesuffix("s"))
    drain_ms = int(services[node]["environment"]["SKYRING_SHUTDOWN__DRAIN_MS"])
    assert grace_s >= stop_s_max(ShutdownSettings(drain_ms=drain_ms))


def test_nginx_knows_all_nodes_where_they_are(services: dict[str, Any]) -> None:
    hosts = {
        name: address
        for name, _, address in (
            defaults(each).partition(":") for each in services["nginx"]["extra_hosts"]
        )
    }
    addresses = {
        node: defaults(services[node]["networks"]["ring"]["ipv4_address"]) for node in NODES
    }
    assert hosts == addresses
    assert len(set(addresses.values())) == len(NODES)
    text = (COMPOSE / "nginx.conf").read_text(encoding="utf-8")
    assert re.findall(r"server (\S+):3000 ", text) == NODES


def test_nginx_waits_as_long_as_a_node_does(services: dict[str, Any]) -> None:
    text = (COMPOSE / "nginx.conf").read_text(encoding="utf-8")
    (read_s,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    for node in NODES:
        timeout_ms = services[node]["environment"]["SKYRING_RING__REQUEST_TIMEOUT_MS"]
        assert int(read_s) * 1_000 > int(timeout_ms)
    (body,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(body) << 20 == load_settings({}).http.bulk_bytes_max


def test_nats_syncs_what_it_acknowledges(services: dict[str, Any]) -> None:
    text = (COMPOSE / "nats.conf").read_text(encoding="utf-8")
    assert re.search(r"^ +sync_interval: always$", text, re.M)
    assert re.findall(r"nats://(nats-\d):6222", text) == SERVERS
    for server in SERVERS:
        assert services[server]["environment"] == {"NATS_NAME": server}
        assert f"{server}:/data" in services[server]["volumes"]


def test_prometheus_reads_all_nodes() -> None:
    document = yaml.safe_load((COMPOSE / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = document["scrape_configs"]
    assert job["job_name"] == "skyring"
    assert job["static_configs"][0]["targets"] == [f"{node}:3000" for node in NODES]


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["--nonsense"], "unrecognized arguments", 2),
        (["--timers", "many"], "invalid int value", 2),
        (["--help"], "--report", 0),
    ],
)
def test_the_rehearsal_tells_what_is_wrong(arguments: list[str], expected: str, code: int) -> None:
    command = [sys.executable, str(COMPOSE / "rehearse.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert expected in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [(["--help"], "Usage: make-images", 0), (["--nonsense"], "no option --nonsense", 2)],
)
def test_making_images_tells_what_is_wrong(arguments: list[str], expected: str, code: int) -> None:
    done = subprocess.run(
        [str(COMPOSE / "make-images"), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code
    assert expected in done.stdout + done.stderr
