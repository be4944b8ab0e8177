"""The parts of the benchmarks of the ring that need no ring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from skyring.bench import ring_all
from skyring.bench.cli import app
from skyring.bench.client import Answer
from skyring.bench.errors import BenchError
from skyring.bench.process import ServerProcess
from skyring.bench.report import Check, Figure, Report, to_markdown
from skyring.bench.ring_bulk import Entry, line
from skyring.bench.ring_load import TimerPlan, by_tag
from skyring.bench.ring_outage import Outage
from skyring.bench.ring_processes import RingCommon
from skyring.bench.ring_view import RingView, parse_view
from skyring.bench.stats import Delivery


def document(held: Sequence[str | None], **members: str) -> dict[str, Any]:
    """What ``GET /ring`` of n1 says, with holders by slot and the states of the members."""
    return {
        "mode": "ring",
        "node": "n1",
        "slots": len(held),
        "members": [
            {
                "node": name,
                "state": state,
                "slots_held": held.count(name),
                "slots_placed": len(held) // len(members),
                "timers": 0,
            }
            for name, state in members.items()
        ],
        "slots_detail": [
            {"slot": slot, "holder": holder, "epoch": 1 if holder == "n1" else None}
            for slot, holder in reversed(list(enumerate(held)))
        ],
    }


def view(held: Sequence[str | None], **members: str) -> RingView:
    return parse_view(document(held, **members))


def test_a_view_is_read_by_slot() -> None:
    found = view(["n1", "n2", "n2", None], n1="alive", n2="alive")
    assert found.holders == ("n1", "n2", "n2", None)
    assert found.epochs == (1, None, None, None)
    assert found.held_by("n2") == {1, 2}
    assert found.largest() == "n2"
    assert view(["n2", "n1"], n1="alive", n2="alive").largest() == "n1"


def test_a_node_that_stands_alone_has_no_such_view() -> None:
    with pytest.raises(ValueError, match="standalone"):
        parse_view({"mode": "standalone", "node": "n1", "slots": 256})


def test_what_a_ring_lacks() -> None:
    both = {"n1": "alive", "n2": "alive"}
    whole = view(["n1", "n2", "n1", "n2"], **both)
    assert whole.missing(["n1", "n2"]) is None
    assert "not ['n1'] alive" in str(whole.missing(["n1"]))
    assert "not ['n1', 'n2'] alive" in str(
        view(["n1", "n2"], n1="alive", n2="suspect").missing(["n1", "n2"])
    )
    assert "1 slots that nobody holds" in str(view(["n1", None], **both).missing(["n1", "n2"]))
    uneven = view(["n1", "n1", "n1", "n2"], **both)
    assert "n1 hold 3 of 2" in str(uneven.missing(["n1", "n2"]))
    gone = view(["n1", "n1"], n1="alive", n3="dead")
    gone = gone._replace(
        members={**gone.members, "n1": gone.members["n1"]._replace(slots_placed=2)}
    )
    assert gone.missing(["n1"]) is None


def test_a_plan_is_written_when_it_is_sent(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    plan = TimerPlan(server, "http://127.0.0.1:1/x", "tag-n1", 3, (5, 9), seed=1)
    assert len(plan) == 3
    assert [each.key for each in plan] == ["tag-n1-0", "tag-n1-1", "tag-n1-2"]
    head, _, body = plan[1].request.partition(b"\r\n\r\n")
    assert b"x-timer-id: tag-n1-1\r\n" in head
    assert json.loads(body)["data"] == "tag-n1-1"
    assert all(5 <= each.timeout_ms <= 9 for each in plan)
    assert [each.key for each in plan[1:]] == ["tag-n1-1", "tag-n1-2"]


def test_deliveries_belong_to_the_round_of_their_tag() -> None:
    arrived = [Delivery(key, key, 0.0, None, 1) for key in ("aa-n1-0", "bb-n2-5", "cc-n1-0")]
    assert by_tag(arrived, ["aa", "bb"]) == {"aa": [arrived[0]], "bb": [arrived[1]]}


def test_a_line_of_a_bulk_is_json() -> None:
    soon = json.loads(line(Entry("k", timeout_ms=5), "http://127.0.0.1:1/x"))
    assert (soon["id"], soon["data"], soon["timeout"]) == ("k", "k", 5)
    assert soon["callback"]["uri"] == "http://127.0.0.1:1/x"
    assert json.loads(line(Entry("k", at_ms=7)))["at"] == 7


def test_what_requests_met_with_while_nats_was_away() -> None:
    outage = Outage()
    outage.read(Answer(200, b"", b""))
    outage.read(None)
    outage.written(Answer(503, b"HTTP/1.1 503\r\nretry-after: 1\r\n\r\n", b""), 0.5)
    outage.written(Answer(503, b"HTTP/1.1 503\r\n\r\n", b""), 2.0)
    outage.written(Answer(201, b"", b""), 0.1)
    outage.written(Answer(500, b"", b"oh"), 0.1)
    assert outage.figures() == {
        "reads": 2,
        "reads_not_200": 1,
        "writes": 4,
        "writes_taken": 1,
        "writes_503": 2,
        "writes_other": 1,
        "no_retry_after": 1,
        "write_s_max": 2.0,
    }
    assert outage.told == ["GET: no answer", "POST: 500 b'oh'"]


def report(*checks: Check) -> Report:
    found = Report("ring kill", {"nodes": 3}, [Figure("lost", "lost", total=True)], [{"lost": 0}])
    found.checks += checks
    return found


def test_a_report_in_markdown() -> None:
    text = to_markdown(report(Check("lost", "0", "0", True), Check("time", "≤ 5 s", "6 s", False)))
    assert "| lost | 0 | 0 | met |" in text
    assert "| time | ≤ 5 s | 6 s | **not met** |" in text
    assert "nodes=3; 1 round(s)" in text


def test_all_of_them_make_one_report(tmp_path: Path) -> None:
    results = [
        ring_all.Result("kill-r1", report(Check("lost", "0", "0", True)), None),
        ring_all.Result("log", None, "the ring does not come up"),
    ]
    path = tmp_path / "made" / "chaos"
    ring_all.write(results, path, short=True)
    text = (tmp_path / "made" / "chaos.md").read_text()
    assert "| kill-r1 | lost | 0 | 0 | met |" in text
    assert "| log | it ended early: the ring does not come up | | | **not met** |" in text
    found = json.loads((tmp_path / "made" / "chaos.json").read_text())
    assert [each["name"] for each in found["results"]] == ["kill-r1", "log"]
    assert found["results"][0]["report"]["checks"][0]["ok"] is True


def test_which_of_them_are_run() -> None:
    assert ring_all.chosen([]) == ring_all.names()
    assert ring_all.chosen(["log", "kill-r1"]) == ["kill-r1", "log"]
    assert ring_all.chosen(["nonsense"]) == []
    common = ring_all.common_of("kill-r3", ["--x"], None, print)
    assert (common.servers, common.sync) == (3, "always")
    assert ring_all.common_of("kill-r1", (), None, print).sync == "default"


def test_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[tuple[RingCommon, dict[str, Any]]] = []

    async def run(common: RingCommon, **options: Any) -> Report:
        told.append((common, options))
        return report(Check("lost", "0", "0", True))

    monkeypatch.setattr("skyring.bench.ring_kill.run", run)
    asked = ["ring", "kill", "--rounds", "2", "-R", "3", "--json", "--timeout-max", "500"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    [(common, options)] = told
    assert (common.servers, common.sync, common.directory) == (3, "always", None)
    assert (options["rounds"], options["timeouts_ms"]) == (2, (100, 500))
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(app, ["ring", "kill", "--keep", str(tmp_path)])
    assert refused.exit_code == 2
    assert "is not empty" in " ".join(refused.output.replace("│", " ").split())


def test_one_that_fails_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fails(common: RingCommon, **options: Any) -> Report:
        raise BenchError("the ring does not come up")

    async def works(common: RingCommon, **options: Any) -> Report:
        return report(Check("lost", "0", "0", True))

    plans = {"a": ring_all.PLANS["log"]._replace(run=fails)}
    plans["b"] = ring_all.PLANS["log"]._replace(run=works)
    monkeypatch.setattr(ring_all, "PLANS", plans)
    done = CliRunner().invoke(app, ["ring", "all", "--report", str(tmp_path / "r")])
    assert done.exit_code == 1
    assert "a: the ring does not come up" in done.output
    assert "| b | lost | 0 | 0 | met |" in (tmp_path / "r.md").read_text()
