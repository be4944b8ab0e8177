"""Questions that come twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from skyring.ring.replays import ASKERS_MAX, WINDOW, Replays


@given(st.lists(st.integers(1, 300), max_size=300))
@settings(deadline=None)
def test_each_number_is_new_once_in_whatever_order(numbers: list[int]) -> None:
    replays = Replays()
    seen: set[int] = set()
    for number in numbers:
        assert replays.is_new("a", 1, number) == (number not in seen)
        seen.add(number)


def test_what_is_older_than_the_window_is_not_new() -> None:
    replays = Replays()
    assert replays.is_new("a", 1, WINDOW + 1)
    assert replays.is_new("a", 1, 2)
    assert not replays.is_new("a", 1, 1)
    assert replays.is_new("a", 1, 10 * WINDOW)
    assert not replays.is_new("a", 1, WINDOW + 2)


def test_askers_and_their_incarnations_count_for_themselves() -> None:
    replays = Replays()
    assert replays.is_new("a", 1, 5)
    assert replays.is_new("b", 1, 5)
    assert replays.is_new("a", 2, 5)
    assert not replays.is_new("a", 1, 6), "its former self is gone"
    assert not replays.is_new("a", 2, 5)


def test_the_number_of_askers_is_bounded() -> None:
    replays = Replays()
    assert all(replays.is_new(f"n{number}", 1, 1) for number in range(2 * ASKERS_MAX))
    assert len(replays._windows) == ASKERS_MAX
