"""The values for the chart of NATS: what they mean, and that real servers take them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from skyring.cluster.nats_server import MESSAGE_BYTES_MAX
from skyring.ports import free_port
from skyring.settings import load_settings
from skyring.testing.nats_server import NatsServer, server_binary
from tests.deploy.chart import DEPLOY, ROOT, read_yaml, render
from tests.deploy.nats_chart import merged, nats_conf, unknown_keys, written

KUBERNETES = DEPLOY / "kubernetes"
CERTIFICATE = ROOT / "tests" / "contract" / "localhost.pem"
PLAIN: dict[str, Any] = read_yaml(KUBERNETES / "nats-values.yaml")
WITH_TLS: dict[str, Any] = merged(PLAIN, read_yaml(KUBERNETES / "nats-values-tls.yaml"))
BOTH = pytest.mark.parametrize("values", [PLAIN, WITH_TLS], ids=["plain", "tls"])
SIZES = {"Mi": 1 << 20, "Gi": 1 << 30, "MiB": 1 << 20, "GiB": 1 << 30}
SECRETS = {"SKYRING_PASSWORD": "p1a2b3", "SYS_PASSWORD": "p4c5d6", "POD_NAME": "nats-0"}


def in_bytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", size).groups()  # type: ignore[union-attr]
    return int(number) * SIZES[unit]


@BOTH
def test_the_chart_has_all_keys(values: dict[str, Any]) -> None:
    assert unknown_keys(values) == []


def test_a_key_that_the_chart_does_not_have_is_noticed() -> None:
    wrong = merged(PLAIN, {"config": {"jetstream": {"fileStorage": {}}}, "exporter": {}})
    assert unknown_keys(wrong) == ["config.jetstream.fileStorage", "exporter"]


@BOTH
def test_the_servers_take_the_configuration(values: dict[str, Any], tmp_path: Path) -> None:
    conf = nats_conf(values)
    for part in (conf, conf["cluster"]):
        if "tls" in part:
            part["tls"] |= dict.fromkeys(("cert_file", "key_file", "ca_file"), str(CERTIFICATE))
    file = tmp_path / "nats.conf"
    file.write_text(written(conf))
    done = subprocess.run(
        [server_binary(), "-t", "-c", file],
        env=os.environ | SECRETS,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def test_what_the_ring_needs_of_its_servers(tmp_path: Path) -> None:
    config = PLAIN["config"]
    jetstream = config["jetstream"]
    assert jetstream["merge"]["sync_interval"] == "always"
    file = tmp_path / "skyring.toml"
    file.write_text(render().toml)
    settings = load_settings({}, file)
    assert config["cluster"]["replicas"] >= settings.ring.replicas == 3
    # The heartbeats are in a stream that is kept in memory.
    assert jetstream["memoryStore"]["enabled"] is True
    # What NATS counts is smaller than its files are.
    pvc, most = jetstream["fileStore"]["pvc"]["size"], jetstream["fileStore"]["maxSize"]
    assert in_bytes(most) <= 0.85 * in_bytes(pvc)
    assert config["merge"]["max_payload"] == f"<< {MESSAGE_BYTES_MAX >> 20}MB >>"
    container = PLAIN["container"]
    limit = in_bytes(container["merge"]["resources"]["limits"]["memory"])
    assert in_bytes(container["env"]["GOMEMLIMIT"]) <= 0.9 * limit


def test_the_nodes_are_told_the_names_of_the_servers(tmp_path: Path) -> None:
    """The release is called nats: its servers are nats-N.nats-headless."""
    file = tmp_path / "skyring.toml"
    file.write_text(render().toml)
    nats = load_settings({}, file).nats
    routes = nats_conf(PLAIN)["cluster"]["routes"]
    assert list(nats.servers) == [route.replace(":6222", ":4222") for route in routes]
    assert nats.monitoring == "http://nats-headless:8222"


def test_both_sides_read_the_same_secret() -> None:
    def refs(variables: Any) -> dict[str, tuple[str, str]]:
        return {
            name: (ref["name"], ref["key"])
            for name, value in variables
            if "valueFrom" in value and (ref := value["valueFrom"].get("secretKeyRef"))
        }

    server = refs((name, v) for name, v in PLAIN["container"]["env"].items() if isinstance(v, dict))
    node = refs((each["name"], each) for each in render().container["env"])
    assert server["SKYRING_PASSWORD"] == node["SKYRING_NATS__PASSWORD"]
    made = set(re.findall(r"--from-literal=([\w-]+)=", (KUBERNETES / "README.md").read_text()))
    keys = {key for _, key in [*server.values(), *node.values()]}
    assert keys == made == {"user", "password", "sys-password"}
    assert {name for name, _ in [*server.values(), *node.values()]} == {"skyring-nats"}
    (user,) = PLAIN["config"]["merge"]["accounts"]["SKYRING"]["users"]
    assert user["user"] == "skyring"


@BOTH
def test_no_password_stands_in_the_values(values: dict[str, Any]) -> None:
    for account in values["config"]["merge"]["accounts"].values():
        for user in account["users"]:
            assert re.fullmatch(r"<< \$\w+_PASSWORD >>", user["password"])
            assert user["password"].split("$")[1].split()[0] in values["container"]["env"]


def test_nothing_runs_as_root() -> None:
    pod = PLAIN["podTemplate"]["merge"]["spec"]["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for name in ("container", "reloader", "promExporter"):
        context = PLAIN[name]["merge"]["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_one_server_at_a_time_is_taken_away_and_no_two_share_a_machine() -> None:
    assert PLAIN["podDisruptionBudget"]["enabled"] is True
    spread = PLAIN["podTemplate"]["topologySpreadConstraints"]
    assert spread["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
    assert PLAIN["promExporter"]["enabled"] is True


def test_the_network_rules_fit_the_schema() -> None:
    for document in PLAIN["extraResources"]:
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_the_routes_are_encrypted_and_closed_to_strangers() -> None:
    cluster = nats_conf(WITH_TLS)["cluster"]
    assert cluster["tls"]["verify"] is True
    assert all(route.startswith("tls://") for route in cluster["routes"])
    # Skyring shows no certificate of its own.
    assert "verify" not in nats_conf(WITH_TLS)["tls"]


async def test_the_servers_sync_at_once_and_know_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    conf = nats_conf(PLAIN)
    for key in ("server_name", "port", "http_port", "cluster"):
        del conf[key]
    conf["jetstream"]["store_dir"] = str(tmp_path / "store")
    server = NatsServer(tmp_path, written(conf), jetstream=False, port=free_port())
    async with server, asyncio.timeout(30):
        told = await server.monitoring("/varz")
        assert told["jetstream"]["config"]["sync_always"] is True
        assert told["jetstream"]["config"]["max_storage"] == in_bytes("40Gi")
        assert told["jetstream"]["config"]["max_memory"] == in_bytes("256Mi")
        assert told["max_payload"] == MESSAGE_BYTES_MAX
        assert told["system_account"] == "SYS"
        assert told["auth_required"] is True
