"""The dashboard: Grafana can read it, and every panel shows something on a ring."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.chart import DEPLOY, read_yaml
from tests.deploy.metrics import METRICS, SCRAPED, VALUES, names_in, series_of
from tests.deploy.promtool import promtool

GRAFANA = DEPLOY / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "skyring.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
COLUMNS = 24
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
ONLY_OF_PROMETHEUS = {"titleFormat"}
"""Of an annotation: the data source reads it, the schema of Grafana itself does not know it."""
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}
GROUPED = re.compile(r"\bby \(([^)]*)\)")
MATCHED = re.compile(r"\b(\w+)\{([^}]*)\}")


def prometheus(expression: str) -> str:
    """The expression as Grafana would send it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def expressions() -> list[str]:
    found = [target["expr"] for panel in SHOWN for target in panel["targets"]]
    found += [each["expr"] for each in DASHBOARD["annotations"]["list"] if "expr" in each]
    return [prometheus(each) for each in found]


def queries() -> list[str]:
    """What the variables are filled with: ``label_values(series, label)``."""
    variables = DASHBOARD["templating"]["list"]
    return [each["query"]["query"] for each in variables if each["type"] == "query"]


def lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """What of a tree is not there any more, or is different."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{path}.{key}"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (first, second) in enumerate(zip(before, after, strict=True)):
            yield from lost(first, second, f"{path}[{number}]")
    elif before != after:
        yield path


def as_grafana_reads_it(dashboard: dict[str, Any]) -> Any:
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_grafana_knows_every_field() -> None:
    """By the types that Grafana Labs makes of its own schema: what they do not know is lost."""
    unknown = set(lost(DASHBOARD, as_grafana_reads_it(DASHBOARD)))
    assert {path.rpartition(".")[2] for path in unknown} <= ONLY_OF_PROMETHEUS


def test_a_field_that_is_misspelt_is_noticed() -> None:
    wrong = json.loads(json.dumps(DASHBOARD))
    wrong["panels"][1]["targets"][0]["legend"] = "x"
    wrong["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"
    found = set(lost(wrong, as_grafana_reads_it(wrong)))
    assert ".panels[1].targets[0].legend" in found
    assert ".panels[1].fieldConfig.defaults.units" in found


def test_the_head_of_the_dashboard() -> None:
    assert DASHBOARD["uid"] == "skyring"
    assert DASHBOARD["title"] == "Skyring"
    assert DASHBOARD["schemaVersion"] == Dashboard().schema_version == 41
    assert "id" not in DASHBOARD  # which a Grafana gives it
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == [
        *("datasource", "job", "instance")
    ]


def test_the_panels_have_ids_titles_and_explanations_of_their_own() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    assert all(panel["description"] for panel in SHOWN)


def test_no_panel_lies_on_another_one() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        rows = range(place["y"], place["y"] + place["h"])
        cells = set(itertools.product(range(place["x"], place["x"] + place["w"]), rows))
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_asks_the_chosen_data_source_and_nodes() -> None:
    for panel in SHOWN:
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) >= 1
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            for name in names_in(target["expr"]):
                selectors = [
                    each for found, each in MATCHED.findall(target["expr"]) if found == name
                ]
                assert selectors, (panel["title"], name)
                for selector in selectors:
                    assert selector.startswith('job=~"$job", instance=~"$instance"')


def test_every_metric_is_one_of_skyring() -> None:
    known = {name for metric in METRICS for name in series_of(metric)} | {"up"}
    for expression in expressions():
        assert names_in(expression), expression
        assert names_in(expression) <= known, expression
    for query in queries():
        (series,) = re.findall(r"^label_values\((\w+)(?:\{[^}]*\})?, \w+\)$", query)
        assert series in known


def test_every_label_is_one_of_its_metric() -> None:
    labels = {name: own for metric in METRICS for name, own in series_of(metric).items()}
    labels["up"] = set(SCRAPED)
    for expression in expressions():
        for name, selector in MATCHED.findall(expression):
            assert set(re.findall(r"(\w+)\s*=~?", selector)) <= labels[name], expression
        of_all = set.intersection(*(labels[name] for name in names_in(expression)))
        for group in GROUPED.findall(expression):
            assert {each.strip() for each in group.split(",")} <= of_all, expression
    for target in (target for panel in SHOWN for target in panel["targets"]):
        wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        kept = {
            each.strip() for group in GROUPED.findall(target["expr"]) for each in group.split(",")
        }
        assert wanted <= kept, target


def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "expressions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", file)


def series() -> Iterator[dict[str, str]]:
    """Two nodes of a ring that work, as Prometheus would have them: everything moves."""
    for instance, (metric, (kind, labels)) in itertools.product("ab", METRICS.items()):
        choices = [VALUES.get(label, ("503", "200")) for label in labels]
        for chosen in itertools.product(*choices):
            own = {"job": "skyring", "instance": instance, **dict(zip(labels, chosen, strict=True))}
            for name in series_of(metric):
                for le in ("0.1", "1", "+Inf") if name.endswith("_bucket") else ("",):
                    pairs = {**own, "le": le} if le else own
                    text = ", ".join(f'{key}="{value}"' for key, value in pairs.items())
                    values = "1x60" if kind == "gauge" else "0+10x60"
                    yield {"series": f"{name}{{{text}}}", "values": values}
        if metric == "skyring_ready":
            yield {"series": f'up{{job="skyring", instance="{instance}"}}', "values": "1x60"}


def test_every_panel_shows_something_on_a_ring(tmp_path: Path) -> None:
    """Also what is joined: a label that only one side has would leave a panel empty."""
    shown = [prometheus(target["expr"]) for panel in SHOWN for target in panel["targets"]]
    test = {
        "interval": "15s",
        "input_series": list(series()),
        "promql_expr_test": [
            {
                "expr": f"count({expression}) > bool 0",
                "eval_time": "10m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
            for expression in shown
        ],
    }
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    assert "SUCCESS" in promtool("test", "rules", file)


def test_what_is_asked_for_is_there() -> None:
    """Everything that somebody on call looks for first."""
    shown = {name for expression in expressions() for name in names_in(expression)}
    skyring = {metric for metric in METRICS if metric.startswith("skyring_")}
    missing = {metric for metric in skyring if not shown & series_of(metric).keys()}
    assert missing == set()
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert name in shown


def test_the_provisioning_fits_the_dashboard() -> None:
    (source,) = read_yaml(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")[
        "datasources"
    ]
    (chosen,) = (each for each in DASHBOARD["templating"]["list"] if each["type"] == "datasource")
    assert chosen["query"] == source["type"] == "prometheus"
    assert chosen["current"] == {"text": source["name"], "value": source["uid"]}
    interval = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = read_yaml(GRAFANA / "provisioning" / "dashboards" / "skyring.yml")["providers"]
    mounted = (GRAFANA / "README.md").read_text(encoding="utf-8")
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounted


@pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel["title"])
def test_a_panel_has_a_unit_and_a_threshold_that_begins_somewhere(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in {"short", "ops", "reqps", "s", "bytes", "percentunit"}
    first, *others = defaults["thresholds"]["steps"]
    assert first["value"] is None
    values = [each["value"] for each in others]
    assert values == sorted(values)
