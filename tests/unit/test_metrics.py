"""What is counted, in the formats of Prometheus; and which of them a client asks for."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric

from skyring.counting import Histogram, Reading, Readings
from skyring.http.metrics import wants_openmetrics
from skyring.telemetry.families import FAMILIES
from skyring.telemetry.metrics import OPENMETRICS, TEXT, Metrics
from tests.contract.scraping import samples

LATENESS = "skyring_delivery_lateness_seconds"


def shows(**readings: Reading) -> Metrics:
    made = Metrics()
    made.add(lambda: readings)
    return made


async def shown(metrics: Metrics, *, as_openmetrics: bool = False) -> dict[str, float]:
    return samples((await metrics.scrape(as_openmetrics=as_openmetrics)).body.decode())


@pytest.mark.parametrize("as_openmetrics", [False, True])
async def test_numbers_labels_and_histograms(as_openmetrics: bool) -> None:
    histogram = Histogram((1, 50, 1_000))
    for seconds in (0.0005, 0.001, 0.002, 7.0):
        histogram.observe(seconds)
    found = await shown(
        shows(
            skyring_ready=True,
            skyring_timers_scheduled=12,
            skyring_deliveries_total={("delivered",): 3, ("dead",): 0},
            skyring_delivery_lateness_seconds=histogram,
        ),
        as_openmetrics=as_openmetrics,
    )
    assert found["skyring_ready"] == 1
    assert found["skyring_timers_scheduled"] == 12
    assert found["skyring_deliveries_total{outcome=delivered}"] == 3
    assert found["skyring_deliveries_total{outcome=dead}"] == 0
    buckets = {"0.001": 2, "0.05": 3, "1.0": 3, "+Inf": 4}
    assert {key: found[f"{LATENESS}_bucket{{le={key}}}"] for key in buckets} == buckets
    assert found[f"{LATENESS}_count"] == 4
    assert found[f"{LATENESS}_sum"] == pytest.approx(7.0035)


@pytest.mark.parametrize("as_openmetrics", [False, True])
async def test_labels_of_any_text_come_back_as_they_were(as_openmetrics: bool) -> None:
    odd = 'a"b\\c\nd{ü},='
    metrics = shows(skyring_http_requests_total={("GET", odd, "200"): 1})
    found = await shown(metrics, as_openmetrics=as_openmetrics)
    assert found[f"skyring_http_requests_total{{method=GET,route={odd},status=200}}"] == 1


@pytest.mark.parametrize("as_openmetrics", [False, True])
async def test_every_metric_is_declared_even_without_a_value(as_openmetrics: bool) -> None:
    content_type, body = await Metrics().scrape(as_openmetrics=as_openmetrics)
    assert content_type == (OPENMETRICS if as_openmetrics else TEXT)
    assert body.decode().endswith("# EOF\n") == as_openmetrics
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", body.decode(), re.M))
    for family in FAMILIES:
        name = family.name.removesuffix("_total") if as_openmetrics else family.name
        assert kinds[name] == family.kind
    for name in ("process_resident_memory_bytes", "python_info"):
        assert kinds[name] == "gauge"


def test_names_keep_to_the_rules_of_prometheus() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"skyring_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.kind != "histogram" or family.name.endswith("_seconds")
        assert family.meaning.endswith(".")


async def test_a_reading_of_no_metric_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="skyring_nonsense"):
        await shows(skyring_nonsense=1).scrape()


async def test_sources_are_read_anew_each_time() -> None:
    metrics, value = Metrics(), iter([1, 2])
    metrics.add(lambda: {"skyring_timers_scheduled": next(value)})
    metrics.add(lambda: {"skyring_ready": 1})
    first, second = await shown(metrics), await shown(metrics)
    assert first["skyring_timers_scheduled"] == 1
    assert second["skyring_timers_scheduled"] == 2
    assert first["skyring_ready"] == second["skyring_ready"] == 1


async def test_two_nodes_of_one_process_have_nothing_in_common() -> None:
    before: list[Metric] = list(REGISTRY.collect())
    one, other = shows(skyring_timers_scheduled=1), shows(skyring_timers_scheduled=2)
    assert (await shown(one))["skyring_timers_scheduled"] == 1
    assert (await shown(other))["skyring_timers_scheduled"] == 2
    after: list[Metric] = list(REGISTRY.collect())
    assert [family.name for family in after] == [family.name for family in before]


async def test_what_is_read_does_not_change_while_it_is_written() -> None:
    histogram = Histogram((1,))
    counts: dict[tuple[str, ...], float] = {("create",): 1}
    metrics = shows(skyring_delivery_lateness_seconds=histogram, skyring_operations_total=counts)
    readings: Readings = metrics.read()
    histogram.observe(0.5)
    counts["create",] = 2
    assert readings["skyring_operations_total"] == {("create",): 1}
    still = readings[LATENESS]
    assert isinstance(still, Histogram)
    assert still.counts == [0, 0]


async def test_scrapes_that_come_together_are_written_one_after_the_other() -> None:
    metrics, under_way, most = Metrics(), 0, 0
    write = metrics._write

    def noted(content_type: str) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        written = write(content_type)
        under_way -= 1
        return written

    metrics._write = noted  # type: ignore[method-assign]
    made = await asyncio.gather(*(metrics.scrape() for _ in range(20)))
    assert most == 1
    assert all(one.body.startswith(b"# HELP") for one in made)


async def test_the_event_loop_goes_on_while_they_are_written() -> None:
    metrics, loop_has_run = Metrics(), threading.Event()

    def waits(content_type: str) -> bytes:
        assert loop_has_run.wait(20), "the event loop stands still"
        return b"written"

    metrics._write = waits  # type: ignore[method-assign]
    scraping = asyncio.create_task(metrics.scrape())
    for _ in range(3):
        await asyncio.sleep(0)
    loop_has_run.set()
    assert (await scraping).body == b"written"


# Which format?

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;"
    "version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0", True),
        ('Application/OpenMetrics-Text ; Version="1.0.0" ; Q=0.1', True),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.5", True),
        ("text/html, */*;q=0.9, application/openmetrics-text;q=0.1", True),
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/plain;version=0.0.4", False),
        ("image/png", False),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.3", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=", False),
        ("application/openmetrics-text;version", True),
        (",;=,;;,q=1,", False),
    ],
)
def test_openmetrics_is_for_those_that_ask_for_it(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected
