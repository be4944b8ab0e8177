"""``/metrics`` of a real process, each figure held against what was done; and docs/metrics.md."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from skyring.bench.process import ServerProcess
from skyring.telemetry.families import FAMILIES
from skyring.version import VERSION
from tests.acceptance.receiver import Answer, CallbackReceiver, Received
from tests.contract.scraping import families, samples

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
HOUR_MS = 3_600_000
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
SUFFIXES = ("_bucket", "_count", "_sum")


async def scrape(api: httpx.AsyncClient) -> dict[str, float]:
    answer = await api.get("/metrics")
    assert answer.status_code == 200
    return samples(answer.text)


async def becomes(
    api: httpx.AsyncClient, reached: Callable[[dict[str, float]], bool]
) -> dict[str, float]:
    """What it shows when it is so; fails if it never is."""
    async with asyncio.timeout(30):
        while not reached(shown := await scrape(api)):
            await asyncio.sleep(0.02)
    return shown


def outcomes(shown: dict[str, float]) -> tuple[float, float, float]:
    """Deliveries that came through, were to be made again, and were the last."""
    delivered, retried, dead = (
        shown[f"skyring_deliveries_total{{outcome={name}}}"]
        for name in ("delivered", "retried", "dead")
    )
    return delivered, retried, dead


def answer_by_content(callback: Received) -> Answer:
    """What is to be retried fails once, what is to die always."""
    fails = callback.body == b"dies" or (callback.body == b"retried" and callback.attempt == 1)
    return (500 if fails else 200), {}


async def create(
    api: httpx.AsyncClient, receiver: CallbackReceiver, data: str, timeout: int = 1
) -> str:
    retry = {"attempts": 2, "backoff_ms": 1, "max_ms": 1}
    body = {"timeout": timeout, "data": data, "callback": receiver.callback(retry=retry)}
    answer = await api.post("/timer", json=body)
    assert answer.status_code == 201
    return answer.headers["location"].removeprefix("/timer/")


async def test_each_figure_is_what_was_done(tmp_path: Path) -> None:
    began_s = time.time()
    arguments = ["--delivery:in-flight-per-destination-max", "3"]
    async with (
        ServerProcess(tmp_path, arguments=arguments) as server,
        CallbackReceiver(answer_by_content) as receiver,
        CallbackReceiver(hold=True) as silent,
        httpx.AsyncClient(base_url=server.url, timeout=30) as api,
    ):
        before = await scrape(api)
        assert outcomes(before) == (0, 0, 0)
        for number in range(5):
            await create(api, receiver, f"delivered {number}")
        await create(api, receiver, "retried")
        await create(api, receiver, "dies")
        await becomes(api, lambda shown: outcomes(shown) == (6, 2, 1))
        for number in range(4):  # one more than may be under way
            await create(api, silent, f"held {number}")
        await create(api, receiver, "soon", timeout=50_000)
        far = [await create(api, receiver, "far", timeout=HOUR_MS) for _ in range(3)]
        changed = {"timeout": HOUR_MS, "callback": receiver.callback()}
        assert (await api.put(f"/timer/{far[0]}", json=changed)).status_code == 200
        for timer_id in far[1:]:
            assert (await api.delete(f"/timer/{timer_id}")).status_code == 202
        assert (await api.get(f"/timer/{far[1]}")).status_code == 404
        assert (await api.post("/timer", json={})).status_code == 400
        shown = await becomes(api, lambda shown: shown["skyring_deliveries_in_flight"] == 3)
        shown = await becomes(api, lambda shown: shown["skyring_deliveries_waiting"] == 1)

        build = f"{{python={platform.python_version()},version={VERSION}}}"
        assert shown[f"skyring_build_info{build}"] == 1
        assert shown["skyring_ready"] == 1
        assert shown["skyring_operations_total{operation=create}"] == 15
        assert shown["skyring_operations_total{operation=update}"] == 1
        assert shown["skyring_operations_total{operation=cancel}"] == 2
        assert outcomes(shown) == (6, 2, 1)
        assert shown["skyring_timers_scheduled"] == 1
        assert shown["skyring_storage_damaged_records_total"] == 0
        check_histogram(shown, "skyring_delivery_lateness_seconds", count=9 + 3)
        check_histogram(shown, "skyring_delivery_duration_seconds", count=9)
        check_requests(shown)
        check_alone(shown)
        check_process(shown, server.pid, began_s)

        silent.release()
        shown = await becomes(api, lambda shown: outcomes(shown) == (10, 2, 1))
        assert shown["skyring_deliveries_waiting"] == 0
        check_histogram(shown, "skyring_delivery_duration_seconds", count=13)
        assert "Traceback" not in server.log


def check_histogram(shown: dict[str, float], name: str, count: int, labels: str = "") -> None:
    """So many observations, in buckets that have what the smaller ones have, and a likely sum."""
    inner = f",{labels}" if labels else ""
    buckets = {
        float(key.partition("{le=")[2].rpartition("}")[0].removesuffix(inner)): value
        for key, value in shown.items()
        if key.startswith(f"{name}_bucket{{") and key.endswith(f"{inner}}}")
    }
    counts = [buckets[bound] for bound in sorted(buckets)]
    assert counts == sorted(counts)
    assert list(buckets)[-1] == float("inf")
    of_all = f"{{{labels}}}" if labels else ""
    assert counts[-1] == shown[f"{name}_count{of_all}"] == count
    assert 0 <= shown[f"{name}_sum{of_all}"] < 30 * count
    assert counts[-2] == count, "nothing here takes as long as the last bound"


def check_requests(shown: dict[str, float]) -> None:
    def answered(method: str, route: str, status: int) -> float:
        labels = f"method={method},route={route},status={status}"
        return shown[f"skyring_http_requests_total{{{labels}}}"]

    assert answered("POST", "/timer", 201) == 15
    assert answered("POST", "/timer", 400) == 1
    assert answered("PUT", "/timer/{timer_id}", 200) == 1
    assert answered("DELETE", "/timer/{timer_id}", 202) == 2
    assert answered("GET", "/timer/{timer_id}", 404) == 1
    assert answered("GET", "/health/ready", 200) >= 1
    assert answered("GET", "/metrics", 200) >= 3
    duration = "skyring_http_request_duration_seconds"
    check_histogram(shown, duration, count=16, labels="route=/timer")
    check_histogram(shown, duration, count=4, labels="route=/timer/{timer_id}")


def check_alone(shown: dict[str, float]) -> None:
    assert shown["skyring_ring_slots_held"] == 256
    for name in ("slots_without_holder", "lease_seconds", "connected"):
        assert shown[f"skyring_ring_{name}"] == 0
    assert shown["skyring_ring_members{state=alive}"] == 0


def check_process(shown: dict[str, float], pid: int, began_s: float) -> None:
    assert any(key.startswith("python_info{") for key in shown)
    assert shown["python_gc_collections_total{generation=0}"] > 0
    if sys.platform != "linux":
        return
    assert abs(shown["process_open_fds"] - len(os.listdir(f"/proc/{pid}/fd"))) <= 5
    assert shown["process_open_fds"] < shown["process_max_fds"]
    assert 10e6 < shown["process_resident_memory_bytes"] < shown["process_virtual_memory_bytes"]
    assert 0 < shown["process_cpu_seconds_total"] < 60
    # Of the boot of the machine only the second is known.
    assert abs(shown["process_start_time_seconds"] - began_s) < 60


async def test_counters_begin_anew_with_each_start(tmp_path: Path) -> None:
    async with CallbackReceiver() as receiver, ServerProcess(tmp_path) as server:
        for expected in (1, 0):
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as api:
                if expected:
                    await create(api, receiver, "far", timeout=50_000)
                shown = await becomes(api, lambda shown: shown["skyring_timers_scheduled"] == 1)
            assert shown["skyring_operations_total{operation=create}"] == expected
            await server.kill()
            await server.start()


async def test_many_at_once_and_deliveries_go_on(
    api: httpx.AsyncClient, receiver: CallbackReceiver
) -> None:
    for number in range(10):
        await create(api, receiver, f"{number}", timeout=200)
    answers = await asyncio.gather(*(api.get("/metrics") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    await receiver.wait(10)


# docs/metrics.md


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Kind and labels of each metric in the table."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|(.*?)\| .+ \|$", PAGE.read_text("utf-8"), re.M)
    found = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels.partition(":")[0])))
        for name, kind, labels in rows
    }
    assert len(found) == len(rows), "a metric stands in the table twice"
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="what is read of /proc is there on Linux only")
@pytest.mark.parametrize("headers", [{}, OPENMETRICS], ids=["text", "openmetrics"])
async def test_every_metric_is_in_the_table_and_the_other_way_round(
    api: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    await api.get("/ping")  # so that there is a request to be shown
    answer = await api.get("/metrics", headers=headers)
    given: dict[str, tuple[str, frozenset[str]]] = {}
    for family in families(answer.text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        given[name] = (family.type, frozenset(labels - {"le"}))
    assert given == documented()


def test_the_labels_of_the_table_are_those_of_the_metrics() -> None:
    table = documented()
    for family in FAMILIES:
        assert table[family.name] == (family.kind, frozenset(family.labels))


async def test_every_value_of_a_label_is_in_the_table(api: httpx.AsyncClient) -> None:
    """Of those labels that have few."""
    text = PAGE.read_text("utf-8")
    shown = await scrape(api)
    for name, label in (
        ("skyring_operations_total", "operation"),
        ("skyring_deliveries_total", "outcome"),
        ("skyring_ring_members", "state"),
    ):
        (cell,) = re.findall(rf"^\| `{name}` \| \w+ \| `{label}`: (.*?) \|", text, re.M)
        values = {key.partition(f"{label}=")[2][:-1] for key in shown if key.startswith(name)}
        assert set(re.findall(r"`(\w+)`", cell)) == values


def test_the_questions_name_metrics_that_there_are() -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"\b(?:skyring|process|python)_\w+", text.partition("PromQL")[2]))
    assert len(named) > 8
    known = set(documented())
    for name in named:
        bases = {name, *(name.removesuffix(suffix) for suffix in SUFFIXES)}
        assert bases & known, name
