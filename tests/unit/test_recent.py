"""Ids that are remembered for a while."""

from __future__ import annotations

from skyring.timers.recent import RecentIds


def test_they_are_remembered_long_enough_and_not_for_ever() -> None:
    recent = RecentIds(keep_s=10.0, ids_max=1_000)
    recent.add("a", "delivery", 0.0)
    recent.add("b", "delivery", 9.9)
    assert recent.get("a") == "delivery"
    recent.add("c", "delivery", 10.0)
    assert recent.get("a") == "delivery"
    assert recent.get("b") == "delivery"
    recent.add("d", "delivery", 20.0)
    assert recent.get("b") is None
    assert recent.get("c") == "delivery"
    assert recent.get("d") == "delivery"


def test_there_are_never_more_than_allowed() -> None:
    recent = RecentIds(keep_s=10.0, ids_max=10)
    for number in range(100):
        recent.add(str(number), "delivery", 0.0)
        assert recent.get(str(number)) == "delivery"
    assert sum(recent.get(str(number)) is not None for number in range(100)) <= 10


def test_the_last_ending_counts() -> None:
    recent = RecentIds(keep_s=10.0, ids_max=10)
    recent.add("a", "delivery", 0.0)
    recent.add("a", "retry", 15.0)
    assert recent.get("a") == "retry"
