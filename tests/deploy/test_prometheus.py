"""The rules of Prometheus: they are sound, they fire when they should, and each leads somewhere."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.chart import DEPLOY, ROOT, read_yaml
from tests.deploy.metrics import METRICS, names_in, series_of
from tests.deploy.promtool import promtool

PROMETHEUS = DEPLOY / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook.md"
RULES: list[dict[str, Any]] = [
    rule for group in read_yaml(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]
]
CASES = [
    case
    for test in read_yaml(PROMETHEUS / "rules_test.yml")["tests"]
    for case in test["alert_rule_test"]
]
OTHERS = {
    "up",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
}
"""Metrics of Prometheus, the kubelet and node_exporter."""
EVERY_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def anchors() -> set[str]:
    """The sections of the runbook as links name them."""
    titles = re.findall(r"^#+ (.*)$", RUNBOOK.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_configuration_and_the_rules_are_sound() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool(
        "check", "rules", PROMETHEUS / "rules.yml"
    )
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_the_rules_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "rules_test.yml")


@EVERY_RULE
def test_each_rule_is_seen_to_fire_and_not_to_fire(rule: dict[str, Any]) -> None:
    cases = [case for case in CASES if case["alertname"] == rule["alert"]]
    assert any(case.get("exp_alerts") for case in cases)
    assert sum(not case.get("exp_alerts") for case in cases) >= 2


@EVERY_RULE
def test_each_rule_says_what_is_wrong_and_leads_to_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert ROOT / page == RUNBOOK
    assert anchor in anchors()
    assert f"`{rule['alert']}`" in RUNBOOK.read_text(encoding="utf-8")


@EVERY_RULE
def test_each_rule_uses_metrics_that_there_are(rule: dict[str, Any]) -> None:
    known = {name for metric in METRICS for name in series_of(metric)} | OTHERS
    assert names_in(rule["expr"])
    assert names_in(rule["expr"]) <= known


def test_the_links_within_the_runbook() -> None:
    for anchor in re.findall(r"\]\(#([^)]+)\)", RUNBOOK.read_text(encoding="utf-8")):
        assert anchor in anchors()


def test_the_runbook_names_no_alert_that_there_is_not() -> None:
    named = set(re.findall(r"`(Skyring\w+)`", RUNBOOK.read_text(encoding="utf-8")))
    assert named == {rule["alert"] for rule in RULES}


def test_the_job_is_called_as_the_alerts_have_it() -> None:
    (job,) = read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    assert job["job_name"] == "skyring"
    assert job["metrics_path"] == "/metrics"
    wanted = {match for rule in RULES for match in re.findall(r'job="(\w+)"', rule["expr"])}
    assert wanted == {"skyring"}


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up", {"up"}),
        ("sum by (job) (rate(a_total[5m])) / on (job) group_left (x) max(b)", {"a_total", "b"}),
        ('a{job="b", c=~"d{2}"} and b > bool 1 or vector(0)', {"a", "b"}),
        (
            "histogram_quantile(0.99, sum by (le, route) (rate(h_bucket[$__rate_interval])))",
            {"h_bucket"},
        ),
        ("a offset 5m unless b == 1e3", {"a", "b"}),
        ("sum(a) by (job)", {"a"}),
    ],
)
def test_names_are_found(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names
