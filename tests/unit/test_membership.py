"""Who is in the ring, as a pure machine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from skyring.ring.membership import Announced, Change, Effects, Gossip, Membership, Timing

TIMING = Timing(heartbeat_ms=100, suspect_ms=300, dead_ms=500, forget_ms=10_000)


def gossip(node: str, incarnation: int = 1, state: Announced = "alive", beat: int = 0) -> Gossip:
    return Gossip(node=node, incarnation=incarnation, state=state, beat=beat)


class Watch:
    """A membership and its clock; members that are `live` send their heartbeats."""

    def __init__(self, *live: str) -> None:
        self.now_ms = 0
        self.members = Membership("me", TIMING, 0)
        self.live = {name: gossip(name) for name in ("me", *live)}
        self.changes: list[tuple[str, str]] = []
        self.asked: list[str] = []
        self.beat()

    def note(self, effects: Effects) -> Effects:
        self.changes += [(change.kind, change.member.name) for change in effects.changes]
        self.asked += effects.ask
        return effects

    def beat(self) -> None:
        for each in self.live.values():
            self.note(self.members.heard(each, self.now_ms))

    def run(self, ms: int, step_ms: int = 100) -> None:
        for _ in range(ms // step_ms):
            self.now_ms += step_ms
            self.beat()
            self.note(self.members.tick(self.now_ms))

    def state(self, name: str) -> str:
        member = self.members.get(name)
        assert member is not None
        return member.state


def test_members_are_heard_and_stay() -> None:
    watch = Watch("a", "b")
    watch.run(10_000)
    assert watch.changes == [("join", "me"), ("join", "a"), ("join", "b")]
    assert watch.members.owners() == ["a", "b", "me"]
    assert watch.asked == []


def test_a_silent_one_is_suspected_asked_and_then_dead() -> None:
    watch = Watch("a", "b")
    del watch.live["a"]
    watch.run(200)
    assert watch.state("a") == "alive"
    watch.run(100)
    assert (watch.state("a"), watch.asked) == ("suspect", ["a"])
    assert watch.members.owners() == ["a", "b", "me"]
    watch.run(100)
    assert watch.state("a") == "suspect"
    watch.run(100)
    assert watch.state("a") == "dead"
    assert watch.members.owners() == ["b", "me"]
    assert watch.changes[3:] == [("suspect", "a"), ("dead", "a")]
    assert watch.asked == ["a"]


def test_an_answer_clears_it_of_suspicion() -> None:
    watch = Watch("a")
    del watch.live["a"]
    watch.run(300)
    watch.note(watch.members.answered("a", 1, watch.now_ms))
    assert watch.state("a") == "alive"
    watch.run(200)
    assert watch.state("a") == "alive"
    watch.run(100)
    assert watch.asked == ["a", "a"]
    watch.note(watch.members.answered("a", 2, watch.now_ms))
    watch.run(300)
    assert watch.state("a") == "dead", "that answer came from another start of it"
    watch.note(watch.members.answered("a", 1, watch.now_ms))
    assert watch.state("a") == "dead"
    watch.note(watch.members.answered("nobody", 1, watch.now_ms))


def test_one_that_was_dead_comes_back() -> None:
    watch = Watch("a")
    watch.live.pop("a")
    watch.run(600)
    watch.live["a"] = gossip("a")
    watch.run(100)
    assert watch.state("a") == "alive"
    assert watch.changes[-1] == ("alive", "a")


def test_one_that_starts_again() -> None:
    watch = Watch("a")
    watch.live["a"] = gossip("a", 2)
    watch.run(100)
    assert watch.changes[-1] == ("restart", "a")
    watch.note(watch.members.heard(gossip("a", 1, "left"), watch.now_ms))
    assert watch.state("a") == "alive", "a message of its former life"
    watch.live.pop("a")
    watch.run(600)
    watch.live["a"] = gossip("a", 3, "joining")
    watch.run(100)
    assert watch.changes[-1] == ("join", "a")
    assert watch.members.owners() == ["me"]
    watch.live["a"] = gossip("a", 3)
    watch.run(100)
    assert watch.changes[-1] == ("alive", "a")


def test_one_that_leaves() -> None:
    watch = Watch("a")
    watch.live["a"] = gossip("a", state="leaving")
    watch.run(100)
    assert watch.members.owners() == ["me"]
    watch.live["a"] = gossip("a", state="left")
    watch.run(100)
    assert watch.changes[2:] == [("leaving", "a"), ("leave", "a")]
    watch.note(watch.members.heard(gossip("a"), watch.now_ms))
    assert watch.state("a") == "left", "what was sent before its farewell"
    del watch.live["a"]
    watch.run(TIMING.forget_ms + 200)
    assert watch.members.get("a") is None


@pytest.mark.parametrize("last_word", ["leaving", "joining"])
def test_one_that_falls_silent_while_it_leaves_or_joins_is_no_owner(last_word: Announced) -> None:
    watch = Watch("a")
    watch.live["a"] = gossip("a", 2, last_word)
    watch.run(100)
    del watch.live["a"]
    watch.run(300)
    assert watch.state("a") == "suspect"
    assert watch.members.owners() == ["me"]
    watch.note(watch.members.answered("a", 2, watch.now_ms))
    assert watch.state("a") == last_word
    assert watch.members.owners() == ["me"]


def test_what_it_has_said_before_is_no_sign_of_life() -> None:
    watch = Watch()
    for beat in (6, 7):
        watch.note(watch.members.heard(gossip("a", beat=beat), watch.now_ms))
    watch.run(200)
    for beat in (7, 6, 1):
        watch.note(watch.members.heard(gossip("a", beat=beat), watch.now_ms))
    watch.run(300)
    assert watch.state("a") == "dead", "silent for as long as if that had not been read again"
    for beat in (7, 6):
        watch.note(watch.members.heard(gossip("a", beat=beat), watch.now_ms))
    assert watch.state("a") == "dead"
    assert watch.members.owners() == ["me"]
    watch.note(watch.members.heard(gossip("a", beat=8), watch.now_ms))
    assert watch.state("a") == "alive"
    watch.note(watch.members.heard(gossip("a", 2, beat=1), watch.now_ms))
    assert watch.changes[-1] == ("restart", "a"), "it counts anew when it starts anew"


def test_what_it_said_before_its_last_word_does_not_undo_that() -> None:
    watch = Watch()
    watch.note(watch.members.heard(gossip("a", state="leaving", beat=5), 0))
    watch.note(watch.members.heard(gossip("a", beat=4), 0))
    assert watch.state("a") == "leaving"
    assert watch.members.owners() == ["me"]


def test_a_farewell_of_nobody_known_is_no_news() -> None:
    watch = Watch()
    watch.note(watch.members.heard(gossip("a", state="left"), 0))
    assert watch.changes == [("join", "me")]
    assert watch.state("a") == "left"


def test_time_in_which_this_node_did_not_run_counts_against_nobody() -> None:
    watch = Watch("a", "b")
    watch.now_ms += 60_000
    watch.note(watch.members.tick(watch.now_ms))
    watch.run(1_000)
    assert watch.changes == [("join", "me"), ("join", "a"), ("join", "b")]


def test_time_without_the_bus_counts_against_nobody() -> None:
    watch = Watch("a")
    heard = watch.live.pop("a")
    watch.run(200)
    watch.members.deaf(watch.now_ms)
    watch.members.deaf(watch.now_ms)
    watch.run(5_000)
    assert watch.state("a") == "alive"
    watch.members.hearing(watch.now_ms)
    watch.members.hearing(watch.now_ms)
    watch.run(100)
    assert watch.state("a") == "suspect"
    watch.live["a"] = heard
    watch.run(100)
    assert watch.state("a") == "alive"


@pytest.mark.parametrize("stall_ms", [0, 250, 10_000])
def test_its_own_death_is_not_its_business(stall_ms: int) -> None:
    watch = Watch()
    watch.live.clear()
    watch.now_ms += stall_ms
    watch.run(5_000)
    assert watch.state("me") == "alive"


class Views(RuleBasedStateMachine):
    """Any order of messages and times."""

    @initialize()
    def begin(self) -> None:
        self.now_ms = 0
        self.members = Membership("me", TIMING, 0)
        self.heard: dict[str, int] = {}
        self.incarnations: dict[str, int] = {}
        self.beats: dict[str, int] = {}
        self.changes: list[Change] = []

    @rule(
        node=st.sampled_from("abc"),
        incarnation=st.integers(1, 3),
        state=st.sampled_from(["joining", "alive", "leaving", "left"]),
        beat=st.integers(0, 3),
    )
    def hear(self, node: str, incarnation: int, state: Any, beat: int) -> None:
        said = gossip(node, incarnation, state, beat)
        self.changes += self.members.heard(said, self.now_ms).changes
        known = self.incarnations.get(node, 0)
        is_left = (member := self.members.get(node)) is not None and member.state == "left"
        if incarnation > known or (incarnation == known and (beat == 0 or beat > self.beats[node])):
            self.heard[node] = self.now_ms
            self.incarnations[node] = incarnation
            if incarnation > known or not is_left:
                self.beats[node] = beat

    @rule(node=st.sampled_from("abc"), incarnation=st.integers(1, 3))
    def answer(self, node: str, incarnation: int) -> None:
        self.changes += self.members.answered(node, incarnation, self.now_ms).changes
        if self.incarnations.get(node) == incarnation:
            self.heard[node] = self.now_ms

    @rule(ms=st.integers(0, 1_000))
    def pass_time(self, ms: int) -> None:
        self.now_ms += ms
        effects = self.members.tick(self.now_ms)
        self.changes += effects.changes
        for change in effects.changes:
            silent_ms = self.now_ms - self.heard[change.member.name]
            least_ms = {"suspect": TIMING.suspect_ms, "dead": TIMING.dead_ms}[change.kind]
            assert silent_ms >= least_ms
        for name in effects.ask:
            member = self.members.get(name)
            assert member is not None
            assert member.state == "suspect"

    @invariant()
    def incarnations_only_rise(self) -> None:
        for member in self.members.members():
            assert member.gossip.incarnation == self.incarnations[member.name]

    @invariant()
    def only_the_living_own_slots(self) -> None:
        states = {member.name: member.state for member in self.members.members()}
        for name in self.members.owners():
            assert states[name] in ("alive", "suspect")
            member = self.members.get(name)
            assert member is not None
            assert member.gossip.state == "alive", "it does not want to own any"


TestViews = Views.TestCase
TestViews.settings = settings(max_examples=100, stateful_step_count=40)
