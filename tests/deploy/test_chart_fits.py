"""What the chart says of Skyring is true, and its parts fit each other. No schema knows that."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from skyring.options import setting_options, unknown_variables
from skyring.settings import Settings, load_settings
from tests.deploy.chart import DEPLOY, Release, read_yaml, render
from tests.deploy.stopping import stop_s_max
from tests.deploy.test_chart import VARIANTS, rendered

METADATA_SERVICES = (
    "169.254.169.254",
    "168.63.129.16",  # Azure's, beside the usual one
    "100.100.100.200",  # Alibaba's
    "fd00:ec2::254",
    "fe80::a9fe:a9fe",
)
NODE_LOCAL_DNS = ("169.254.20.10", "169.254.25.10")
"""Where NodeLocal DNSCache listens: of its own manifest, and of Kubespray."""
VARIABLE = re.compile(r"\$\((\w+)\)")


def environment(release: Release, pod: str = "skyring-0") -> dict[str, str]:
    """The variables of a pod, with something in place of each secret."""
    found: dict[str, str] = {}
    for variable in release.container["env"]:
        if "value" in variable:
            value = VARIABLE.sub(lambda match: found[match[1]], variable["value"])
        elif "fieldRef" in variable["valueFrom"]:
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
            value = pod
        else:
            value = f"from {variable['valueFrom']['secretKeyRef']['key']}"
        found[variable["name"]] = value
    return found


def settings(
    release: Release, directory: Path, monkeypatch: pytest.MonkeyPatch, pod: str = "skyring-0"
) -> Settings:
    """The settings of a node, as the program reads them."""
    file = directory / "skyring.toml"
    file.write_text(release.toml)
    with monkeypatch.context() as patched:
        for name, value in environment(release, pod).items():
            patched.setenv(name, value)
        return load_settings({}, file)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


@functools.cache
def pod_labels() -> Mapping[str, str]:
    labels: dict[str, str] = rendered("default").one("StatefulSet")["spec"]["template"]["metadata"][
        "labels"
    ]
    return labels


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variable_is_a_setting(variant: str) -> None:
    known = {option.env for option in setting_options()}
    names = [variable["name"] for variable in rendered(variant).container["env"]]
    assert set(names) <= known
    assert len(set(names)) == len(names)
    assert unknown_variables(environment(rendered(variant))) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_program_reads_its_settings(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(rendered(variant), tmp_path, monkeypatch)
    assert (found.host, found.port) == ("0.0.0.0", 3000)
    assert found.node == "skyring-0"
    assert found.log.format == "json"
    assert bool(found.nats.servers) == (variant != "standalone")
    mounts = {each["mountPath"]: each for each in rendered(variant).container["volumeMounts"]}
    assert mounts[str(found.storage.path)]["name"] == "data"
    for file in (found.nats.credentials_file, found.nats.nkey_seed_file, found.nats.ca_file):
        assert file is None or str(file.parent) in mounts
    args = rendered(variant).container["args"]
    assert args == ["run", "--config", "/etc/skyring/skyring.toml"]
    assert mounts[args[2]]["subPath"] == "skyring.toml"


@pytest.mark.parametrize(
    ("variant", "given"),
    [
        ("default", {"user", "password"}),
        ("token", {"token"}),
        ("nkey", {"nkey_seed_file"}),
        ("tls and credentials", {"credentials_file", "ca_file"}),
        ("no auth", set()),
        ("standalone", set()),
    ],
)
def test_the_way_into_nats(
    variant: str, given: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats = settings(rendered(variant), tmp_path, monkeypatch).nats
    ways = ("user", "password", "token", "credentials_file", "nkey_seed_file", "ca_file")
    assert {way for way in ways if getattr(nats, way) is not None} == given
    volumes = [each for each in rendered(variant).pod["volumes"] if "secret" in each]
    assert len(volumes) == sum(way.endswith("_file") for way in given)


def test_options_of_transports_reach_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(rendered("everything"), tmp_path, monkeypatch)
    assert found.transport.load == ("redis",)
    assert found.transport.options == {"redis": {"url": "redis://redis:6379", "tls": True}}
    assert found.log.level == "debug"


def test_the_name_that_a_node_advertises_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pod.service.namespace.svc`` is what the DNS of Kubernetes has for a StatefulSet."""
    release = rendered("default")
    stateful_set = release.one("StatefulSet")
    headless = release.one("Service", stateful_set["spec"]["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True
    for number in range(stateful_set["spec"]["replicas"]):
        pod = f"{stateful_set['metadata']['name']}-{number}"
        found = settings(release, tmp_path, monkeypatch, pod)
        assert found.node == pod
        host = f"{pod}.{headless['metadata']['name']}.timers.svc"
        assert found.advertise == f"http://{host}:{headless['spec']['ports'][0]['port']}"


def test_the_services_lead_to_the_port_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = rendered("default")
    (port,) = release.container["ports"]
    assert port["containerPort"] == settings(release, tmp_path, monkeypatch).port == 3000
    assert {each["metadata"]["name"] for each in release.all("Service")} == {
        "skyring",
        "skyring-headless",
    }
    for service in release.all("Service"):
        (found,) = service["spec"]["ports"]
        assert (found["port"], found["targetPort"]) == (3000, port["name"])
        assert selects(service["spec"]["selector"], pod_labels())
    # A service called skyring would make SKYRING_PORT=tcp://… in every pod.
    assert release.pod["enableServiceLinks"] is False


@pytest.mark.parametrize("variant", ["default", "everything", "standalone"])
def test_the_grace_period_is_longer_than_any_stop(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = rendered(variant)
    found = settings(release, tmp_path, monkeypatch)
    before_s = release.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    stop_s = stop_s_max(found.shutdown, transports=1 + len(found.transport.load))
    grace_s = release.pod["terminationGracePeriodSeconds"]
    assert grace_s >= before_s + stop_s
    assert found.shutdown.drain_ms >= found.delivery.timeout_ms


def test_the_first_probe_waits_for_all_that_a_start_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = rendered("default")
    found = settings(release, tmp_path, monkeypatch)
    probe = release.container["startupProbe"]
    allowed_ms = probe["periodSeconds"] * probe["failureThreshold"] * 1000
    assert allowed_ms >= 2 * (found.delivery.open_timeout_ms + found.storage.reopen_timeout_ms)
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert release.container[name]["httpGet"]["port"] == "http"
        assert release.container[name]["timeoutSeconds"] <= release.container[name]["periodSeconds"]


def test_one_pod_at_a_time_is_taken_away() -> None:
    release = rendered("default")
    budget = release.one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert selects(budget["selector"]["matchLabels"], pod_labels())
    stateful_set = release.one("StatefulSet")["spec"]
    assert selects(stateful_set["selector"]["matchLabels"], pod_labels())
    assert stateful_set["updateStrategy"]["type"] == "RollingUpdate"
    assert stateful_set["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == 1
    assert stateful_set["podManagementPolicy"] == "Parallel"
    assert stateful_set["replicas"] == 5
    assert rendered("standalone").all("PodDisruptionBudget") == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_selector_holds_while_a_new_version_is_rolled_out(variant: str) -> None:
    """By what never changes: a budget that knows the new pods only would let the old ones go."""
    release = rendered(variant)
    unchanging = {"app.kubernetes.io/name": "skyring", "app.kubernetes.io/instance": "skyring"}
    assert release.one("StatefulSet")["spec"]["selector"] == {"matchLabels": unchanging}
    for budget in release.all("PodDisruptionBudget"):
        assert budget["spec"]["selector"] == {"matchLabels": unchanging}
    for policy in release.all("NetworkPolicy"):
        assert policy["spec"]["podSelector"] == {"matchLabels": unchanging}
    for service in release.all("Service"):
        assert service["spec"]["selector"] == unchanging


@pytest.mark.parametrize("variant", ["default", "everything"])
def test_the_pods_are_kept_apart(variant: str) -> None:
    pod = rendered(variant).pod
    rules = pod["affinity"]["podAntiAffinity"]
    if variant == "default":
        (weighted,) = rules["preferredDuringSchedulingIgnoredDuringExecution"]
        term = weighted["podAffinityTerm"]
    else:
        (term,) = rules["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    (spread,) = pod["topologySpreadConstraints"]
    for selector in (term["labelSelector"], spread["labelSelector"]):
        assert selects(selector["matchLabels"], pod_labels())


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_runs_as_root(variant: str) -> None:
    """The profile "restricted" of the Pod Security Standards, and read-only beside the volumes."""
    pod = rendered(variant).pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["fsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert context.get("runAsUser", 10001) == 10001
        assert not context.get("privileged", False)
        written = {each["name"] for each in container["volumeMounts"] if not each.get("readOnly")}
        assert written == {"data", "tmp"}
    for volume in pod["volumes"]:
        assert volume.keys() & {"configMap", "secret", "emptyDir"}


def test_the_resources_have_a_bound_and_the_processor_has_none() -> None:
    resources = rendered("default").container["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"].keys() == {"memory"}


def test_the_network_lets_in_clients_and_out_to_nats() -> None:
    release = rendered("default")
    policy = release.one("NetworkPolicy")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], pod_labels())
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    (way_in,) = policy["ingress"]
    assert way_in["ports"] == [{"port": "http", "protocol": "TCP"}]
    dns, nats, receivers = policy["egress"]
    assert {(each["port"], each["protocol"]) for each in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    nats_values = read_yaml(DEPLOY / "kubernetes" / "nats-values.yaml")
    (nats_policy,) = nats_values["extraResources"]
    nats_labels = nats_policy["spec"]["podSelector"]["matchLabels"]
    (peer,) = nats["to"]
    assert selects(peer["podSelector"]["matchLabels"], nats_labels)
    assert [each["port"] for each in nats["ports"]] == [4222, 8222]
    # And the servers let the nodes in.
    (clients,) = (
        rule
        for rule in nats_policy["spec"]["ingress"]
        if 4222 in [each["port"] for each in rule["ports"]]
    )
    assert selects(clients["from"][0]["podSelector"]["matchLabels"], pod_labels())
    assert "ports" not in receivers


def test_no_callback_reaches_the_metadata_service_of_a_cloud() -> None:
    *_, receivers = rendered("default").one("NetworkPolicy")["spec"]["egress"]
    blocks = [each["ipBlock"] for each in receivers["to"] if "ipBlock" in each]
    assert len(blocks) == 2
    for address in map(ipaddress.ip_address, METADATA_SERVICES):
        for block in blocks:
            inside = address in ipaddress.ip_network(block["cidr"])
            left_out = any(address in ipaddress.ip_network(each) for each in block["except"])
            assert not inside or left_out, (address, block)


def test_a_cache_of_names_on_the_machine_is_reached_and_nothing_else_there() -> None:
    """It has the network of its machine, so that no selector of pods finds it."""
    dns, *others = rendered("default").one("NetworkPolicy")["spec"]["egress"]
    assert {each["port"] for each in dns["ports"]} == {53}

    def reach(rule: Mapping[str, Any], address: str) -> bool:
        found, blocks = ipaddress.ip_address(address), [each.get("ipBlock") for each in rule["to"]]
        return any(
            found in ipaddress.ip_network(block["cidr"])
            and not any(found in ipaddress.ip_network(each) for each in block.get("except", ()))
            for block in blocks
            if block is not None
        )

    for address in NODE_LOCAL_DNS:
        assert reach(dns, address)
        assert not any(reach(rule, address) for rule in others)


def test_prometheus_reads_each_node_once() -> None:
    release = rendered("monitoring")
    monitor = release.one("ServiceMonitor")["spec"]
    found = [
        service
        for service in release.all("Service")
        if selects(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    ]
    assert [each["spec"]["clusterIP"] for each in found] == ["None"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in [each["name"] for each in found[0]["spec"]["ports"]]
    assert endpoint["path"] == "/metrics"
    assert int(endpoint["scrapeTimeout"][:-1]) <= int(endpoint["interval"][:-1])
    # The alerts and the dashboard look for this job.
    assert found[0]["metadata"]["labels"][monitor["jobLabel"]] == "skyring"


def test_the_alerts_are_those_of_the_file() -> None:
    rule = rendered("monitoring").one("PrometheusRule")
    assert rule["spec"] == read_yaml(DEPLOY / "prometheus" / "rules.yml")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rendered("default").all("PrometheusRule") == []


def test_the_values_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DEPLOY / "kubernetes" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    values: dict[str, Any] = yaml.safe_load(block)
    found = settings(render(values), tmp_path, monkeypatch)
    assert (found.ring.name, found.delivery.in_flight_max) == ("orders", 2048)
    assert found.ring.replicas == 3
    assert found.transport.options["redis"]["password"] == "from password"
