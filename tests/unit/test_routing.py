"""The table of holders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skyring.ring.membership import Gossip, Member, MemberState
from skyring.ring.routing import RoutingTable
from skyring.ring.slots import pack_slots

SLOTS = 16


def member(name: str, held: set[int], state: MemberState = "alive") -> Member:
    return Member(Gossip(name, 1, "alive", held=pack_slots(held)), state, 0)


def test_the_last_one_to_begin_is_the_holder() -> None:
    table = RoutingTable(SLOTS)
    assert table.holder(3) is None
    assert table.told(member("a", {3, 4}))
    assert table.told(member("b", {3}))
    assert (table.holder(3), table.holder(4)) == ("b", "a")
    assert not table.told(member("a", {3, 4}))
    assert table.holder(3) == "b"
    assert not table.told(member("b", set()))
    assert table.holder(3) == "a"


def test_one_that_is_gone_holds_nothing() -> None:
    table = RoutingTable(SLOTS)
    table.told(member("a", {1}))
    table.told(member("a", {1}, "suspect"))
    assert table.holder(1) == "a"
    table.told(member("a", {1}, "dead"))
    assert table.holder(1) is None
    assert table.said_to_hold("a") == frozenset()
    assert table.told(member("a", {1}))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.integers(0, SLOTS - 1)))))
def test_it_says_what_the_nodes_said_last(told: list[tuple[str, set[int]]]) -> None:
    table = RoutingTable(SLOTS)
    said: dict[str, set[int]] = {}
    for name, held in told:
        before = said.get(name, set())
        assert table.told(member(name, held)) == bool(held - before)
        said[name] = held
    for slot in range(SLOTS):
        holders = {name for name, held in said.items() if slot in held}
        assert (table.holder(slot) in holders) if holders else (table.holder(slot) is None)
    for name, slots in table.by_node().items():
        assert set(slots) <= said[name]
