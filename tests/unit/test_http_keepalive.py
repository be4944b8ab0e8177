"""How many connections may stay open for the next request."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from skyring.transports.http_keepalive import KeepAlive

PERIOD_MS = 8_000


def test_one_host_reuses_what_it_has() -> None:
    keep_alive = KeepAlive(2, PERIOD_MS)
    for _ in range(100):
        assert keep_alive.begin("a", 0)
        keep_alive.end("a")
    assert keep_alive.kept == 1


def test_no_more_than_the_maximum() -> None:
    keep_alive = KeepAlive(2, PERIOD_MS)
    assert [keep_alive.begin(host, 0) for host in "abc"] == [True, True, False]
    for host in "abc":
        keep_alive.end(host)
    assert [keep_alive.begin(host, 0) for host in "cba"] == [False, True, True]


def test_a_host_needs_one_for_each_request_at_once() -> None:
    keep_alive = KeepAlive(3, PERIOD_MS)
    assert [keep_alive.begin("a", 0) for _ in range(4)] == [True, True, True, False]
    assert not keep_alive.begin("b", 0)


def test_counts_anew_after_a_period() -> None:
    keep_alive = KeepAlive(1, PERIOD_MS)
    assert keep_alive.begin("a", 0)
    assert not keep_alive.begin("b", PERIOD_MS - 1)
    assert keep_alive.begin("b", PERIOD_MS)
    assert not keep_alive.begin("c", PERIOD_MS)


def test_a_clock_that_is_set_back_begins_a_period() -> None:
    keep_alive = KeepAlive(1, PERIOD_MS)
    assert keep_alive.begin("a", 1_000_000)
    assert not keep_alive.begin("b", 1_000_001)
    assert keep_alive.begin("b", 0)


@given(
    st.integers(0, 6),
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 7))),
)
def test_idle_connections_never_exceed_the_maximum(
    connections_max: int, steps: list[tuple[str, bool, int]]
) -> None:
    """Against a pool that opens a connection where none is idle, within one period."""
    keep_alive = KeepAlive(connections_max, PERIOD_MS)
    under_way: list[tuple[str, bool]] = []
    idle: Counter[str] = Counter()
    for host, begins, which in steps:
        if begins:
            under_way.append((host, keep_alive.begin(host, 0)))
            idle[host] = max(0, idle[host] - 1)
        elif under_way:
            host, keep = under_way.pop(which % len(under_way))
            keep_alive.end(host)
            idle[host] += keep
        assert idle.total() <= connections_max
        assert keep_alive.kept <= connections_max
        assert keep_alive.in_flight == len(under_way)
