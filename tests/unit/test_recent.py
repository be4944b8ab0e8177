"""Ids that are remembered for a while."""

from __future__ import annotations

from skyring.timers.recent import RecentIds


def test_they_are_remembered_long_enough_and_not_for_ever() -> None:
    recent = RecentIds(keep_s=10.0, ids_max=1_000)
    recent.add("a", "delivery", 7, 0.0)
    recent.add("b", "delivery", 7, 9.9)
    assert recent.ending("a") == "delivery"
    recent.add("c", "delivery", 7, 10.0)
    assert recent.ending("a") == "delivery"
    assert recent.ending("b") == "delivery"
    recent.add("d", "delivery", 7, 20.0)
    assert recent.ending("b") is None
    assert recent.ending("c") == "delivery"
    assert recent.ending("d") == "delivery"


def test_there_are_never_more_than_allowed() -> None:
    recent = RecentIds(keep_s=10.0, ids_max=10)
    for number in range(100):
        recent.add(str(number), "delivery", 7, 0.0)
        assert recent.ending(str(number)) == "delivery"
    assert sum(recent.ending(str(number)) is not None for number in range(100)) <= 10


def test_a_node_that_need_not_remember_does_not() -> None:
    recent = RecentIds(keep_s=0.0, ids_max=10)
    recent.add("a", "delivery", 7, 0.0)
    assert recent.ending("a") is None


def test_the_last_ending_counts() -> None:
    recent = RecentIds(keep_s=10.0, ids_max=10)
    recent.add("a", "delivery", 7, 0.0)
    recent.add("a", "retry", 7, 15.0)
    assert recent.ending("a") == "retry"


def test_an_id_that_is_used_again_is_another_timer() -> None:
    recent = RecentIds(keep_s=10.0, ids_max=10)
    recent.add("a", "delivery", 7, 0.0)
    assert recent.was_made_by("a", 7)
    assert not recent.was_made_by("a", 8)
    assert not recent.was_made_by("b", 7)
    recent.add("a", "retry", 7, 1.0)
    assert not recent.was_made_by("a", 7), "it is pending again"
