"""Ids of one moment in one slot."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyring.timers.ids import IdSource
from skyring.timers.record import timer_slot
from skyring.timers.together import Together

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("slots", [1, 2, 16, 256, 1_024])
def test_what_comes_together_goes_to_one_slot(slots: int) -> None:
    source, together = IdSource(), Together(slots, keep_s=1.0, timers_max=1_000)
    made = [together.place(source.new(NOW_MS), 5.0) for _ in range(500)]
    assert len(set(made)) == 500
    assert len({timer_slot(one, slots) for one in made}) == 1
    assert all(UUID(one).version == 7 for one in made)


def test_another_time_has_another_slot_and_all_get_the_same_in_the_end() -> None:
    source, together = IdSource(), Together(16, keep_s=0.002)
    count = Counter(
        timer_slot(together.place(source.new(NOW_MS), 0.001 * number), 16)
        for number in range(16_000)
    )
    assert len(count) == 16
    assert min(count.values()) > 700


def test_a_slot_is_kept_for_some_timers_only() -> None:
    source, together = IdSource(), Together(256, keep_s=60.0, timers_max=9)
    slots = [timer_slot(together.place(source.new(NOW_MS), 1.0), 256) for _ in range(1_000)]
    assert all(len(set(slots[start : start + 10])) == 1 for start in range(0, 1_000, 10))
    assert len(set(slots)) > 60


@given(st.integers(1, 65_536))
def test_with_any_number_of_slots_ids_are_fresh(slots: int) -> None:
    source, together = IdSource(), Together(slots)
    made = [together.place(source.new(NOW_MS), 1.0) for _ in range(40)]
    assert len(set(made)) == 40
    if slots & (slots - 1):
        assert len({timer_slot(one, slots) for one in made}) > 1 or slots < 4


def test_what_is_changed_is_the_end_alone() -> None:
    source, together = IdSource(), Together(256, keep_s=60.0)
    for _ in range(200):
        fresh = source.new(NOW_MS)
        assert together.place(fresh, 1.0)[:-3] == fresh[:-3]
