"""What a benchmark hands back, as a table for people and as one JSON document for machines."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any

from skyring.bench.stats import Figures, summarise

__all__ = [
    "Check",
    "Figure",
    "Report",
    "environment",
    "format_figure",
    "print_report",
    "to_json",
    "to_markdown",
]

COLUMNS_MAX = 3
"""With more rounds than this, a table shows the lowest and the highest instead of each."""

LIBRARIES = ("skyring", "uvicorn", "uvloop", "httptools", "plyvel", "pyreqwest", "aiohttp")


@dataclass(frozen=True)
class Figure:
    """One line of a report. ``kind`` says how it is written for people."""

    name: str
    label: str
    kind: str = "count"
    total: bool = False
    """Added up over the rounds; otherwise the median counts."""
    headline: bool = False


@dataclass(frozen=True)
class Check:
    """Something that a benchmark was to reach."""

    label: str
    wanted: str
    measured: str
    ok: bool
    is_goal: bool = False
    """Is it a matter of speed, which depends on the machine? Otherwise it holds on every one."""


@dataclass
class Report:
    """The result of one benchmark."""

    command: str
    parameters: dict[str, Any]
    figures: Sequence[Figure]
    rounds: list[Figures]
    failure: str | None = None
    """Why the server has failed the benchmark, for example that it lost a timer."""
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def summary(self) -> Figures:
        """Medians over the rounds, and totals of what must be zero."""
        return summarise(self.rounds, {each.name for each in self.figures if each.total})


def environment() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


_KINDS: dict[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,.0f}",
    "rate": lambda value: f"{value:,.0f}/s",
    "ms": lambda value: f"{value:,.2f} ms" if value < 100 else f"{value:,.0f} ms",
    "s": lambda value: f"{value:,.2f} s",
    "ratio": lambda value: f"{value:.3f}",
    "cpu": lambda value: f"{value:.0%}",
    "bytes": lambda value: f"{value / 1e6:,.1f} MB",
}


def format_figure(kind: str, value: float | None) -> str:
    """A figure with its unit; a dash for one that could not be had."""
    return "–" if value is None else _KINDS[kind](value)


def to_json(report: Report) -> str:
    """One JSON document with everything that the table has, and the environment."""
    return json.dumps(
        {
            "command": report.command,
            "parameters": report.parameters,
            "environment": environment(),
            "summary": report.summary,
            "totals": sorted(each.name for each in report.figures if each.total),
            "rounds": report.rounds,
            "failure": report.failure,
            "notes": report.notes,
            "checks": [asdict(check) for check in report.checks],
        },
        indent=2,
    )


def print_report(report: Report, out: IO[str] | None = None) -> None:
    """Write the table, and below it what the figures depend on."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout if out is None else out)
    given = ", ".join(f"{name}={value}" for name, value in report.parameters.items())
    table = Table(title=f"skyring bench {report.command}", caption=given)
    table.add_column("figure", no_wrap=True)
    each_round = len(report.rounds) <= COLUMNS_MAX
    if len(report.rounds) > 1:
        names = [f"round {n + 1}" for n in range(len(report.rounds))]
        for name in names if each_round else ["lowest", "highest"]:
            table.add_column(name, justify="right", no_wrap=True)
    last = "median" if len(report.rounds) > 1 else "value"
    table.add_column(last, justify="right", no_wrap=True, style="bold")
    summary = report.summary
    for figure in report.figures:
        if figure.name not in summary:
            continue
        cells = _cells(figure, report.rounds, each_round) if len(report.rounds) > 1 else []
        label = f"{figure.label} (total)" if figure.total and cells else figure.label
        cells.append(format_figure(figure.kind, summary[figure.name]))
        table.add_row(label, *cells, style="green" if figure.headline else None)
    console.print(table)
    for check in report.checks:
        mark = "ok  " if check.ok else "FAIL"
        console.print(
            f"{mark} {check.label}: {check.measured}, asked {check.wanted}",
            style="green" if check.ok else "red",
            markup=False,
            highlight=False,
        )
    facts = environment()
    console.print(
        f"{facts['cores']} cores, Python {facts['python']}, {facts['system']}", style="dim"
    )
    for note in report.notes:
        console.print(note, style="dim", markup=False)


def to_markdown(report: Report) -> str:
    """What was asked and what was measured, then the figures, as tables of Markdown."""
    given = ", ".join(f"{name}={value}" for name, value in report.parameters.items())
    lines = [f"## {report.command}", "", f"{given}; {len(report.rounds)} round(s)", ""]
    if report.checks:
        lines += ["| what | asked | measured | |", "| --- | --- | --- | --- |"]
        for check in report.checks:
            met = "met" if check.ok else "**not met**"
            lines.append(f"| {check.label} | {check.wanted} | {check.measured} | {met} |")
        lines.append("")
    lines += ["| figure | lowest | highest | median or total |", "| --- | --- | --- | --- |"]
    summary = report.summary
    for figure in report.figures:
        if figure.name in summary:
            cells = _cells(figure, report.rounds, False)
            cells.append(format_figure(figure.kind, summary[figure.name]))
            lines.append(f"| {figure.label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *report.notes, ""])


def _cells(figure: Figure, rounds: Sequence[Mapping[str, Any]], each_round: bool) -> list[str]:
    values = [figures.get(figure.name) for figures in rounds]
    if each_round:
        return [format_figure(figure.kind, value) for value in values]
    numbers = [value for value in values if value is not None]
    ends = (min(numbers, default=None), max(numbers, default=None))
    return [format_figure(figure.kind, value) for value in ends]
