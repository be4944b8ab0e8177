"""The checker: each rule finds what breaks it, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from skyring.testing.proof.checker import Allowance, Violation, check
from skyring.testing.proof.history import Answer, Delivery, Fault, History, LogEntry, Operation


class Story:
    """A history in few words. Times are seconds; due times are milliseconds of the same clock."""

    def __init__(self) -> None:
        self.history = History()

    def asked(
        self,
        kind: Any,
        start_s: float,
        end_s: float | None,
        content: str = "",
        answer: Answer = "done",
        due_ms: int = 0,
        timer: str = "t",
    ) -> Story:
        op = Operation(kind, timer, start_s, content, due_ms)
        if end_s is not None:
            op.ended(answer, end_s)
        self.history.operations.append(op)
        return self

    def create(self, start_s: float, end_s: float | None, content: str = "v", **more: Any) -> Story:
        return self.asked("create", start_s, end_s, content, **more)

    def delivered(
        self,
        began_s: float,
        content: str = "v",
        *,
        taken: bool = True,
        told: bool = True,
        node: str = "a",
        timer: str = "t",
    ) -> Story:
        self.history.deliveries.append(
            Delivery(timer, content, began_s, int(1000 * began_s), 0, node, taken, taken and told)
        )
        return self

    def fault(self, start_s: float, end_s: float, *nodes: str) -> Story:
        self.history.faults.append(Fault("stall", start_s, end_s, frozenset(nodes)))
        return self

    def entry(self, sequence: int, epoch: int, writer: str, *, claim: bool = False) -> Story:
        self.history.entries.append(LogEntry(0, sequence, epoch, writer, claim))
        return self

    def broken(self, allowance: Allowance | None = None) -> list[str]:
        return [violation.rule for violation in check(self.history, allowance)]


def test_a_timer_that_is_made_and_delivered() -> None:
    assert Story().create(1, 2).delivered(3).broken() == []


# Lost


def test_an_acknowledged_timer_that_never_comes_is_lost() -> None:
    assert Story().create(1, 2).broken() == ["lost"]


def test_one_that_no_receiver_has_taken_is_lost() -> None:
    assert Story().create(1, 2).delivered(3, taken=False).broken() == ["lost"]


@pytest.mark.parametrize("answer", ["unknown", "refused"])
def test_what_was_not_acknowledged_need_not_come(answer: Answer) -> None:
    assert Story().create(1, 2, answer=answer).broken() == []


@pytest.mark.parametrize("end_s", [4, None])
def test_what_was_cancelled_or_perhaps_need_not_come(end_s: float | None) -> None:
    assert Story().create(1, 2).asked("cancel", 3, end_s).broken() == []


def test_a_cancel_that_was_refused_excuses_nothing() -> None:
    story = Story().create(1, 2).asked("cancel", 3, 4, answer="refused")
    assert story.broken() == ["lost"]


def test_a_cancel_of_an_earlier_timer_excuses_nothing() -> None:
    story = Story().create(1, 2, "old").asked("cancel", 3, 4).create(5, 6, "new")
    assert story.broken() == ["lost"]
    assert story.delivered(7, "new").broken() == []


def test_a_cancel_without_an_answer_may_come_late() -> None:
    story = Story().create(1, 2, "old").asked("cancel", 3, None).create(5, 6, "new")
    assert story.broken() == []


def test_a_cancel_that_met_a_create_may_have_come_after_it() -> None:
    story = Story().create(1, 6).asked("cancel", 3, 4)
    assert story.broken() == []


def test_a_cancel_before_an_update_has_removed_another_timer() -> None:
    story = Story().create(1, None).asked("cancel", 2, 3).asked("update", 4, 5, "new")
    assert story.broken() == ["lost"]


def test_what_was_delivered_long_before_it_was_made_again_is_lost() -> None:
    story = Story().create(1, None).delivered(5).create(20, 21)
    assert story.broken(Allowance(record_s=16)) == []
    assert story.broken(Allowance(record_s=14)) == ["lost"]
    story.fault(5.5, 30, "a")  # it may have been recorded at any time then
    assert story.broken(Allowance(record_s=14)) == []


def test_a_create_that_is_answered_when_its_timer_has_been_delivered() -> None:
    assert Story().create(1, 21).delivered(5).broken(Allowance(record_s=2)) == []


def test_a_dead_letter_is_not_lost_if_it_went_where_nothing_is_taken() -> None:
    story = Story().create(1, 2)
    story.history.dead.add("t")
    assert story.broken() == ["lost"]
    story.history.operations[0].may_die = True
    assert story.broken() == []


def test_a_loss_that_was_reported_is_no_silent_one() -> None:
    story = Story().create(1, 2)
    story.history.reported.add("t")
    assert story.broken() == []


def test_the_last_content_has_to_come() -> None:
    story = Story().create(1, 2, "old").asked("update", 3, 4, "new")
    assert story.delivered(3.5, "old").broken() == ["lost"]
    assert story.delivered(5, "new").broken() == []


def test_an_update_without_an_answer_may_have_been_made_or_not() -> None:
    for content in ("old", "new"):
        story = Story().create(1, 2, "old").asked("update", 3, None, "new")
        assert story.delivered(5, content).broken() == []


# Early


def test_early() -> None:
    assert Story().create(1, 2, due_ms=3001).delivered(3).broken() == ["early"]
    assert Story().create(1, 2, due_ms=3000).delivered(3).broken() == []


def test_a_repeated_create_may_have_been_the_first_to_arrive() -> None:
    story = Story().create(1, None, due_ms=3000).create(2, 2.5, due_ms=4000)
    assert story.delivered(3).broken() == []


def test_early_by_the_word_of_the_node() -> None:
    story = Story().create(1, 2).delivered(3)
    story.history.deliveries[0].due_ms = 3500
    assert story.broken() == ["early"]


# After a cancel


def test_after_a_cancel() -> None:
    story = Story().create(1, 2).asked("cancel", 3, 4)
    assert story.delivered(3.9).broken() == []
    assert story.delivered(4.1, taken=False).broken() == ["after cancel"]


def test_a_delivery_may_have_begun_before_it_was_seen() -> None:
    story = Story().create(1, 2).asked("cancel", 3, 4).delivered(4.1)
    assert story.broken(Allowance(begun_s=0.2)) == []


def test_a_create_without_an_answer_may_come_after_the_cancel() -> None:
    story = Story().create(0, None).create(1, 2).asked("cancel", 3, 4).delivered(5)
    assert story.broken() == []


def test_a_later_create_of_other_content_does_not_excuse_what_was_cancelled() -> None:
    story = Story().create(1, 2, "old").asked("cancel", 3, 4).create(5, 6, "new")
    story.delivered(7, "new")
    assert story.broken() == []
    assert story.delivered(8, "old").broken() == ["after cancel", "content"]


def test_the_content_of_an_update_may_come_again_with_a_create_and_an_update() -> None:
    for update_end_s, create_end_s, rules in (
        (None, 9, []),
        (None, 2, ["after cancel"]),
        (2.5, 9, ["after cancel"]),
    ):
        story = Story().create(0, 1).asked("update", 2, update_end_s, "new")
        story.asked("cancel", 3, 4).create(1, create_end_s)
        story.delivered(5, "new").delivered(6)
        found = story.broken()
        assert ("after cancel" in found) == bool(rules), found


# Content


def test_content_that_was_replaced() -> None:
    story = Story().create(1, 2, "old").asked("update", 3, 4, "new").delivered(6, "new")
    assert story.delivered(5, "old").broken() == ["content"]


def test_content_that_was_being_replaced() -> None:
    story = Story().create(1, 2, "old").asked("update", 3, 5, "new").delivered(6, "new")
    assert story.delivered(4, "old").broken() == []


def test_content_that_nobody_has_asked_for() -> None:
    assert Story().create(1, 2).delivered(3).delivered(4, "x").broken() == ["content"]


def test_a_timer_that_nobody_has_asked_for() -> None:
    assert Story().delivered(3, "x").broken() == ["content"]


def test_a_create_without_an_answer_is_known_by_its_content() -> None:
    assert Story().create(1, None, timer="").delivered(3).broken() == []


def test_one_create_makes_one_timer() -> None:
    story = Story().create(1, None, timer="").delivered(3, timer="a")
    assert story.delivered(4, timer="b").broken() == ["content"]


# Duplicates


def test_twice_without_a_reason() -> None:
    assert Story().create(1, 2).delivered(3).delivered(4).broken() == ["duplicate"]


@pytest.mark.parametrize("told", [False])
def test_again_because_the_node_was_not_told(told: bool) -> None:
    assert Story().create(1, 2).delivered(3, told=told).delivered(4).broken() == []


@pytest.mark.parametrize("nodes", [(), ("a",)])
def test_again_because_of_a_fault(nodes: tuple[str, ...]) -> None:
    story = Story().create(1, 2).delivered(3).fault(3.5, 3.6, *nodes).delivered(4, node="b")
    assert story.broken() == []


def test_a_fault_of_others_explains_nothing() -> None:
    story = Story().create(1, 2).delivered(3).fault(3.5, 3.6, "c").delivered(4)
    assert story.broken() == ["duplicate"]


def test_a_fault_of_the_node_that_delivers_again_explains_nothing() -> None:
    story = Story().create(1, 2).delivered(3).fault(3.5, 3.6, "b").delivered(4, node="b")
    assert story.broken() == ["duplicate"]


def test_a_fault_explains_nothing_when_the_delivery_was_recorded() -> None:
    story = Story().create(1, 2).delivered(3).fault(5.5, 6, "a").delivered(9, node="b")
    assert story.broken(Allowance(record_s=3)) == []
    assert story.broken(Allowance(record_s=2)) == ["duplicate"]


def test_a_create_may_have_lost_its_answer_long_before_the_delivery() -> None:
    for start_s, rules in ((1.0, []), (20.0, ["duplicate"])):
        story = Story().create(1, None).delivered(9).fault(start_s, 2 * start_s, "c")
        assert story.delivered(30).broken(Allowance(record_s=2)) == rules


def test_a_fault_of_the_node_that_is_asked_explains_what_it_repeats() -> None:
    for end_s, rules in ((4.5, []), (2.0, ["duplicate"])):
        story = Story().create(1, end_s).delivered(3).fault(2.5, 3.5, "c").delivered(4)
        story.history.operations[0].node = "c"
        assert story.broken() == rules


def test_a_fault_is_felt_for_a_while() -> None:
    story = Story().create(1, 2).fault(1.5, 2, "a").delivered(3).delivered(4)
    assert story.broken() == ["duplicate"]
    assert story.broken(Allowance(fault_s=1)) == []


@pytest.mark.parametrize("begun_s", [0.9, 1.0])
def test_the_one_that_arrives_last_may_have_begun_first(begun_s: float) -> None:
    rules = [] if begun_s == 1 else ["duplicate"]
    allowance = Allowance(begun_s=begun_s)
    story = Story().create(1, 2).fault(2.5, 6, "b").delivered(3).delivered(4, node="b")
    assert story.broken(allowance) == rules
    story = Story().create(1, 2).delivered(3).delivered(4, node="b", told=False)
    assert story.broken(allowance) == rules
    story = Story().create(1, 2).fault(3.5, 6, "b").delivered(3).delivered(4, node="b")
    assert story.broken(allowance) == ["duplicate"], "the fault came when both had begun"


def test_a_client_that_repeats_its_create_may_make_a_second_timer() -> None:
    story = Story().create(1, None).create(2, 3).delivered(3).delivered(4)
    assert story.broken() == []


# Denied


@pytest.mark.parametrize("kind", ["get", "cancel", "update"])
def test_a_timer_that_is_denied(kind: str) -> None:
    story = Story().create(1, 2).asked(kind, 3, 4, "w", answer="missing").delivered(5)
    assert story.broken() == ["denied"]


def test_what_is_delivered_may_be_missing() -> None:
    story = Story().create(1, 2).asked("get", 3, 4, answer="missing").delivered(3.5)
    assert story.broken() == []


def test_what_is_being_created_may_be_missing() -> None:
    story = Story().create(1, 3).asked("get", 2, 4, answer="missing").delivered(5)
    assert story.broken() == []


def test_one_that_is_denied_though_an_earlier_one_was_cancelled_or_delivered() -> None:
    story = Story().create(1, 2, "old").asked("cancel", 3, 4).create(5, 6, "new")
    story.asked("get", 7, 8, answer="missing").delivered(9, "new")
    assert story.broken() == ["denied"]
    story = Story().create(1, 2, "old").delivered(3, "old").create(5, 6, "new")
    story.asked("get", 7, 8, answer="missing").delivered(9, "new")
    assert story.broken() == ["denied"]


# Done though refused


def test_what_was_refused_must_not_come() -> None:
    story = Story().create(1, 2, answer="refused").delivered(3)
    assert story.broken() == ["done though refused"]


# Looking


def test_what_was_replaced_is_not_shown() -> None:
    story = Story().create(1, 2, "old").asked("update", 3, 4, "new").delivered(9, "new")
    assert story.asked("get", 3.5, 5, "old").broken() == []
    assert story.asked("get", 4.5, 5, "new").broken() == []
    assert story.asked("get", 4.5, 5, "old").broken() == ["stale"]


def test_what_was_cancelled_is_not_shown() -> None:
    story = Story().create(1, 2).asked("cancel", 3, 4)
    assert story.asked("get", 3.5, 5, "v").broken() == []
    assert story.asked("get", 4.5, 5, "v").broken() == ["stale"]


def test_what_was_cancelled_is_not_shown_when_the_id_is_used_again() -> None:
    story = Story().create(1, 2, "old").asked("cancel", 3, 4).create(5, None, "new")
    story.delivered(9, "new")
    assert story.asked("get", 7, 8, "new").broken() == []
    assert story.asked("get", 7, 8, "old").broken() == ["stale"]


def test_who_repeats_a_create_is_not_told_that_it_is_another() -> None:
    story = Story().create(1, 2).create(3, 4, answer="conflict").delivered(5)
    assert story.broken() == ["conflict"]
    assert story.asked("update", 2, 3, "w", answer="missing").broken() == ["denied"]


def test_a_repeat_that_had_ended_before_the_first_delivery_explains_nothing() -> None:
    story = Story().create(1, 2).create(2, 2.5).delivered(3).delivered(4)
    assert story.broken() == ["duplicate"]


def test_what_was_refused_and_then_done_may_come() -> None:
    assert Story().create(1, 2, answer="refused").create(3, 4).delivered(5).broken() == []


# Late, failures, epochs


def test_late_when_all_is_calm() -> None:
    story = Story().create(2, 3).delivered(9)
    story.history.deliveries[0].due_ms = 5_000
    story.history.calm_s = 1
    assert story.broken(Allowance(late_s=4)) == []
    assert story.broken(Allowance(late_s=3.9)) == ["late"]
    story.history.calm_s = 2.5
    assert story.broken(Allowance(late_s=3.9)) == ["late"], "it was made before, and is due then"
    assert story.broken(Allowance(late_s=3.9, queue_s=0.2)) == []
    story.history.calm_s = 5.5
    assert story.broken(Allowance(late_s=3.9)) == [], "it was due before"


def test_an_update_is_punctual_too() -> None:
    story = Story().create(1, 2, "old").asked("update", 3, 4, "new").delivered(12, "new")
    story.history.deliveries[0].due_ms = 9_000
    story.history.calm_s = 5
    assert story.broken(Allowance(late_s=2.9)) == ["late"]


def test_clocks_that_were_set_end_the_calm() -> None:
    for end_ms, rules in ((7_000, ["late"]), (6_500, [])):
        story = Story().create(1, 2).delivered(90)
        story.history.deliveries[0].due_ms = 6_000
        story.history.calm_s, story.history.calm_ms = 5, (5_000, end_ms)
        assert story.broken(Allowance(late_s=1)) == rules


def test_a_node_that_takes_a_timer_for_due_too_late() -> None:
    story = Story().create(2, 3, due_ms=5_000).delivered(9)
    story.history.deliveries[0].due_ms = 9_000
    story.history.calm_s = 1
    assert story.broken(Allowance(late_s=3)) == [], "it may have been made when it was answered"
    assert story.broken(Allowance(late_s=2.9)) == ["late"]
    story.history.calm_s = None
    assert story.broken(Allowance(late_s=2.9)) == [], "clocks may have been set"
    story.history.operations[0].due_latest_ms = 6_000
    assert story.broken(Allowance(late_s=2.9)) == ["late"]


def test_a_failure_of_a_node() -> None:
    story = Story()
    story.history.failures.append((1.0, "a: it has failed"))
    assert check(story.history) == [Violation("failure", "", "at 1.000: a: it has failed")]


def test_epochs_as_they_should_be() -> None:
    story = Story().entry(1, 1, "a", claim=True).entry(2, 1, "a").entry(5, 3, "b", claim=True)
    assert story.entry(7, 3, "b").broken() == []


@pytest.mark.parametrize(
    "entries",
    [
        [(1, 1, "a", True), (2, 2, "b", True), (3, 1, "a", False)],
        [(1, 1, "a", True), (2, 1, "b", False)],
        [(1, 1, "a", True), (2, 1, "b", True)],
        [(1, 1, "a", True), (2, 2, "b", False)],
    ],
)
def test_epochs_as_they_must_not_be(entries: list[tuple[int, int, str, bool]]) -> None:
    story = Story()
    for sequence, epoch, writer, claim in entries:
        story.entry(sequence, epoch, writer, claim=claim)
    assert story.broken() == ["epoch"]


def test_the_story_of_a_timer_in_words() -> None:
    story = Story().create(1, 2).delivered(3).fault(2, 4, "b").create(1, 2, timer="other")
    assert story.history.lines("t") == [
        "     1.000  ?  ← create t v due 0",
        "     2.000  FAULT stall: b, to 4.000",
        "     2.000  ?  → create t v: done",
        "     3.000  a  delivers t v due 0 at 3000: told",
    ]
