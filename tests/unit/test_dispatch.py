"""Fairness and limits of the dispatcher."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyring.timers.dispatch import Dispatcher
from skyring.timers.record import Hint

SLOW_MS = 1_000


def hint(number: int, destination: str) -> Hint:
    return Hint(number, 0, f"t{number}", destination)


def test_a_silent_receiver_does_not_hold_up_the_others() -> None:
    dispatcher = Dispatcher(10, 2, 100, SLOW_MS)
    for number in range(20):
        dispatcher.add(hint(number, "silent"), 1)
    dispatcher.add(hint(20, "quick"), 1)
    taken = [dispatcher.take() for _ in range(3)]
    assert [item.destination for item in taken if item] == ["silent", "quick", "silent"]
    assert dispatcher.take() is None
    dispatcher.done("quick")
    assert dispatcher.take() is None
    dispatcher.add(hint(21, "quick"), 1)
    again = dispatcher.take()
    assert again is not None
    assert again.destination == "quick"


def test_turns_go_round() -> None:
    dispatcher = Dispatcher(10, 10, 100, SLOW_MS)
    for number in range(6):
        dispatcher.add(hint(number, "ab"[number // 3]), 1)
    taken = [dispatcher.take() for _ in range(6)]
    assert "".join(item.destination for item in taken if item) == "ababab"


def test_when_the_queue_is_full_a_slow_destination_is_put_off_and_a_quick_one_waits() -> None:
    dispatcher = Dispatcher(1, 1, waiting_max=4, slow_ms=SLOW_MS)
    for number in range(4):
        assert dispatcher.add(hint(number, "busy"), 10) == "queued"
    assert dispatcher.add(hint(4, "busy"), 10 + SLOW_MS) == "hold"
    assert dispatcher.add(hint(4, "busy"), 11 + SLOW_MS) == "put off"
    assert dispatcher.add(hint(5, "other"), 11 + SLOW_MS) == "queued"
    assert dispatcher.waiting == 5


@given(st.integers(1, 50), st.integers(1, 60))
def test_however_many_destinations_there_are_the_queue_is_bounded(
    waiting_max: int, destinations: int
) -> None:
    dispatcher = Dispatcher(1, 1, waiting_max, SLOW_MS)
    for number in range(500):
        dispatcher.add(hint(number, f"host-{number * 7 % destinations}"), 0)
    assert dispatcher.waiting <= 2 * waiting_max


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcdef")),
        st.tuples(st.just("take"), st.just("")),
        st.tuples(st.just("done"), st.integers(0, 20)),
    ),
    max_size=200,
)


@given(STEPS, st.integers(1, 6), st.integers(1, 3))
def test_limits_hold_and_nothing_is_forgotten(
    steps: list[tuple[str, str | int]], in_flight_max: int, per_destination_max: int
) -> None:
    dispatcher = Dispatcher(in_flight_max, per_destination_max, 10, SLOW_MS)
    in_flight: list[str] = []
    queued = taken = 0
    for number, (step, argument) in enumerate(steps):
        if step == "add":
            queued += dispatcher.add(hint(number, str(argument)), 1) == "queued"
        elif step == "take":
            item = dispatcher.take()
            if item is not None:
                taken += 1
                in_flight.append(item.destination)
        elif in_flight:
            dispatcher.done(in_flight.pop(int(argument) % len(in_flight)))
        assert len(in_flight) <= in_flight_max
        assert all(in_flight.count(name) <= per_destination_max for name in in_flight)
        assert dispatcher.waiting == queued - taken
    while dispatcher.waiting or in_flight:
        while (item := dispatcher.take()) is not None:
            taken += 1
            in_flight.append(item.destination)
        assert in_flight, "timers wait though every place is free"
        dispatcher.done(in_flight.pop())
    assert taken == queued
