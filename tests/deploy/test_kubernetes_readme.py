"""The commands for Kubernetes, of its README and the runbook: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skyring.commands.durations import parse_duration_ms
from tests.deploy.chart import CHART, DEPLOY, ROOT, read_yaml
from tests.deploy.test_chart import rendered
from tests.documents import blocks

README = DEPLOY / "kubernetes" / "README.md"
RUNBOOK = ROOT / "docs" / "runbook.md"
VALUES = read_yaml(CHART / "values.yaml")
NATS_VALUES = read_yaml(DEPLOY / "kubernetes" / "nats-values.yaml")
REPLICAS = {"skyring": VALUES["replicas"], "nats": NATS_VALUES["config"]["cluster"]["replicas"]}


def scripts(page: Path) -> str:
    text = re.sub(r"^ {2}(?=```)", "", page.read_text(encoding="utf-8"), flags=re.M)
    found = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    return "\n".join(found).replace("\\\n", " ")


@pytest.mark.parametrize("page", [README, RUNBOOK], ids=lambda page: page.stem)
def test_the_objects_are_called_so(page: Path) -> None:
    text = scripts(page)
    assert set(re.findall(r"statefulset/([\w-]+)", text)) <= REPLICAS.keys()
    assert rendered("default").one("StatefulSet")["metadata"]["name"] == "skyring"
    for name, number in re.findall(r"statefulset/(\w+) --replicas=([1-9])", text):
        assert REPLICAS[name] == int(number)
    for file in re.findall(r" -f (\S+)", text):
        assert (README.parent / file).exists(), file


@pytest.mark.parametrize("page", [README, RUNBOOK], ids=lambda page: page.stem)
def test_what_is_set_can_be_set(page: Path) -> None:
    for line in scripts(page).splitlines():
        values = VALUES if "./skyring" in line else NATS_VALUES
        for path in re.findall(r"--set(?:-file)? ([\w.]+)=", line):
            where = values
            *above, last = path.split(".")
            for name in above:
                where = where[name]
            assert last in where or above[-1] == "labels", path


def test_the_claims_are_those_of_the_pods() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    loops = re.findall(r"for claim in (.*); do", text)
    (template,) = rendered("default").one("StatefulSet")["spec"]["volumeClaimTemplates"]
    names = {"skyring": template["metadata"]["name"], "nats": "nats-js"}
    assert [loop.split() for loop in loops] == [
        [f"{names[release]}-{release}-{number}" for number in range(count)]
        for release, count in REPLICAS.items()
    ]
    for release in REPLICAS:
        (size,) = re.findall(rf"upgrade {release} .*?size=(\d+Gi)", text, re.S)
        assert f'"storage": "{size}"' in text


def test_every_wait_has_an_end() -> None:
    text = scripts(README)
    waits = re.findall(r"kubectl .*(?:\bwait\b|rollout status).*", text)
    assert len(waits) == 3
    for wait in waits:
        (time,) = re.findall(r"--timeout=(\w+)", wait)
        assert parse_duration_ms(time) > 0


def test_tls_is_turned_on_with_everything_stopped() -> None:
    """A server with TLS between servers and one without do not understand each other."""
    (steps,) = (each for each in blocks(README, "sh") if "--replicas=0" in each)
    stop, wait, nats, nodes, *_ = steps.splitlines()
    assert "statefulset/skyring statefulset/nats --replicas=0" in stop
    assert "--for=delete pod" in wait
    assert "nats-values-tls.yaml" in nats
    assert "caSecretName=nats-ca" in nodes


def test_slots_are_not_said_to_be_changed() -> None:
    section = README.read_text(encoding="utf-8").partition("## Settings")[2].partition("\n## ")[0]
    assert "`slots` is fixed" in section
