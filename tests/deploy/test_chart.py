"""The chart renders, and Kubernetes would take what it renders."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from skyring.version import VERSION
from tests.deploy.chart import CHART, DEPLOY, Release, RenderError, read_yaml, render
from tests.deploy.crds import SCHEMAS

KUBERNETES = ("1.30", kubernetes_validate.latest_version())
"""The oldest that the chart takes, and the newest whose schemas there are."""
RULES = (DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8")
STANDALONE = read_yaml(DEPLOY / "kubernetes" / "values-standalone.yaml")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "standalone": STANDALONE,
    "tls and credentials": {
        "nats": {"auth": {"method": "credentials"}, "caSecretName": "nats-ca"},
    },
    "nkey": {"nats": {"auth": {"method": "nkey"}}},
    "token": {"nats": {"auth": {"method": "token"}}},
    "no auth": {"nats": {"auth": {"method": "none"}}},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"rules": RULES, "labels": {"release": "prometheus"}},
    },
    "everything": {
        "replicas": 3,
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "registry"}]},
        "settings": {
            "transport": {"load": ["redis"], "redis": {"url": "redis://redis:6379", "tls": True}},
            "shutdown": {"ready_delay_ms": 0, "drain_ms": 45_500},
        },
        "antiAffinity": "hard",
        "priorityClassName": "important",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "timers", "operator": "Exists"}],
        "extraEnv": [{"name": "SKYRING_LOG__LEVEL", "value": "debug"}],
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "timers"},
        "service": {"type": "LoadBalancer", "annotations": {"c": "d"}},
        "storage": {"storageClassName": "fast"},
        "podDisruptionBudget": {"maxUnavailable": "20%"},
        "topologySpread": {"whenUnsatisfiable": "DoNotSchedule"},
        "networkPolicy": {"receivers": [{"podSelector": {}}]},
    },
}


@functools.cache
def rendered(variant: str) -> Release:
    return render(VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_rendered_fits_the_schemas(variant: str) -> None:
    found = rendered(variant)
    assert found.findings == []
    assert len(found.documents) >= 6
    for document in found.documents:
        if document["kind"] in SCHEMAS:
            jsonschema.validate(document, SCHEMAS[document["kind"]])
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_would_notice() -> None:
    """They are strict: a field that is misspelt is refused, in a pod and in a ServiceMonitor."""
    stateful_set = json.loads(json.dumps(rendered("default").one("StatefulSet")))
    stateful_set["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(stateful_set, KUBERNETES[1], strict=True)
    monitor = json.loads(json.dumps(rendered("monitoring").one("ServiceMonitor")))
    monitor["spec"]["endpoints"][0]["scrape_timeout"] = "1s"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(monitor, SCHEMAS["ServiceMonitor"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_has_a_name_of_its_own_and_the_labels_of_the_release(variant: str) -> None:
    documents = rendered(variant).documents
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(set(names)) == len(names)
    for each in documents:
        assert (
            each["metadata"]["labels"].items()
            >= {
                "app.kubernetes.io/name": "skyring",
                "app.kubernetes.io/instance": "skyring",
            }.items()
        )


def test_two_releases_in_one_namespace_do_not_meet() -> None:
    first, second = render(name="skyring"), render(name="orders")
    named = [
        {(each["kind"], each["metadata"]["name"]) for each in found.documents}
        for found in (first, second)
    ]
    assert named[0] & named[1] == set()
    pods = second.one("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for service in first.all("Service"):
        assert not service["spec"]["selector"].items() <= pods.items()


def test_no_secret_is_rendered() -> None:
    """They would be in the release, and in the repository of whoever keeps the values."""
    for variant in VARIANTS:
        assert rendered(variant).all("Secret") == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"settings": {"nats": {"servers": []}}}, "stand alone"),
        ({"settings": {"node": "a"}}, "the name of the pod"),
        ({"settings": {"nats": {"password": "secret"}}}, "password"),
        ({"settings": {"port": 80}}, "port"),
        ({"settings": {"shutdown": {"drain_ms": "20s"}}}, "drain_ms"),
        ({"replica": 3}, "replica"),
        ({"preStopSeconds": 0}, "preStopSeconds"),
        ({"antiAffinity": "some"}, "antiAffinity"),
        ({"nats": {"auth": {"method": "kerberos"}}}, "method"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RenderError, match=said):
        render(values)


@pytest.mark.parametrize("name", ["a.b", "a" * 52])
def test_a_release_whose_pods_could_be_no_nodes_is_refused(name: str) -> None:
    with pytest.raises(RenderError, match="release is named"):
        render(name=name)


def test_the_version_of_the_chart_is_that_of_the_program() -> None:
    chart = read_yaml(CHART / "Chart.yaml")
    assert chart["appVersion"] == VERSION


def test_other_settings_are_other_pods_and_nothing_else_is() -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = render(values).one("StatefulSet")["spec"]["template"]
        annotation = template["metadata"]["annotations"]["checksum/config"]
        assert isinstance(annotation, str)
        return annotation

    plain = checksum({})
    assert checksum({"settings": {"log": {"level": "debug"}}}) != plain
    assert checksum({"replicas": 7, "service": {"port": 80}}) == plain
