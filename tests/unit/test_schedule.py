"""The schedule against a plain list: nothing lost, nothing early, bounded."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from skyring.timers.record import Hint, due_key, split_due_key
from skyring.timers.schedule import ASIDE, OVERFLOW, Load, Schedule

SCHEDULED_MAX = 12
SLOTS = 3


def hint(due_ms: int, timer_id: str, slot: int = 0) -> Hint:
    return Hint(due_ms, slot, timer_id, "http:host")


def load_all(schedule: Schedule, stored: list[Hint], until_ms: int) -> None:
    for slot in schedule.behind(until_ms):
        while (load := schedule.begin_load(slot, until_ms, 4)) is not None:
            schedule.end_load(load, read(stored, load))


def read(stored: list[Hint], load: Load) -> list[Hint]:
    inside = [
        item
        for item in stored
        if item.slot == load.slot and load.start <= due_key(item.due_ms, item.id) < load.stop
    ]
    return sorted(inside, key=lambda item: due_key(item.due_ms, item.id))[: load.limit]


def test_due_keys_sort_by_time_and_come_apart_again() -> None:
    assert due_key(1, "z") < due_key(2, "a") < due_key(256, "a")
    assert split_due_key(due_key(1_700_000_000_000, "some-id")) == (1_700_000_000_000, "some-id")


def test_fires_in_order_and_never_early() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    load_all(schedule, [], 1_000)
    for due_ms in (30, 10, 20):
        schedule.push(hint(due_ms, f"t{due_ms}"))
    assert schedule.next_due_ms() == 10
    assert schedule.pop_due(9, 10) == []
    assert [item.id for item in schedule.pop_due(29, 10)] == ["t10", "t20"]
    assert schedule.pop_due(29, 10) == []
    assert [item.id for item in schedule.pop_due(30, 10)] == ["t30"]
    assert schedule.next_due_ms() is None


def test_push_says_when_the_alarm_has_to_be_set_anew() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    load_all(schedule, [], 1_000)
    assert schedule.push(hint(500, "a"))
    assert not schedule.push(hint(600, "b"))
    assert schedule.push(hint(400, "c"))


def test_what_lies_beyond_the_mark_stays_in_the_storage() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    load_all(schedule, [], 1_000)
    far = hint(5_000, "far")
    assert not schedule.push(far)
    assert len(schedule) == 0
    load_all(schedule, [far], 6_000)
    assert schedule.pop_due(5_000, 10) == [far]


def test_a_timer_stored_while_its_slot_is_being_read_is_not_missed() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    load = schedule.begin_load(0, 1_000, 4)
    assert load is not None
    found = read([], load)  # the reader has passed this place already …
    late = hint(500, "late")
    schedule.push(late)  # … when the timer is stored
    schedule.end_load(load, found)
    assert schedule.pop_due(1_000, 10) == [late]


def test_a_failed_reading_is_done_again() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    load = schedule.begin_load(0, 1_000, 4)
    assert load is not None
    schedule.abort_load(load)
    stored = [hint(500, "a")]
    load_all(schedule, stored, 1_000)
    assert schedule.pop_due(1_000, 10) == stored


def test_a_dropped_slot_fires_no_more() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    for slot in (0, 1):
        schedule.serve([slot])
    load_all(schedule, [], 1_000)
    schedule.push(hint(10, "a", 0))
    schedule.push(hint(20, "b", 1))
    schedule.drop([0])
    assert [item.id for item in schedule.pop_due(100, 10)] == ["b"]


def test_a_paused_slot_gives_nothing_until_it_is_resumed() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve((0, 1))
    load_all(schedule, [], 1_000)
    stored = [hint(10, "a", 0), hint(20, "b", 1), hint(30, "c", 0)]
    for item in stored:
        schedule.push(item)
    schedule.pause([0])
    assert not schedule.is_open(0)
    assert schedule.is_open(1)
    stored.append(hint(15, "d", 0))
    schedule.push(stored[-1])
    assert schedule.pop_due(12, 10) == []
    assert schedule.pop_due(100, 10) == [stored[1]]
    assert schedule.next_due_ms() is None
    assert len(schedule) == 3
    assert schedule.behind(2_000) == [1]
    assert schedule.begin_load(0, 2_000, 4) is None
    schedule.resume([0])
    assert [item.id for item in schedule.pop_due(100, 10)] == ["a", "d", "c"]


def test_a_cheap_look_does_not_pass_over_what_a_paused_slot_has_to_read_again() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    load_all(schedule, [], 1_000)
    schedule.pause([0])
    assert not schedule.is_beyond(0, 500)
    assert schedule.is_beyond(0, 1_001)


def test_a_slot_that_was_paused_while_it_was_read() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    load = schedule.begin_load(0, 1_000, 4)
    assert load is not None
    stored = [hint(500, "a")]
    schedule.pause([0])
    schedule.end_load(load, stored)
    assert schedule.pop_due(1_000, 10) == []
    schedule.resume([0])
    assert schedule.pop_due(1_000, 10) == stored


def test_more_than_can_be_put_aside_is_read_again() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve((0, 1))
    load_all(schedule, [], 10_000)
    schedule.pause([0])
    stored = [hint(number, f"t{number:02}") for number in range(3 * SCHEDULED_MAX)]
    for item in stored:
        schedule.push(item)
        assert schedule.pop_due(item.due_ms, 10) == []
    assert len(schedule) == SCHEDULED_MAX * ASIDE
    schedule.push(hint(5, "other", 1))
    assert [item.id for item in schedule.pop_due(10, 10)] == ["other"]
    schedule.resume([0])
    found: list[Hint] = []
    while len(found) < len(stored):
        load_all(schedule, stored, 10_000)
        due = schedule.pop_due(10_000, 10)
        assert due
        found += [item for item in due if item not in found]
    assert found == stored


def test_what_dropped_slots_have_left_behind_is_cleared_away() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve((0, 1))
    load_all(schedule, [], 1_000)
    for number in range(4):
        schedule.push(hint(10 + number, f"t{number}", number % 2))
    schedule.drop([0])
    assert len(schedule) == 4
    schedule.clear_away()
    assert len(schedule) == 2
    assert [item.slot for item in schedule.pop_due(100, 10)] == [1, 1]


def test_a_slot_that_comes_back_soon_does_not_hold_its_hints_twice() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.serve([0])
    stored = [hint(10, "a"), hint(20, "b")]
    load_all(schedule, stored, 1_000)
    schedule.drop([0])
    schedule.serve([0])
    load_all(schedule, stored, 1_000)
    assert schedule.pop_due(100, 10) == stored


def test_a_slot_that_comes_back_begins_afresh() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    assert schedule.term(0) == 0
    schedule.serve([0])
    first = schedule.term(0)
    load_all(schedule, [], 1_000)
    schedule.push(hint(500, "a"))
    schedule.serve([0])
    assert schedule.term(0) == first  # it was served already
    schedule.pause([0])
    schedule.drop([0])
    schedule.drop([0])
    schedule.resume([0])
    assert schedule.term(0) == 0
    assert not schedule.push(hint(500, "b"))
    schedule.serve([0])
    assert schedule.term(0) not in {0, first}
    assert schedule.is_open(0)
    assert len(schedule) == 0
    assert schedule.behind(1) == [0]


def test_what_is_no_slot_of_ours_can_be_paused_and_dropped() -> None:
    schedule = Schedule(SCHEDULED_MAX)
    schedule.pause([7])
    schedule.serve([7])
    assert schedule.is_open(7)
    schedule.drop([8])


@dataclass
class Model:
    """The storage: every timer that is stored and has not fired."""

    stored: list[Hint] = field(default_factory=list)
    fired: list[Hint] = field(default_factory=list)


class ScheduleMachine(RuleBasedStateMachine):
    """Random stores, cancels, loads and firings, of slots that come and go; loads may overlap with
    everything else. A slot that is not served is changed by another node."""

    @initialize()
    def start(self) -> None:
        self.schedule = Schedule(SCHEDULED_MAX)
        self.schedule.serve(range(SLOTS))
        self.open = set(range(SLOTS))
        self.stale: list[Hint] = []  # given out, and not delivered
        self.model = Model()
        self.loads: list[tuple[Load, list[Hint]]] = []
        self.now_ms = 0
        self.count = 0

    @rule(delay_ms=st.integers(0, 300), slot=st.integers(0, SLOTS - 1))
    def store(self, delay_ms: int, slot: int) -> None:
        self.count += 1
        made = hint(self.now_ms + delay_ms, f"t{self.count}", slot)
        self.model.stored.append(made)
        self.schedule.push(made)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.model.stored:
            self.model.stored.remove(data.draw(st.sampled_from(self.model.stored)))

    @rule(ahead_ms=st.integers(1, 200), limit=st.integers(1, 4))
    def begin(self, ahead_ms: int, limit: int) -> None:
        until_ms = self.now_ms + ahead_ms
        busy = {load.slot for load, _ in self.loads}
        for slot in self.schedule.behind(until_ms):
            if slot not in busy:
                load = self.schedule.begin_load(slot, until_ms, limit)
                if load is not None:
                    self.loads.append((load, read(self.model.stored, load)))
                return

    @rule(fails=st.booleans())
    def end(self, fails: bool) -> None:
        if self.loads:
            load, found = self.loads.pop(0)
            if fails:
                self.schedule.abort_load(load)
            else:
                self.schedule.end_load(load, found)

    @rule(ms=st.integers(0, 100))
    def fire(self, ms: int) -> None:
        self.now_ms += ms
        for item in self.schedule.pop_due(self.now_ms, 5):
            assert item.due_ms <= self.now_ms
            assert item.slot in self.open
            self.stale.append(item)
            if item in self.model.stored:  # the record decides; the rest are stale hints
                self.model.stored.remove(item)
                self.model.fired.append(item)

    @rule(slots=st.sets(st.integers(0, SLOTS - 1)))
    def pause(self, slots: set[int]) -> None:
        self.schedule.pause(slots)
        self.open -= slots

    @rule(slots=st.sets(st.integers(0, SLOTS - 1)))
    def resume(self, slots: set[int]) -> None:
        self.schedule.resume(slots)
        self.open |= {slot for slot in slots if self.schedule.term(slot)}

    @rule(slots=st.sets(st.integers(0, SLOTS - 1)))
    def drop(self, slots: set[int]) -> None:
        self.schedule.drop(slots)
        self.open -= slots

    @rule(slots=st.sets(st.integers(0, SLOTS - 1)))
    def serve(self, slots: set[int]) -> None:
        self.open |= {slot for slot in slots if not self.schedule.term(slot)}
        self.schedule.serve(slots)

    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        """A delivery that could not begin: in whatever state its slot is by now."""
        if self.stale:
            item = data.draw(st.sampled_from(self.stale))
            if item in self.model.fired:
                self.model.fired.remove(item)
                self.model.stored.append(item)
            self.schedule.push(item)

    @invariant()
    def bounded(self) -> None:
        # What was read may come on top of what was stored meanwhile.
        assert len(self.schedule) <= SCHEDULED_MAX * (OVERFLOW + ASIDE) + 4 * SLOTS
        assert all(self.schedule.is_open(slot) == (slot in self.open) for slot in range(SLOTS))

    def teardown(self) -> None:
        """Whatever was stored and not cancelled fires in the end."""
        if not hasattr(self, "model"):
            return
        for load, found in self.loads:
            self.schedule.end_load(load, found)
        self.now_ms += 1_000
        self.schedule.resume(range(SLOTS))
        self.schedule.serve(range(SLOTS))
        while self.model.stored:
            before = len(self.model.stored)
            load_all(self.schedule, self.model.stored, self.now_ms + 1)
            while due := self.schedule.pop_due(self.now_ms, 5):
                for item in due:
                    if item in self.model.stored:
                        self.model.stored.remove(item)
            assert len(self.model.stored) < before, "timers are lost"


TestScheduleMachine = ScheduleMachine.TestCase
TestScheduleMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
