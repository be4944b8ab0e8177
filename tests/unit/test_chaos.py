"""The pure parts of the chaos suite: what answers mean, what is damaged, what is reported."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import typer

from skyring.bench import chaos_cli
from skyring.bench.chaos.blows import FILES, Blow, blows, kind_in, strike
from skyring.bench.chaos.damage import _judge
from skyring.bench.chaos.faults import FAULTS
from skyring.bench.chaos.leveldb import Harm
from skyring.bench.chaos.load import answer_of
from skyring.bench.chaos.receiver import _status, read_delivery
from skyring.bench.chaos.report import _table, figures, finding, require_matplotlib, series, write
from skyring.bench.chaos.scenarios import SCENARIOS, Limits, Losses, Outcome, _pending, listed
from skyring.bench.errors import BenchError
from skyring.testing.proof.checker import Violation, check
from skyring.testing.proof.history import Delivery, Fault, History, Operation


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (201, "", "done"),
        (200, "", "done"),
        (202, "", "done"),
        (404, "not-found", "missing"),
        (409, "delivering", "busy"),
        (409, "conflict", "conflict"),
        (503, "unavailable", "refused"),
        (503, "fenced", "refused"),
        (503, "uncertain", "unknown"),
        (500, "internal", "unknown"),
        (0, "", "unknown"),
        (-1, "", "refused"),
    ],
)
def test_what_an_answer_means(status: int, code: str, meaning: str) -> None:
    assert answer_of(status, code) == meaning


def test_a_delivery_began_in_the_second_that_its_node_names() -> None:
    line = {
        "id": "a",
        "due": "90000",
        "attempt": "1",
        "stamp": "95",
        "at_s": 1_010.5,
        "clock_ms": 100_500,
        "peer": "10.0.0.1",
        "status": 200,
        "body": "x",
    }
    found = read_delivery(json.dumps(line), {"10.0.0.1": "n1"})
    assert found == Delivery("a", "x", 1_006.0, 100_500, 90_000, "n1", taken=True, told=True)
    line |= {"stamp": "100", "status": 0, "peer": "10.0.0.2"}
    found = read_delivery(json.dumps(line), {})
    assert (found.began_s, found.node, found.taken, found.told) == (
        1_010.5,
        "10.0.0.2",
        True,
        False,
    )
    assert not read_delivery(json.dumps(line | {"status": 503}), {}).taken


@pytest.mark.parametrize(
    ("killed_s", "told"), [(1_010.4, True), (1_010.5, False), (1_011.4, False), (1_012.0, True)]
)
def test_whom_a_receiver_has_answered_is_not_known_right_before_it_was_killed(
    killed_s: float, told: bool
) -> None:
    line = {"id": "a", "due": "9", "stamp": "100", "at_s": 1_010.5, "clock_ms": 100_500}
    line |= {"peer": "10.0.0.1", "status": 200, "body": "x"}
    found = read_delivery(json.dumps(line), {}, [900.0, killed_s])
    assert (found.taken, found.told) == (True, told)


def test_the_receiver_refuses_few() -> None:
    given = [_status(f"timer-{number} 1") for number in range(10_000)]
    assert 9_500 < given.count(200) < 9_950
    assert given.count(503) > 30
    assert given.count(0) > 10


def test_blows_are_the_same_for_a_seed_and_of_all_kinds() -> None:
    chosen = blows(12, seed=7)
    assert chosen == blows(12, seed=7)
    assert chosen != blows(12, seed=8)
    kinds = {(blow.kind, blow.how) for blow in chosen}
    assert kinds == {
        (kind, how) for kind in ("log", "table", "manifest") for how in ("flip", "truncate")
    }


def test_a_blow_changes_one_bit_or_cuts_the_end_off(tmp_path: Path) -> None:
    (tmp_path / "000003.log").write_bytes(bytes(100))
    (tmp_path / "000004.log").write_bytes(b"")
    assert strike(tmp_path, Blow("log", "flip", 0.9, 0.5, 3)) == "flip 000003.log at 50"
    content = (tmp_path / "000003.log").read_bytes()
    assert (content[50], sum(content)) == (8, 8)
    strike(tmp_path, Blow("log", "truncate", 0.0, 0.25, 0))
    assert (tmp_path / "000003.log").read_bytes() == bytes(25)
    with pytest.raises(BenchError, match="no \\*\\.ldb"):
        strike(tmp_path, Blow("table", "flip", 0.0, 0.0, 0))


def test_a_kind_of_file_that_is_not_there_yet_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST-000002").write_bytes(b"x")
    assert kind_in(tmp_path, "table") == "manifest"
    (tmp_path / "000003.log").write_bytes(b"x")
    assert kind_in(tmp_path, "table") == "log"
    (tmp_path / "000005.ldb").write_bytes(b"x")
    assert [kind_in(tmp_path, kind) for kind in FILES] == list(FILES)


def test_a_ring_whose_files_are_damaged_has_all_kinds_of_files_damaged() -> None:
    assert list(SCENARIOS["damage-ring"].faults) == [f"damage-{kind}" for kind in FILES]


ALL = Harm(frozenset("abc"), may_refuse=True)


def damaged(*deliveries: Delivery) -> History:
    made = [Operation("create", name, 1.0, name * 3, 500, "n1") for name in ("a", "b")]
    for operation in made:
        operation.ended("done", 1.1)
    return History(operations=made, deliveries=list(deliveries))


def delivery(timer_id: str, content: str, began_s: float = 2.0) -> Delivery:
    return Delivery(timer_id, content, began_s, 1_000, 500, "n1", taken=True, told=True)


@pytest.mark.parametrize(
    ("is_reported", "has_ended", "verdict", "rules"),
    [
        (False, False, "LOST IN SILENCE", ["lost"]),
        (True, False, "lost, reported", []),
        (True, True, "the node refuses, and says why", []),
    ],
)
def test_a_loss_has_to_be_reported(
    is_reported: bool, has_ended: bool, verdict: str, rules: list[str]
) -> None:
    history = damaged(delivery("a", "aaa"))
    found = _judge("flip", history, history.deliveries, has_ended, is_reported, ALL)
    assert found.verdict == verdict
    assert [each.rule for each in found.violations] == rules


def test_a_payload_that_nobody_has_given_is_wrong_though_damage_is_reported() -> None:
    history = damaged(delivery("a", "aaa"), delivery("b", "bbx"))
    found = _judge("flip", history, history.deliveries, False, True, ALL)
    assert found.verdict == "WRONG"
    assert [each.rule for each in found.violations] == ["content"]


def replaced() -> History:
    """Timer a is updated, timer b is cancelled, both long before the node is killed."""
    history = damaged()
    history.operations += [
        Operation("update", "a", 2.0, "new", 500, "n1"),
        Operation("cancel", "b", 2.0, "", 500, "n1"),
    ]
    for operation in history.operations[2:]:
        operation.ended("done", 2.1)
    history.faults = [Fault("kill -9", 20.0, float("inf"))]
    return history


NEW = delivery("a", "new", 30.0)


@pytest.mark.parametrize("is_reported", [False, True])
@pytest.mark.parametrize(
    ("came", "rules"),
    [
        ([delivery("a", "aaa", 30.0)], ["lost", "content"]),
        ([delivery("a", "aaa", 30.0), NEW], ["content"]),
        ([NEW, delivery("b", "bbb", 30.0)], ["after cancel"]),
        ([NEW], []),
    ],
    ids=["old for new", "old and new", "cancelled", "nothing"],
)
def test_what_is_as_it_was_before_has_to_be_reported(
    came: list[Delivery], rules: list[str], is_reported: bool
) -> None:
    history = replaced()
    history.deliveries = came
    found = _judge("flip", history, came, False, is_reported, ALL)
    assert [each.rule for each in found.violations] == ([] if is_reported else rules)
    how = "nothing lost" if not rules else "lost" if "lost" in rules else "old"
    silence = how if how == "nothing lost" else f"{how.upper()} IN SILENCE"
    assert found.verdict == (f"{how}, reported" if is_reported else silence)


@pytest.mark.parametrize(
    ("first_s", "rules"), [(10.0, ["duplicate"]), (19.5, [])], ids=["long ago", "under way"]
)
def test_what_was_delivered_long_before_the_kill_does_not_come_again(
    first_s: float, rules: list[str]
) -> None:
    history = replaced()
    came = [NEW]
    history.deliveries = [delivery("a", "new", first_s), *came]
    found = _judge("flip", history, came, False, False, ALL)
    assert [each.rule for each in found.violations] == rules
    assert _judge("flip", history, came, False, True, ALL).violations == []


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (History(failures=[(0.0, "a traceback")]), "failure"),
        (History(deliveries=[delivery("c", "ccc")]), "content"),
    ],
)
def test_a_report_does_not_excuse_everything(broken: History, rule: str) -> None:
    for has_ended in (False, True):
        found = _judge("flip", broken, broken.deliveries, has_ended, True, ALL)
        assert (found.verdict, [each.rule for each in found.violations]) == ("WRONG", [rule])


def test_a_report_excuses_the_loss_of_nothing_but_what_stood_in_the_damaged_part() -> None:
    """A node that reports damage, and delivers nothing at all."""
    history = damaged()
    found = _judge("flip", history, [], False, True, Harm(frozenset("a"), may_refuse=False))
    assert [(each.rule, each.timer) for each in found.violations] == [("lost", "b")]
    assert "nothing of it stood in the damaged part" in found.violations[0].text
    assert (found.verdict, found.lost) == ("WRONG", 2)
    both = Harm(frozenset("ab"), may_refuse=False)
    assert _judge("flip", history, [], False, True, both).violations == []


@pytest.mark.parametrize(
    "came",
    [
        [delivery("a", "aaa", 30.0), NEW],
        [NEW, delivery("b", "bbb", 30.0)],
    ],
    ids=["old", "cancelled"],
)
def test_what_is_as_it_was_before_stood_in_the_damaged_part(came: list[Delivery]) -> None:
    history = replaced()
    history.deliveries = came
    elsewhere = Harm(frozenset("c"), may_refuse=True)
    assert len(_judge("flip", history, came, False, True, elsewhere).violations) == 1
    assert len(_judge("flip", history, came, False, False, elsewhere).violations) == 1


def test_a_node_that_could_read_most_does_not_refuse() -> None:
    history = damaged()
    few = Harm(frozenset("a"), may_refuse=False)
    found = _judge("flip", history, [], True, True, few)
    assert [each.rule for each in found.violations] == ["refused"]
    assert _judge("flip", history, [], True, True, ALL).violations == []


def test_losses_are_told_by_kind_with_how_much_there_was() -> None:
    broken = outcome()
    one = Losses(1, 100, 20, 3, 1)
    broken.rounds, broken.losses = {"log, flip: lost, reported": 2}, {"log, flip": one.plus(one)}
    assert figures(broken)["losses"]["log, flip"] == {
        "rounds": 2,
        "pending": 200,
        "at_risk": 40,
        "lost": 6,
        "old": 2,
    }
    assert "| log, flip | 2 | 200 | 40 | 6 | 2 |" in _table([broken])


def test_no_answer_does_not_mean_that_nothing_is_pending() -> None:
    assert listed(503, b'{"code":"unavailable"}', "timers") is None
    assert listed(200, b'{"timers":[],"next":null}', "timers") == set()
    assert listed(200, b'{"timers":[{"id":"a"}],"next":null}', "timers") == {"a"}


def test_what_is_pending_in_the_end_is_a_violation() -> None:
    history = damaged()
    assert _pending(history) == []
    history.pending = {"b", "a"}
    assert [(each.rule, each.timer) for each in _pending(history)] == [
        ("pending", "a"),
        ("pending", "b"),
    ]


def test_scenarios_name_faults_that_there_are() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.faults) <= set(FAULTS)
        is_ring = scenario.servers > 0
        assert is_ring or not any("nats" in fault or "cut" in fault for fault in scenario.faults)
        assert scenario.shim or not any("fsync" in fault for fault in scenario.faults)
        assert scenario.disk_bytes or "disk-full" not in scenario.faults


def outcome() -> Outcome:
    history = damaged(delivery("a", "aaa"), delivery("a", "aaa", 9.0), delivery("b", "bbb", 30.0))
    history.faults.append(Fault("kill -9", 2.0, 9.5, frozenset({"n1"})))
    history.calm_s = 20.0
    violations = check(history, Limits().allowance())
    marks = list(history.faults)
    return Outcome("nodes", "one is killed", history, violations, {"kill -9": 1}, marks)


def test_the_figures_of_a_scenario() -> None:
    found = figures(outcome())
    assert (found["operations"], found["acknowledged"], found["delivered"]) == (2, 2, 2)
    assert (found["repeated"], found["lost"], found["violations"]) == (1, 0, {})
    assert (found["lateness_max_ms"], found["calm_p99_ms"]) == (500, 500)
    over_time = series(outcome())
    assert over_time["acknowledged"] == [(0, 2)]
    assert over_time["delivered"] == [(1, 1), (29, 1)]
    assert over_time["faults"] == [("kill -9", 1.0, 8.5, ["n1"])]


def test_a_report_is_a_document_a_table_and_a_plot(tmp_path: Path) -> None:
    broken = outcome()
    broken.violations.append(Violation("early", "a", "too early"))
    write([outcome(), broken], tmp_path / "made" / "chaos", seed=3)
    document = json.loads((tmp_path / "made" / "chaos.json").read_text())
    assert [each["name"] for each in document["scenarios"]] == ["nodes", "nodes"]
    assert document["scenarios"][1]["violations"] == [
        {"rule": "early", "timer": "a", "text": "too early"}
    ]
    table = (tmp_path / "made" / "chaos.md").read_text().splitlines()
    assert "| nodes | 1 × kill -9 | 2 | 2 | 2 | 0 | 0 | 0 | 1 |" in table[2]
    assert "| **1 × early** |" in table[3]
    assert "<svg" in (tmp_path / "made" / "chaos.svg").read_text()
    assert "1 × early" in finding(broken)


def test_a_report_that_cannot_be_written_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(typer.Exit):
        chaos_cli._check_report(tmp_path / "file" / "report")
    assert "cannot write the report" in capsys.readouterr().err


def test_without_matplotlib_there_is_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match="pip install 'skyring\\[chaos\\]'"):
        require_matplotlib()
