"""Slots are placed on nodes in the same way by everybody, and few of them move."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyring.ring.placement import place

SLOTS = 256
NAMES = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=9, unique=True)


def test_without_nodes_nobody_owns_anything() -> None:
    assert place([], 3) == (None, None, None)


@given(NAMES, st.randoms())
@settings(max_examples=50)
def test_the_order_of_names_does_not_matter(names: list[str], random: object) -> None:
    placed = place(names, SLOTS)
    assert len(placed) == SLOTS
    assert set(placed) <= set(names)
    assert place(reversed(names), SLOTS) == placed
    assert place(names + names, SLOTS) == placed


@given(NAMES, st.text(min_size=1, max_size=12))
@settings(max_examples=50)
def test_a_node_that_comes_or_goes_moves_no_slot_between_others(
    names: list[str], other: str
) -> None:
    rest = [name for name in names if name != other]
    before, after = place(rest, SLOTS), place([*rest, other], SLOTS)
    assert {new for old, new in zip(before, after, strict=True) if old != new} <= {other}


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_slots_are_spread(count: int) -> None:
    shares = Counter(place([f"node-{number}" for number in range(count)], SLOTS)).values()
    assert len(shares) == count
    assert max(shares) < 2 * SLOTS / count
    assert min(shares) > SLOTS / count / 2


def test_the_placement_of_these_names_never_changes() -> None:
    """A ring in which two versions of this program run has to agree."""
    placed = place(["a", "b", "c"], 16)
    assert "".join(str(name) for name in placed) == "cbcbbccabcaaaabb"
