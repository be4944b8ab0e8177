"""What the benchmarks under load have in common: rounds, their figures, their conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from skyring.bench.receiver import Receiver
from skyring.bench.report import Check, Figure, Report
from skyring.bench.ring_load import RingLoad, by_tag
from skyring.bench.ring_processes import RingCommon, RingProcesses
from skyring.bench.ring_stats import Blow, duplicates, exactly
from skyring.bench.stats import Delivery, Figures, Tally, tally

__all__ = ["DELIVERY_FIGURES", "Round", "finish", "judge", "safety_checks", "tallies"]

LINGER_S = 2.0
TOLD_MAX = 5

DELIVERY_FIGURES = (
    Figure("acknowledged", "timers acknowledged", total=True, headline=True),
    Figure("lost", "lost", total=True, headline=True),
    Figure("overdue", "delivered too late to be waited for", total=True),
    Figure("in_flight_twice", "duplicated, in flight at the blow", total=True),
    Figure("duplicated", "duplicated otherwise", total=True),
    Figure("early", "early", total=True),
    Figure("unacknowledged", "delivered, not acknowledged", total=True),
    Figure("not_201", "answers other than 201", total=True),
    Figure("broken", "connections broken", total=True),
    Figure("behind_max", "most requests behind the rate"),
)


@dataclass
class Round:
    """One round of a benchmark."""

    tag: str
    load: RingLoad
    blows: list[Blow] = field(default_factory=list)
    pending: set[str] = field(default_factory=set)
    """What had not arrived when the round ended."""
    figures: Figures = field(default_factory=dict)
    """Those of this benchmark alone."""


async def finish(receiver: Receiver, arrived: list[Delivery]) -> None:
    """Wait for deliveries that should not be."""
    await asyncio.sleep(LINGER_S)
    arrived += await receiver.take()


def tallies(
    rounds: Sequence[Round], arrived: Sequence[Delivery]
) -> list[tuple[Tally, list[Delivery], Figures]]:
    """For each round what became of its timers, its deliveries, and its figures."""
    groups = by_tag(arrived, [each.tag for each in rounds])
    return [_tally(each, groups[each.tag]) for each in rounds]


def _tally(each: Round, arrived: list[Delivery]) -> tuple[Tally, list[Delivery], Figures]:
    expected = each.load.acknowledged
    seen = tally(expected, arrived)
    twice = duplicates(expected, arrived, each.blows)
    statuses = each.load.statuses
    figures = {
        "acknowledged": len(expected),
        "lost": seen.lost,
        "overdue": len(each.pending) - seen.lost,
        "in_flight_twice": twice.in_flight,
        "duplicated": sum(len(group) - 1 for group in twice.elsewhere),
        "early": seen.early,
        "unacknowledged": seen.unexpected,
        "not_201": statuses.total() - statuses[201],
        "broken": sum(result.broken for result in each.load.results.values()),
        "behind_max": each.load.behind_max,
        **each.figures,
    }
    return seen, arrived, figures


def notes(rounds: Sequence[Round], arrived: Sequence[Delivery]) -> list[str]:
    """The first of what went wrong, in words: for whoever looks for the cause."""
    said = []
    groups = by_tag(arrived, [each.tag for each in rounds])
    for number, each in enumerate(rounds, 1):
        expected, came = each.load.acknowledged, groups[each.tag]
        seen = {delivery.key for delivery in came}
        lost = [key for key in expected if key not in seen]
        twice = duplicates(expected, came, each.blows).elsewhere
        at_ms = [f"{blow.moment_ms:.0f}" for blow in each.blows]
        if lost:
            said.append(f"round {number}: lost {_listed(lost)}; blows at {at_ms}")
        if twice:
            told = [_apart(group) for group in twice[:TOLD_MAX]]
            said.append(f"round {number}: {len(twice)} duplicated: {', '.join(told)}; at {at_ms}")
        if each.load.refusal is not None:
            said.append(f"round {number}: {dict(each.load.statuses)}, first: {each.load.refusal}")
    return said


def _listed(keys: Collection[str]) -> str:
    shown = ", ".join(sorted(keys)[:TOLD_MAX])
    return shown if len(keys) <= TOLD_MAX else f"{shown} and {len(keys) - TOLD_MAX} more"


def _apart(group: Sequence[Delivery]) -> str:
    first = group[0]
    after = ", ".join(f"+{each.arrived_ms - first.arrived_ms:.0f} ms" for each in group[1:])
    return f"{first.key} at {first.arrived_ms:.0f} (attempt {first.attempt}) {after}"


def safety_checks(report: Report, ring: RingProcesses) -> list[Check]:
    """What must hold whatever befalls a node."""
    summary = report.summary
    wanted = ("lost", "overdue", "duplicated", "early")
    labels = {figure.name: figure.label for figure in DELIVERY_FIGURES}
    checks = [exactly(labels[name], 0, summary[name]) for name in wanted if name in summary]
    defects = ring.defects()
    report.notes += defects[:TOLD_MAX]
    return [*checks, exactly("defects in the logs of the nodes", 0, len(defects))]


def judge(report: Report, checks: Sequence[Check], common: RingCommon) -> Report:
    """Put the checks into the report; those that are not met are its failure."""
    report.checks += checks
    wrong = [f"{each.label}: {each.measured}" for each in report.checks if not each.ok]
    if wrong:
        report.failure = "; ".join(wrong)
    if common.directory is not None:
        report.notes.append(f"the files of the processes are in {common.directory}")
    return report
