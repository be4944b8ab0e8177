"""``GET /metrics`` of a node in this process: formats, labels, and what is counted."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import plyvel
import pytest
from fastapi import FastAPI

from skyring import Skyring
from skyring.clock import ManualClock
from skyring.errors import InvalidRequest
from skyring.settings import DeliverySettings
from skyring.testing import Delivered, Gate, Recorder, reject, take
from skyring.transports import Outcome
from tests.contract.recording import (
    dead_letter,
    is_gone,
    nothing_pending,
    settings_for,
    to,
    until,
)
from tests.contract.scraping import families, samples, scraped

HOUR_MS = 3_600_000
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
LATENESS = "skyring_delivery_lateness_seconds"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def sky(tmp_path: Path, recorder: Recorder) -> AsyncIterator[Skyring]:
    settings = settings_for("memory", tmp_path)
    async with Skyring(settings, transports=[recorder]) as made:
        yield made


@pytest.fixture
async def api(sky: Skyring) -> AsyncIterator[httpx.AsyncClient]:
    async with client(sky.asgi()) as made:
        yield made


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://sky")


# The route


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/json", TEXT),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", OPENMETRICS),
    ],
)
async def test_get_and_head(api: httpx.AsyncClient, accept: str | None, content_type: str) -> None:
    headers = {} if accept is None else {"accept": accept}
    for method in ("GET", "HEAD"):
        answer = await api.request(method, "/metrics", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == content_type
        assert answer.headers["vary"] == "accept"
        assert int(answer.headers["content-length"]) > 1_000
    answer = await api.get("/metrics", headers=headers)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert {"skyring_ready", "process_open_fds"} <= {item.name for item in families(answer.text)}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_other_methods_are_a_problem(api: httpx.AsyncClient, method: str) -> None:
    answer = await api.request(method, "/metrics")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "method-not-allowed"


async def test_it_is_in_the_document(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    described = document["paths"]["/metrics"]
    assert set(described) == {"get", "head"}
    content = described["get"]["responses"]["200"]["content"]
    assert set(content) == {"text/plain", "application/openmetrics-text"}


async def test_in_an_app_of_another_program(sky: Skyring) -> None:
    outer = FastAPI()
    outer.mount("/sky", sky.asgi())
    async with client(outer) as api:
        await api.post("/sky/timer", json={"timeout": HOUR_MS, "callback": to()})
        await api.get("/sky/timer/none")
        await api.get("/sky/docs")
        shown = samples((await api.get("/sky/metrics")).text)
    assert answered(shown) == {
        ("POST", "/timer", "201"): 1,
        ("GET", "/timer/{timer_id}", "404"): 1,
        ("GET", "/docs", "200"): 1,
    }


async def test_it_answers_when_the_node_is_not_ready(sky: Skyring, api: httpx.AsyncClient) -> None:
    assert samples((await api.get("/metrics")).text)["skyring_ready"] == 1
    await sky.stop()
    assert (await api.get("/health/ready")).status_code == 503
    assert samples((await api.get("/metrics")).text)["skyring_ready"] == 0


# Requests


def answered(shown: dict[str, float]) -> dict[tuple[str, str, str], float]:
    """Requests by method, route and status."""
    found: dict[tuple[str, str, str], float] = {}
    for key, value in shown.items():
        parts = re.fullmatch(
            r"skyring_http_requests_total{method=(.*),route=(.*),status=(.*)}", key
        )
        if parts is not None:
            found[parts[1], parts[2], parts[3]] = value
    return found


async def test_every_route_and_whatever_leads_nowhere(api: httpx.AsyncClient) -> None:
    timer = {"timeout": HOUR_MS, "callback": to()}
    requests: list[tuple[str, str, Any, str, int]] = [
        ("POST", "/timer", timer, "/timer", 201),
        ("POST", "/timer", timer, "/timer", 201),
        ("POST", "/timer", {}, "/timer", 400),
        ("PATCH", "/timer", None, "/timer", 405),
        ("PUT", "/timer/a", timer, "/timer/{timer_id}", 404),
        ("DELETE", "/timer/a", None, "/timer/{timer_id}", 404),
        ("GET", "/timer/a", None, "/timer/{timer_id}", 404),
        ("PATCH", "/timer/a", None, "/timer/{timer_id}", 405),
        ("POST", "/timers", [timer], "/timers", 200),
        ("GET", "/timers", None, "/timers", 200),
        ("GET", "/timers?limit=x", None, "/timers", 400),
        ("GET", "/dead-letters", None, "/dead-letters", 200),
        ("DELETE", "/dead-letters/a", None, "/dead-letters/{timer_id}", 404),
        ("POST", "/dead-letters/a/retry", None, "/dead-letters/{timer_id}/retry", 404),
        ("GET", "/ring", None, "/ring", 200),
        ("GET", "/ping", None, "/ping", 200),
        ("GET", "/health/live", None, "/health/live", 200),
        ("GET", "/health/ready", None, "/health/ready", 200),
        ("HEAD", "/metrics", None, "/metrics", 200),
        ("GET", "/openapi.json", None, "/openapi.json", 200),
        ("GET", "/docs", None, "/docs", 200),
        ("GET", "/", None, "other", 404),
        ("GET", "/timer/a/b", None, "other", 404),
        ("GET", "/metrics/a", None, "other", 404),
        ("DELETE", "/what?ever", None, "other", 404),
        ("PROPFIND", "/ping", None, "/ping", 405),
    ]
    expected: dict[tuple[str, str, str], float] = {}
    for method, path, body, route, status in requests:
        answer = await api.request(method, path, json=body)
        assert answer.status_code == status, (method, path, answer.text)
        label = "other" if method == "PROPFIND" else method
        key = (label, route, str(status))
        expected[key] = expected.get(key, 0) + 1
    shown = samples((await api.get("/metrics")).text)
    assert answered(shown) == expected
    counted = {
        key.partition("route=")[2].removesuffix("}"): value
        for key, value in shown.items()
        if key.startswith("skyring_http_request_duration_seconds_count")
    }
    by_route: dict[str, float] = {}
    for (_, route, _), value in expected.items():
        by_route[route] = by_route.get(route, 0) + value
    assert counted == by_route


async def test_no_path_and_no_method_of_a_client_makes_a_new_line(api: httpx.AsyncClient) -> None:
    await api.get("/timer/first")
    await api.get("/nowhere")
    await api.request("BREW", "/nowhere")
    before = len(samples((await api.get("/metrics")).text))
    for number in range(50):
        await api.get(f"/timer/timer-{number}")
        await api.get(f"/nowhere-{number}")
        await api.request(f"BREW{number}", "/nowhere")
    await api.get("/metrics")
    more = len(samples((await api.get("/metrics")).text)) - before
    # The first scrape shows up in the second: its own counter, and the histogram of its route.
    assert more == len(SCRAPE_LINES)


SCRAPE_LINES = ["requests_total", "_count", "_sum", *["_bucket"] * 16]


# Timers


async def becomes(sky: Skyring, name: str, value: float) -> None:
    """Until a metric has come to a value; fails if it never does."""

    async def has_come() -> bool:
        return (await scraped(sky._node))[name] == value

    await until(sky, has_come)


async def test_two_nodes_count_apart(tmp_path: Path) -> None:
    settings = settings_for("memory", tmp_path)
    first, second = (Skyring(settings, transports=[Recorder]) for _ in range(2))
    async with first, second, client(first.asgi()) as api:
        for _ in range(3):
            await api.post("/timer", json={"timeout": HOUR_MS, "callback": to()})
        await second.timers.create(timeout=HOUR_MS, callback=to())
        shown, other = await scraped(first._node), await scraped(second._node)
    assert shown["skyring_operations_total{operation=create}"] == 3
    assert other["skyring_operations_total{operation=create}"] == 1
    assert answered(shown) == {("POST", "/timer", "201"): 3}
    assert answered(other) == {}


async def test_changes_that_were_made_are_counted_and_no_others(sky: Skyring) -> None:
    timers = sky.timers
    await timers.create(timeout=HOUR_MS, callback=to())
    for _ in range(2):
        await timers.create(timeout=HOUR_MS, callback=to(), id="mine")
    with pytest.raises(InvalidRequest):
        await timers.create(timeout=HOUR_MS, callback=to("nowhere"))
    await timers.update("mine", timeout=HOUR_MS, callback=to("there"))
    await timers.cancel("mine")
    async with client(sky.asgi()) as api:
        entry = {"timeout": HOUR_MS, "callback": to()}
        await api.post("/timers", json=[entry, {**entry, "id": "named"}, {"timeout": 1}])
        assert (await api.delete("/timer/mine")).status_code == 404
    shown = await scraped(sky._node)
    counted = {
        kind: shown[f"skyring_operations_total{{operation={kind}}}"]
        for kind in ("create", "update", "cancel")
    }
    assert counted == {"create": 4, "update": 1, "cancel": 1}


async def test_lateness_is_counted_from_when_an_attempt_should_begin(tmp_path: Path) -> None:
    """That is when it is due, when a retry is planned, or when it was created if that is later."""
    clock, outcomes = ManualClock(), iter([Outcome.retry("busy", after_ms=5_000)])

    async def script(delivery: Delivered) -> Outcome:
        clock.advance(20)
        return next(outcomes, Outcome.delivered())

    recorder = Recorder(script)
    settings = settings_for("memory", tmp_path)
    async with Skyring(settings, transports=[recorder], clock=clock) as sky:
        await sky.timers.create(timeout=1_000, callback=to(), id="retried")
        clock.advance(1_007)
        await becomes(sky, "skyring_deliveries_total{outcome=retried}", 1)
        shown = await scraped(sky._node)
        assert shown[f"{LATENESS}_sum"] == pytest.approx(0.007)
        assert shown[f"{LATENESS}_bucket{{le=0.005}}"] == 0
        assert shown[f"{LATENESS}_bucket{{le=0.01}}"] == 1
        assert shown["skyring_delivery_duration_seconds_sum"] == pytest.approx(0.02)
        next_ms = (await sky.timers.get("retried"))["next"]
        clock.advance(next_ms - clock.now_ms() + 300)
        await until(sky, lambda: is_gone(sky, "retried"))
        assert (await scraped(sky._node))[f"{LATENESS}_sum"] == pytest.approx(0.307)
        await sky.timers.create(at=0, callback=to(), id="long-ago")
        await until(sky, lambda: is_gone(sky, "long-ago"))
        shown = await scraped(sky._node)
    assert shown[f"{LATENESS}_sum"] == pytest.approx(0.307)
    assert shown[f"{LATENESS}_count"] == 3
    assert shown["skyring_delivery_duration_seconds_count"] == 3
    assert shown["skyring_deliveries_total{outcome=delivered}"] == 2
    assert shown["skyring_deliveries_total{outcome=retried}"] == 1


async def test_what_waits_and_what_is_under_way(tmp_path: Path) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    limits = DeliverySettings(in_flight_per_destination_max=2)
    settings = settings_for("memory", tmp_path, delivery=limits)
    async with Skyring(settings, transports=[recorder]) as sky:
        for number in range(5):
            await sky.timers.create(timeout=1, callback=to(), id=f"now-{number}")
        await sky.timers.create(timeout=20_000, callback=to(), id="soon")
        await sky.timers.create(timeout=HOUR_MS, callback=to(), id="far")

        await becomes(sky, "skyring_deliveries_waiting", 3)
        shown = await scraped(sky._node)
        assert shown["skyring_deliveries_in_flight"] == 2
        assert shown["skyring_timers_scheduled"] == 1
        assert shown[f"{LATENESS}_count"] == 2
        assert shown["skyring_delivery_duration_seconds_count"] == 0
        assert shown["skyring_deliveries_total{outcome=delivered}"] == 0
        gate.open()
        await until(sky, lambda: is_gone(sky, "now-4"))
        await becomes(sky, "skyring_deliveries_in_flight", 0)
        shown = await scraped(sky._node)
        assert shown["skyring_deliveries_waiting"] == 0
        assert shown["skyring_deliveries_total{outcome=delivered}"] == 5


async def test_a_timer_that_is_refused_for_good_is_dead(sky: Skyring, recorder: Recorder) -> None:
    recorder.script = reject
    timer_id = await sky.timers.create(timeout=1, callback=to())
    await dead_letter(sky, timer_id)
    await becomes(sky, "skyring_deliveries_total{outcome=dead}", 1)
    recorder.script = take
    await sky._node.pages.retry_dead_letter(timer_id)
    await until(sky, lambda: nothing_pending(sky))
    shown = await scraped(sky._node)
    assert shown["skyring_operations_total{operation=create}"] == 1, "a retry creates nothing"


async def test_damaged_records(tmp_path: Path) -> None:
    settings = settings_for("leveldb", tmp_path)
    async with Skyring(settings, transports=[Recorder]) as sky:
        await sky.timers.create(timeout=HOUR_MS, callback=to(), data="precious", id="broken")
    database = plyvel.DB(str(tmp_path))
    ((key, value),) = [pair for pair in database if b"precious" in pair[1]]
    database.put(key, value.replace(b"precious", b"previous"))
    database.close()
    async with Skyring(settings, transports=[Recorder]) as sky:
        assert (await scraped(sky._node))["skyring_storage_damaged_records_total"] == 0
        assert await is_gone(sky, "broken")
        assert (await scraped(sky._node))["skyring_storage_damaged_records_total"] == 1


async def test_a_node_that_stands_alone_holds_everything(sky: Skyring) -> None:
    shown = await scraped(sky._node)
    assert shown["skyring_ring_slots_held"] == 16
    for name in ("slots_without_holder", "lease_seconds", "connected"):
        assert shown[f"skyring_ring_{name}"] == 0
    states = [key for key in shown if key.startswith("skyring_ring_members")]
    assert len(states) == 6
    assert not any(shown[key] for key in states)
