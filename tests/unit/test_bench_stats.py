"""Percentiles, medians, and the verdict on what arrived."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.bench.stats import Delivery, percentile, spread, summarise, tally


def delivery(key: str, arrived_ms: float, due_ms: int | None = None, attempt: int = 1) -> Delivery:
    return Delivery(key, "", arrived_ms, due_ms, attempt)


def test_percentiles_of_a_hundred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]


def test_percentiles_of_one() -> None:
    assert percentile([7.0], 0) == percentile([7.0], 99) == 7.0


@pytest.mark.parametrize("percent", [-1, 101])
def test_no_such_percentile(percent: float) -> None:
    with pytest.raises(ValueError, match="no such percentile"):
        percentile([1.0], percent)


def test_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)


@given(st.lists(st.integers(0, 1000), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_with_enough_below_it(values: list[int], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= len(ordered) * percent / 100


def test_spread_sorts() -> None:
    figures = spread("late", [3.0, 1.0, 2.0])
    assert figures == {"late_p50_ms": 2.0, "late_p99_ms": 3.0, "late_max_ms": 3.0}


def test_spread_of_nothing_is_unknown_not_zero() -> None:
    assert spread("late", []) == {"late_p50_ms": None, "late_p99_ms": None, "late_max_ms": None}


def test_medians_and_totals() -> None:
    rounds = [{"rate": 10, "lost": 0}, {"rate": 30, "lost": 1}, {"rate": 11, "lost": 0}]
    assert summarise(rounds, {"lost"}) == {"rate": 11, "lost": 1}


def test_a_figure_that_one_round_lacks_is_unknown() -> None:
    assert summarise([{"memory": 1}, {"memory": None}]) == {"memory": None}


def test_no_rounds() -> None:
    assert summarise([]) == {}


def test_all_arrived() -> None:
    seen = tally({"a": 100.0, "b": 200.0}, [delivery("b", 203.5, 200), delivery("a", 101.0, 101)])
    assert (seen.delivered, seen.lost, seen.duplicated, seen.early, seen.unexpected) == (
        2,
        0,
        0,
        0,
        0,
    )
    assert sorted(seen.lateness_ms) == [0.0, 3.5]
    assert sorted(seen.lateness_from_send_ms) == [1.0, 3.5]
    assert (seen.first_ms, seen.last_ms) == (101.0, 203.5)


def test_lost() -> None:
    seen = tally({"a": 1.0, "b": 1.0}, [delivery("a", 2.0)])
    assert (seen.delivered, seen.lost) == (1, 1)


def test_nothing_arrived() -> None:
    seen = tally({"a": 1.0}, [])
    assert (seen.lost, seen.first_ms, seen.last_ms, seen.lateness_ms) == (1, None, None, [])


def test_a_duplicate_counts_once_and_the_first_arrival_counts_for_lateness() -> None:
    seen = tally({"a": 1.0}, [delivery("a", 9.0), delivery("a", 3.0), delivery("a", 5.0)])
    assert (seen.delivered, seen.lost, seen.duplicated) == (1, 0, 2)
    assert seen.lateness_ms == [2.0]
    assert seen.last_ms == 3.0


def test_a_stranger_is_unexpected_and_replaces_nobody() -> None:
    seen = tally({"a": 1.0}, [delivery("z", 2.0)])
    assert (seen.delivered, seen.lost, seen.unexpected) == (0, 1, 1)


def test_early_by_what_the_server_says() -> None:
    assert tally({"a": 1.0}, [delivery("a", 99.9, due_ms=100)]).early == 1


def test_early_by_what_was_asked_whatever_the_server_says() -> None:
    assert tally({"a": 100.0}, [delivery("a", 99.9, due_ms=50)]).early == 1


def test_early_without_a_word_from_the_server() -> None:
    assert tally({"a": 100.0}, [delivery("a", 99.9)]).early == 1
    assert tally({"a": 100.0}, [delivery("a", 100.0)]).early == 0


def test_an_early_duplicate_is_early() -> None:
    assert tally({"a": 100.0}, [delivery("a", 101.0), delivery("a", 99.0)]).early == 1
