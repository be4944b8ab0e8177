"""What the benchmarks of the ring make of deliveries."""

from __future__ import annotations

from itertools import islice

from skyring.bench.ring_bulk import keys_in
from skyring.bench.ring_stats import (
    Blow,
    at_least,
    at_most,
    duplicates,
    exactly,
    first_after_ms,
    first_by_slot_ms,
    stalled_ms,
)
from skyring.bench.stats import Delivery
from skyring.timers.record import timer_slot

SLOTS = 8
HELD = frozenset({1, 2})
BLOW = Blow(10_000.0, HELD, SLOTS)


def key(slot: int, skip: int = 0) -> str:
    """An id that lies in a slot."""
    return next(islice(keys_in("k", frozenset({slot}), SLOTS), skip, None))


def delivery(timer: str, arrived_ms: float, due_ms: int | None = None) -> Delivery:
    return Delivery(timer, timer, arrived_ms, due_ms, 1)


def test_keys_lie_in_the_slots_that_are_asked_for() -> None:
    found = list(islice(keys_in("tag", HELD, SLOTS), 50))
    assert {timer_slot(each, SLOTS) for each in found} == HELD
    assert len(set(found)) == 50
    assert all(each.startswith("tag-") for each in found)


def test_a_delivery_in_flight_at_the_blow_may_come_twice() -> None:
    timer = key(1)
    for first_ms in (9_500.0, 9_999.0, 10_050.0):
        twice = [delivery(timer, first_ms), delivery(timer, 13_000.0)]
        assert duplicates({timer}, twice, [BLOW]) == (1, [])
        assert duplicates({timer}, reversed(twice), [BLOW]) == (1, [])


def test_no_other_may_come_twice() -> None:
    early = [delivery(key(1), 5_000.0), delivery(key(1), 13_000.0)]
    late = [delivery(key(2), 12_000.0), delivery(key(2), 13_000.0)]
    elsewhere = [delivery(key(3), 10_000.0), delivery(key(3), 13_000.0)]
    thrice = [delivery(key(1, 1), at_ms) for at_ms in (10_000.0, 13_000.0, 14_000.0)]
    renamed = [delivery(key(1, 2), 10_000.0), Delivery(key(1, 2), "another", 13_000.0, None, 1)]
    groups = [early, late, elsewhere, thrice, renamed]
    arrived = [each for group in groups for each in group]
    found = duplicates({each.key for each in arrived}, arrived, [BLOW])
    assert found.in_flight == 0
    assert found.elsewhere == groups
    assert duplicates(set(), arrived, [BLOW]) == (0, [])


def test_a_blow_that_lasts() -> None:
    timer = key(1)
    twice = [delivery(timer, 12_500.0), delivery(timer, 18_000.0)]
    assert duplicates({timer}, twice, [BLOW]).in_flight == 0
    assert duplicates({timer}, twice, [BLOW._replace(lasts_ms=3_000)]).in_flight == 1


def test_the_first_timer_of_the_dead_node() -> None:
    arrived = [
        delivery(key(1), 9_000.0),  # by the node itself
        delivery(key(1, 1), 10_050.0),  # this too: it was on its way
        delivery(key(3), 11_000.0),  # of another node
        delivery(key(2), 13_500.0),
        delivery(key(2, 1), 13_200.0),
        delivery(key(1, 2), 14_000.0),
    ]
    assert first_after_ms(arrived, BLOW) == 3_200
    assert first_by_slot_ms(arrived, BLOW) == {2: 3_200, 1: 4_000}
    assert first_after_ms(arrived[:3], BLOW) is None


def test_how_long_what_was_due_had_to_wait() -> None:
    expected = {key(1): 9_000.0, key(2): 13_000.0, key(3): 10_000.0}
    arrived = [
        delivery(key(1), 13_100.0),  # due before the blow: it waits from the blow on
        delivery(key(2), 13_250.0, 13_200),
        delivery(key(3), 19_000.0),  # of another node
    ]
    assert stalled_ms(expected, arrived, BLOW) == 3_100
    assert stalled_ms(expected, arrived[1:], BLOW) == 50
    assert stalled_ms({}, arrived, BLOW) is None


def test_conditions_and_goals() -> None:
    assert exactly("lost", 0, 0).ok
    assert not exactly("lost", 0, 1).ok
    assert not exactly("lost", 0, None).ok
    assert not exactly("lost", 0, 0).is_goal
    assert at_most("time", 5.0, 5.0, "s").ok
    assert not at_most("time", 5.0, 5.01, "s").ok
    assert not at_most("time", 5.0, None, "s").ok
    assert at_least("ratio", 0.6, 0.6).ok
    assert not at_least("ratio", 0.6, 0.59).ok
    assert not at_least("ratio", 0.6, None).ok
    assert at_most("time", 5.0, 1.0, "s").is_goal
