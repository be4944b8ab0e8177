"""A ring of real nodes and a real nats-server, and what befalls them: benchmarks in short.

What must hold on every machine is asserted, and no time: `skyring bench ring` is there for those.
"""

from __future__ import annotations

import pytest

from skyring.bench import ring_churn, ring_freeze, ring_kill, ring_outage, ring_takeover
from skyring.bench.report import Report
from skyring.bench.ring_processes import RingCommon

pytestmark = pytest.mark.timeout(180)

COMMON = RingCommon()


def conditions(report: Report) -> dict[str, str]:
    """What was not met, but for goals; whatever was met is there to be met."""
    assert [check for check in report.checks if not check.is_goal]
    wrong = [check for check in report.checks if not check.ok and not check.is_goal]
    return {check.label: f"{check.measured}; {report.notes}" for check in wrong}


async def test_a_node_is_killed_and_the_others_deliver_its_timers() -> None:
    report = await ring_kill.run(
        COMMON,
        rounds=1,
        rate=150,
        kill_after_s=(1.0, 1.5),
        tail_s=0.5,
        timeouts_ms=(100, 4_000),
        connections=64,
    )
    assert conditions(report) == {}
    [found] = report.rounds
    assert found["acknowledged"] > 300
    assert found["first_s"] > 0, "nothing of the dead node was due"


async def test_a_holder_that_was_stopped_writes_nothing_with_its_old_claim() -> None:
    report = await ring_freeze.run(
        COMMON, rounds=1, rate=60, timeouts_ms=(100, 3_000), tail_s=0.5, connections=64
    )
    assert conditions(report) == {}
    [found] = report.rounds
    assert found["claims"] > 0, "nobody has taken its slots"
    assert found["commits"] > found["acknowledged"] > 200
    assert found["unseen"] == 0, "a part of the log was not looked at"


async def test_a_node_joins_and_leaves_and_no_request_fails() -> None:
    report = await ring_churn.run(COMMON, rounds=1, rate=90, stay_s=0.5, timeouts_ms=(100, 1_500))
    assert conditions(report) == {}
    assert report.rounds[0]["acknowledged"] > 90


async def test_the_timers_of_a_dead_node_are_taken_over_to_the_last() -> None:
    report = await ring_takeover.run(COMMON, rounds=1, count=3_000)
    assert conditions(report) == {}
    [found] = report.rounds
    assert found["on_victim"] > 500
    assert found["scheduled_s"] > 0


async def test_nats_goes_and_comes_back_at_last_without_its_files() -> None:
    report = await ring_outage.run(
        COMMON, rounds=1, downs_s=(4.5,), rate=60, timeouts_ms=(100, 3_000)
    )
    assert conditions(report) == {}
    for found in report.rounds:
        assert found["reads"] > 0
        assert found["writes_503"] > 0
    said = [note for note in report.notes if note.startswith("NATS without its files")]
    assert len(said) == 3
    assert all("restore its data" in note for note in said), said
