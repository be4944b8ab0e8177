"""Which slots a node takes, and when it may."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from skyring.ring.ownership import Holder, Ownership, Steps
from skyring.ring.slots import pack_slots, unpack_slots

SLOTS = 6
LEASE_MS = 1_000
MINE = ("me",) * SLOTS


def ownership(moves_max: int = SLOTS) -> Ownership:
    made = Ownership("me", SLOTS, moves_max, ask_again_ms=100)
    made.placed(MINE, 0)
    return made


def holder(until_ms: int = LEASE_MS, *, is_listening: bool = True) -> list[Holder]:
    return [Holder("other", until_ms, is_listening)]


def all_of(*slots: int) -> frozenset[int]:
    return frozenset(slots)


def follow(owner: Ownership, now_ms: int = 0) -> None:
    owner.followed(owner.step({}, {}, now_ms).follow)


def test_slots_that_nobody_holds_are_followed_and_claimed() -> None:
    owner = ownership()
    assert owner.step({}, {}, 0) == Steps(follow=frozenset(range(SLOTS)))
    assert owner.step({}, {}, 0) == Steps()
    owner.followed([0, 1])
    assert owner.step({}, {}, 0) == Steps(overtake=all_of(0, 1))
    assert owner.held() == frozenset()
    owner.claimed([0])
    owner.lost([1], 0)
    assert owner.held() == all_of(0)
    assert owner.missing() == frozenset(range(1, SLOTS))
    assert owner.step({}, {}, 0) == Steps(), "it is not tried again at once"
    assert owner.step({}, {}, 100) == Steps(follow=all_of(1))


def test_a_slot_without_a_holder_is_left_alone_at_first() -> None:
    owner = Ownership("me", SLOTS, SLOTS, ask_again_ms=100, grace_ms=500)
    owner.placed(("other",) * SLOTS, 0)
    owner.placed(MINE, 1_000)
    follow(owner, 1_000)
    assert owner.step({}, {}, 1_499) == Steps(), "another node may be claiming it"
    owner.placed(MINE, 1_400)
    assert owner.step({0: holder(9_999)}, {}, 1_500) == Steps(
        ask={"other": all_of(0)}, overtake=all_of(*range(1, SLOTS))
    )


def test_the_lease_of_a_dead_holder_counts_also_when_the_grace_is_over() -> None:
    owner = Ownership("me", SLOTS, SLOTS, ask_again_ms=100, grace_ms=200)
    owner.placed(MINE, 0)
    follow(owner)
    holders = {0: holder(LEASE_MS, is_listening=False)}
    assert owner.step(holders, {}, 199) == Steps()
    assert owner.step(holders, {}, 200) == Steps(overtake=all_of(*range(1, SLOTS)))
    assert owner.step(holders, {}, LEASE_MS - 1) == Steps()
    assert owner.step(holders, {}, LEASE_MS) == Steps(overtake=all_of(0))


def test_what_a_node_lets_go_of_as_it_leaves_is_claimed_at_once() -> None:
    owner = Ownership("me", SLOTS, SLOTS, ask_again_ms=100, grace_ms=500)
    owner.placed(MINE, 0)
    follow(owner)
    holders = {slot: holder() for slot in (0, 1)}
    assert owner.step(holders, {}, 0) == Steps(ask={"other": all_of(0, 1)})
    owner.refused([1], 0)
    owner.left([0, 1, 2])
    assert owner.step({}, {}, 1) == Steps(overtake=all_of(2)), "0 is being released"
    owner.released([0], "other")
    assert owner.step({}, {}, 1) == Steps(claim=all_of(0))
    assert owner.step({}, {}, 100) == Steps(overtake=all_of(1)), "it is asked again after a while"
    owner.placed(("other",) * SLOTS, 200)
    owner.placed(MINE, 300)
    assert owner.phase(3) == "idle", "of this one nothing is known"
    follow(owner, 300)
    assert owner.step({}, {}, 799) == Steps()


def test_slots_of_others_are_left_alone() -> None:
    owner = ownership()
    owner.placed(("other",) * SLOTS, 0)
    assert owner.step({}, {}, 0) == Steps()
    assert owner.missing() == frozenset()


def test_a_holder_is_asked_and_then_the_slot_is_claimed() -> None:
    owner = ownership()
    follow(owner)
    holders = {slot: holder() for slot in (0, 1, 2)}
    assert owner.step(holders, {}, 0) == Steps(
        ask={"other": all_of(0, 1, 2)}, overtake=all_of(3, 4, 5)
    )
    owner.released([0, 1], "other")
    owner.refused([2], 0)
    assert owner.step(holders, {}, 0) == Steps(claim=all_of(0, 1))
    assert owner.step(holders, {}, 99) == Steps()
    assert owner.step(holders, {}, 100) == Steps(ask={"other": all_of(2)})


def test_a_claim_that_stands_in_the_log_counts_though_nobody_tells_of_it() -> None:
    owner = ownership()
    follow(owner)
    claimants = {0: Holder("third", LEASE_MS, True)}
    dead = {0: holder(0, is_listening=False)}
    steps = owner.step(dead, claimants, 0)
    assert steps == Steps(ask={"third": all_of(0)}, overtake=all_of(1, 2, 3, 4, 5))
    owner.refused([0], 0)
    assert not owner.step(dead, claimants, LEASE_MS - 1).overtake
    owner.refused([0], LEASE_MS - 1)
    assert owner.step(dead, claimants, LEASE_MS + 99).overtake == all_of(0)


def test_who_has_claimed_a_slot_and_does_not_act_for_it_need_not_be_waited_for() -> None:
    owner = ownership()
    follow(owner)
    claimants = {0: Holder("third", LEASE_MS, True)}
    assert owner.step({}, claimants, 0).ask == {"third": all_of(0)}
    owner.released([0], "third")
    assert owner.step({}, claimants, 0) == Steps(claim=all_of(0))


@pytest.mark.parametrize(("claimant", "is_free"), [("other", True), ("third", False)])
def test_a_slot_that_was_released_and_that_somebody_else_has_claimed(
    claimant: str, is_free: bool
) -> None:
    owner = ownership()
    follow(owner)
    holders = {0: holder()}
    assert owner.step(holders, {}, 0).ask == {"other": all_of(0)}
    owner.released([0], "other")
    claimants = {0: Holder(claimant, LEASE_MS, True)}
    assert owner.taken([0], holders, claimants, 0) == (all_of() if is_free else all_of(0))
    steps = owner.step(holders, claimants, 0)
    assert steps.claim == (all_of(0) if is_free else all_of())
    assert steps.ask == ({} if is_free else {"third": all_of(0)}), "which is asked as well"
    owner.released([0], "third")
    assert owner.step(holders, claimants, 0).claim == (all_of() if is_free else all_of(0))
    owner.lost([0], 0)
    assert owner.taken([0], holders, {}, 0) == all_of(0), "that it released it once is over"


def test_who_releases_a_slot_does_not_speak_for_another_that_holds_it() -> None:
    owner = ownership()
    follow(owner)
    holders = {0: [Holder("other", LEASE_MS, True), Holder("third", LEASE_MS - 1, True)]}
    assert owner.step(holders, {}, 0).ask == {"other": all_of(0)}
    owner.released([0], "other")
    assert owner.taken([0], holders, {}, 0) == all_of(0)
    steps = owner.step(holders, {}, 0)
    assert (steps.claim, steps.ask) == (all_of(), {"third": all_of(0)})
    owner.released([0], "third")
    assert owner.step(holders, {}, 0).claim == all_of(0)


def test_a_release_that_comes_late_is_none() -> None:
    owner = ownership()
    follow(owner)
    holders = {0: holder()}
    owner.step(holders, {}, 0)
    owner.placed(("other",) * SLOTS, 0)
    owner.released([0], "other")
    owner.placed(MINE, 0)
    follow(owner)
    assert owner.taken([0], holders, {}, 0) == all_of(0)
    assert 0 not in owner.step(holders, {}, 0).overtake


@pytest.mark.parametrize("is_listening", [True, False])
def test_a_holder_that_does_not_answer_is_waited_out(is_listening: bool) -> None:
    owner = ownership()
    follow(owner)
    holders = dict.fromkeys(range(SLOTS), holder(is_listening=is_listening))
    now_ms = 0
    while now_ms < LEASE_MS:
        steps = owner.step(holders, {}, now_ms)
        assert not steps.claim | steps.overtake
        assert bool(steps.ask) <= is_listening
        for asked in steps.ask.values():
            owner.refused(asked, now_ms)
        now_ms += 100
    assert owner.step(holders, {}, now_ms).overtake == frozenset(range(SLOTS))


def test_what_is_placed_elsewhere_again_is_let_go_but_what_is_held_is_served() -> None:
    owner = ownership()
    follow(owner)
    owner.step({0: holder()}, {}, 0)
    owner.claimed([1, 2])
    owner.placed(("other",) * SLOTS, 0)
    assert owner.held() == all_of(1, 2)
    assert owner.phase(0) == "idle"
    assert owner.phase(3) == "claiming", "that is under way"
    owner.released([0], "other")
    owner.claimed([3])
    assert owner.held() == all_of(1, 2, 3)
    assert owner.step({}, {}, 1_000) == Steps()


def test_few_are_taken_from_a_holder_at_once() -> None:
    owner = ownership(moves_max=2)
    holders = dict.fromkeys(range(SLOTS), holder(9_999))
    steps = owner.step(holders, {}, 0)
    assert steps.follow == frozenset(range(SLOTS)), "logs are read together"
    owner.followed(steps.follow)
    taken: set[int] = set()
    for turn in range(SLOTS // 2):
        (asked,) = owner.step(holders, {}, turn).ask.values()
        assert len(asked) == 2
        assert owner.step(holders, {}, turn) == Steps()
        owner.released(asked, "other")
        taken |= (claimed := owner.step(holders, {}, turn).claim)
        owner.claimed(claimed)
    assert taken == set(range(SLOTS))
    assert owner.step(holders, {}, 9) == Steps()


def test_what_nobody_holds_any_more_is_claimed_together() -> None:
    owner = ownership(moves_max=2)
    follow(owner)
    assert owner.step({}, {}, 1).overtake == frozenset(range(SLOTS))


def test_a_log_that_cannot_be_read_is_tried_again() -> None:
    owner = ownership()
    owner.not_followed(owner.step({}, {}, 0).follow, 0)
    assert owner.step({}, {}, 50) == Steps()
    assert owner.step({}, {}, 100).follow == frozenset(range(SLOTS))


@given(st.sets(st.integers(0, 299)))
def test_sets_of_slots_come_back(slots: set[int]) -> None:
    packed = pack_slots(slots)
    assert unpack_slots(packed, 300) == slots
    assert len(packed) <= 38
    assert unpack_slots(packed, 100) == {slot for slot in slots if slot < 100}


@given(st.binary(max_size=100))
def test_whatever_comes_is_some_set_of_slots(packed: bytes) -> None:
    assert unpack_slots(packed, 256) <= set(range(256))


class Moves(RuleBasedStateMachine):
    """Any order of events; a slot is claimed only when its holder can no longer act."""

    @initialize()
    def begin(self) -> None:
        self.now_ms = 0
        self.owner = ownership(moves_max=4)
        self.holders: dict[int, list[Holder]] = {}
        self.claimants: dict[int, Holder] = {}
        self.released: dict[int, set[str]] = {}
        self.asked: dict[int, str] = {}
        self.following: set[int] = set()
        self.claiming: set[int] = set()

    @rule(data=st.data())
    def placed(self, data: Any) -> None:
        self.owner.placed(
            tuple(data.draw(st.sampled_from(["me", "other"])) for _ in MINE), self.now_ms
        )
        for slot in range(SLOTS):
            if self.owner.phase(slot) == "idle":
                self.released.pop(slot, None)

    @rule(
        slot=st.integers(0, SLOTS - 1),
        name=st.sampled_from(["other", "third"]),
        ms=st.integers(1, 500),
        is_listening=st.booleans(),
    )
    def another_holds(self, slot: int, name: str, ms: int, is_listening: bool) -> None:
        if slot not in self.claiming | self.owner.held():
            others = [each for each in self.holders.get(slot, ()) if each.name != name]
            self.holders[slot] = [*others, Holder(name, self.now_ms + ms, is_listening)]

    @rule(
        slot=st.integers(0, SLOTS - 1),
        name=st.sampled_from(["other", "third"]),
        ms=st.integers(-100, 500),
    )
    def another_claims(self, slot: int, name: str, ms: int) -> None:
        """Which its log says."""
        if slot not in self.claiming | self.owner.held():
            self.claimants[slot] = Holder(name, self.now_ms + ms, True)

    @rule(ms=st.integers(0, 300))
    def step(self, ms: int) -> None:
        self.now_ms += ms
        steps = self.owner.step(self.holders, self.claimants, self.now_ms)
        assert steps.claim <= self.released.keys()
        for slot in steps.claim | steps.overtake:
            assert self.acting(slot) <= self.released.get(slot, set())
        for name, slots in steps.ask.items():
            for slot in slots:
                assert name in self.acting(slot, listening=True) - self.released.get(slot, set())
            self.asked |= dict.fromkeys(slots, name)
        self.following |= steps.follow
        self.claiming |= steps.claim | steps.overtake
        assert not self.claiming & self.owner.held()

    @rule()
    def follow(self) -> None:
        self.owner.followed(self.following)
        self.following.clear()

    @rule()
    def release(self) -> None:
        for slot, name in self.asked.items():
            if self.owner.phase(slot) == "asking":
                self.released.setdefault(slot, set()).add(name)
            self.owner.released([slot], name)
        self.asked.clear()

    @rule(well=st.booleans())
    def claim(self, well: bool) -> None:
        if well:
            self.owner.claimed(self.claiming)
            for slot in self.claiming:
                self.holders.pop(slot, None)
        else:
            self.owner.lost(self.claiming, self.now_ms)
            for slot in self.claiming:
                self.released.pop(slot, None)
        self.claiming.clear()

    def acting(self, slot: int, *, listening: bool = False) -> set[str]:
        """Others that may act for a slot now."""
        claimant = self.claimants.get(slot)
        return {
            each.name
            for each in (*self.holders.get(slot, ()), *([] if claimant is None else [claimant]))
            if each.lease_until_ms > self.now_ms and each.is_listening >= listening
        }

    @invariant()
    def few_are_moving(self) -> None:
        moving = [self.owner.phase(slot) in ("asking", "released") for slot in range(SLOTS)]
        assert sum(moving) <= 4


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=100, stateful_step_count=40)
