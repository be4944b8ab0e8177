"""The commands for Kubernetes, in its README and in the runbook: what they name is in the charts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skyring.commands.durations import parse_duration
from tests.deploy.chart import CHART, DEPLOY, ROOT, read_yaml
from tests.deploy.test_chart import rendered
from tests.documents import blocks

README = DEPLOY / "kubernetes" / "README.md"
RUNBOOK = ROOT / "docs" / "runbook.md"
VALUES = read_yaml(CHART / "values.yaml")
NATS_VALUES = read_yaml(DEPLOY / "kubernetes" / "nats-values.yaml")
REPLICAS = {"skyring": VALUES["replicas"], "nats": NATS_VALUES["config"]["cluster"]["replicas"]}


def scripts(page: Path) -> str:
    return "\n".join(blocks(page, "sh")).replace("\\\n", " ")


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


def test_every_wait_has_an_end() -> None:
    text = scripts(README)
    waits = re.findall(r"kubectl .*(?:\bwait\b|rollout status).*", text)
    assert len(waits) == 3
    for wait in waits:
        (time,) = re.findall(r"--timeout=(\w+)", wait)
        assert parse_duration(time) > 0


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
