"""Counters of the rooms: histograms, and requests by what they were answered."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.clock import ManualClock
from skyring.counting import Histogram
from skyring.http import counts as http_counts
from skyring.http.counts import CountedApp, RequestCounts
from skyring.timers import counts as timer_counts

BOUNDS_MS = (1, 2, 5, 1_000)
SECONDS = st.floats(min_value=0, max_value=100)


def observed(values: list[float]) -> Histogram:
    made = Histogram(BOUNDS_MS)
    for value in values:
        made.observe(value)
    return made


@given(st.lists(SECONDS | st.sampled_from([0.001, 0.002, 0.005, 1.0])))
def test_each_observation_is_in_the_first_bucket_that_has_room_for_it(values: list[float]) -> None:
    histogram = observed(values)
    edges = [float("-inf"), 0.001, 0.002, 0.005, 1.0, float("inf")]
    assert histogram.counts == [
        sum(low < value <= high for value in values) for low, high in itertools.pairwise(edges)
    ]
    assert histogram.total_s == pytest.approx(sum(values))


@pytest.mark.parametrize("late_ms", BOUNDS_MS)
def test_whole_milliseconds_meet_the_bounds_exactly(late_ms: int) -> None:
    """A lateness is divided as the bounds were: what is as late as a bound says is not later."""
    histogram = observed([late_ms / 1000])
    assert histogram.counts.index(1) == BOUNDS_MS.index(late_ms)


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_two_that_are_merged_are_as_one(first: list[float], second: list[float]) -> None:
    merged = observed(first)
    merged.merge(observed(second))
    assert merged.counts == observed(first + second).counts
    assert merged.total_s == pytest.approx(sum(first + second))


def test_a_copy_changes_no_more() -> None:
    histogram = observed([0.003])
    copied = histogram.copy()
    histogram.observe(0.003)
    assert (copied.counts, copied.total_s) == ([0, 0, 1, 0, 0], 0.003)
    assert copied.bounds_s == histogram.bounds_s


@pytest.mark.parametrize(
    "bounds_ms",
    [timer_counts.LATENESS_MS, timer_counts.DURATION_MS, http_counts.DURATION_MS],
)
def test_bounds_ascend_from_a_millisecond_or_less(bounds_ms: tuple[float, ...]) -> None:
    assert list(bounds_ms) == sorted(set(bounds_ms))
    assert bounds_ms[0] <= 1
    assert bounds_ms[-1] >= 30_000


# Requests


def test_requests_are_counted_by_method_route_and_status() -> None:
    counts = RequestCounts()
    counts.of("GET", "/timers")[200].observe(0.003)
    counts.of("POST", "/timers")[200].observe(0.003)
    counts.of("POST", "/timers")[400].observe(40.0)
    readings = counts.readings()
    assert readings["skyring_http_requests_total"] == {
        ("GET", "/timers", "200"): 1,
        ("POST", "/timers", "200"): 1,
        ("POST", "/timers", "400"): 1,
    }
    durations = readings["skyring_http_request_duration_seconds"]
    assert isinstance(durations, dict)
    ((labels, histogram),) = durations.items()
    assert labels == ("/timers",)
    assert sum(histogram.counts) == 3
    assert histogram.counts[-1] == 1
    assert histogram.total_s == pytest.approx(40.006)


def test_a_route_that_was_never_asked_for_is_not_shown() -> None:
    counts = RequestCounts()
    counts.of("GET", "/ping")
    assert not any(counts.readings().values())


def test_methods_that_nobody_takes_have_one_label() -> None:
    counts = RequestCounts()
    for number in range(1_000):
        counts.of(f"METHOD{number}", "/ping")[405].observe(0.001)
    assert counts.readings()["skyring_http_requests_total"] == {("other", "/ping", "405"): 1_000}


async def nothing() -> Any:
    raise AssertionError("no app here reads a body")


class Route:
    path = "/timer/{timer_id}"


App = Callable[[Any, Any, Any], Awaitable[None]]


def answering(status: int, route: object = None, clock: ManualClock | None = None) -> App:
    """An app that takes 20 ms by this clock, half of it for the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if route is not None:
            scope["route"] = route
        for kind in ("http.response.start", "http.response.body"):
            if clock is not None:
                clock.advance(10)
            await send({"type": kind, "status": status})

    return app


async def asked(app: App, path: str, root: str = "") -> RequestCounts:
    counts, sent = RequestCounts(), []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root}
    await CountedApp(app, {"/docs"}, counts, ManualClock())(scope, nothing, send)
    assert sent == ["http.response.start", "http.response.body"]
    return counts


@pytest.mark.parametrize(
    ("path", "root", "route", "label"),
    [
        ("/timer/a", "", Route, "/timer/{timer_id}"),
        ("/docs", "", None, "/docs"),
        ("/sky/docs", "/sky", None, "/docs"),
        ("/docs/of/mine", "", None, "other"),
        ("/wp-login.php", "", None, "other"),
    ],
)
async def test_the_label_of_a_route_is_never_what_a_client_made_up(
    path: str, root: str, route: object, label: str
) -> None:
    counts = await asked(answering(404, route), path, root)
    assert counts.readings()["skyring_http_requests_total"] == {("GET", label, "404"): 1}


async def test_a_request_takes_until_its_answer_has_ended() -> None:
    clock, counts = ManualClock(), RequestCounts()

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": "/docs"}
    await CountedApp(answering(200, clock=clock), {"/docs"}, counts, clock)(scope, nothing, send)
    assert counts.of("GET", "/docs")[200].total_s == pytest.approx(0.02)


async def test_an_answer_before_a_failure_is_counted_and_none_is_not() -> None:
    async def send(message: Any) -> None:
        pass

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/docs":
            await send({"type": "http.response.start", "status": 500})
        raise OSError("no more")

    counts = RequestCounts()
    app = CountedApp(fails, {"/docs"}, counts, ManualClock())
    for path in ("/docs", "/gone"):
        with pytest.raises(OSError, match="no more"):
            await app({"type": "http", "method": "GET", "path": path}, nothing, send)
    assert counts.readings()["skyring_http_requests_total"] == {("GET", "/docs", "500"): 1}


async def test_what_is_no_request_is_handed_on() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    counts = RequestCounts()
    scope, receive, send = {"type": "lifespan"}, object(), object()
    await CountedApp(app, (), counts, ManualClock())(scope, receive, send)  # type: ignore[arg-type]
    assert seen == [(scope, receive, send)]
    assert not any(counts.readings().values())
