"""``bench ring all``: every benchmark of the ring, one after the other, and one report."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skyring.bench import (
    ring_churn,
    ring_compaction,
    ring_create,
    ring_freeze,
    ring_kill,
    ring_outage,
    ring_suspicion,
    ring_takeover,
)
from skyring.bench.report import Report, environment, to_json, to_markdown
from skyring.bench.ring_processes import RingCommon

__all__ = ["Result", "attempt", "chosen", "common_of", "names", "write"]

SHORT_ROUNDS = {"rounds": 2}


class _Plan(NamedTuple):
    run: Callable[..., Awaitable[Report]]
    servers: int
    short: dict[str, Any]
    """What differs in the short form."""
    full: dict[str, Any] = {}


PLANS: dict[str, _Plan] = {
    "kill-r1": _Plan(ring_kill.run, 1, SHORT_ROUNDS),
    "kill-r3": _Plan(ring_kill.run, 3, SHORT_ROUNDS),
    "freeze": _Plan(ring_freeze.run, 1, SHORT_ROUNDS),
    "churn": _Plan(ring_churn.run, 1, SHORT_ROUNDS),
    "nats-r1": _Plan(ring_outage.run, 1, SHORT_ROUNDS),
    "nats-r3": _Plan(ring_outage.run, 3, SHORT_ROUNDS),
    "create-r1": _Plan(ring_create.run, 1, {"rounds": 2, "seconds": 3.0}),
    "create-r3": _Plan(ring_create.run, 3, {"rounds": 2, "seconds": 3.0}),
    "takeover": _Plan(ring_takeover.run, 1, {"rounds": 1, "count": 30_000}),
    "takeover-on-victim": _Plan(
        ring_takeover.run, 1, {"count": 30_000, "on_victim": True}, {"on_victim": True}
    ),
    "log": _Plan(ring_compaction.run, 1, {"count": 50_000, "live": 1_000}),
    "suspicion": _Plan(ring_suspicion.run, 1, {"seconds": 30.0}),
}


class Result(NamedTuple):
    """What came of one of them."""

    name: str
    report: Report | None
    error: str | None
    """Why it did not reach what was asked; None if it did."""


def names() -> list[str]:
    """Of all of them, in their order."""
    return list(PLANS)


def chosen(only: Sequence[str]) -> list[str]:
    """Those that are wanted, in their order; all if none is named."""
    return [name for name in PLANS if not only or name in only]


def common_of(
    name: str,
    node_arguments: Sequence[str],
    directory: Path | None,
    progress: Callable[[str], None],
) -> RingCommon:
    """What one of them is told."""
    servers = PLANS[name].servers
    return RingCommon(
        servers=servers,
        sync="always" if servers > 1 else "default",
        node_arguments=node_arguments,
        directory=directory,
        progress=progress,
    )


async def attempt(name: str, common: RingCommon, short: bool) -> Result:
    """Run one of them. Raises BenchError."""
    plan = PLANS[name]
    report = await plan.run(common, **(plan.short if short else plan.full))
    return Result(name, report, report.failure)


def write(results: Sequence[Result], path: Path, short: bool) -> None:
    """Write what there is so far, as ``PATH.json`` and ``PATH.md``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    documents = [
        {
            "name": result.name,
            "error": result.error,
            "report": None if result.report is None else json.loads(to_json(result.report)),
        }
        for result in results
    ]
    path.with_name(f"{path.name}.json").write_text(
        json.dumps({"short": short, "environment": environment(), "results": documents}, indent=2),
        encoding="utf-8",
    )
    path.with_name(f"{path.name}.md").write_text(_markdown(results, short), encoding="utf-8")


def _markdown(results: Sequence[Result], short: bool) -> str:
    facts = environment()
    length = "in short: too few rounds for what is asked" if short else "in full length"
    lines = [
        "# What the ring bears",
        "",
        f"{facts['cores']} cores, Python {facts['python']}, {facts['system']}; {length}.",
        "",
        "| benchmark | what | asked | measured | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in results:
        if result.report is None:
            lines.append(f"| {result.name} | it ended early: {result.error} | | | **not met** |")
            continue
        for check in result.report.checks:
            met = "met" if check.ok else "**not met**"
            told = f"{check.label} | {check.wanted} | {check.measured} | {met}"
            lines.append(f"| {result.name} | {told} |")
    reports = [to_markdown(result.report) for result in results if result.report is not None]
    return "\n".join([*lines, "", *reports])
