"""What the chaos suite hands back: a table, one JSON document, and a plot over time."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from skyring.bench.errors import BenchError
from skyring.bench.report import environment
from skyring.bench.stats import percentile
from skyring.testing.proof.history import Delivery, History

if TYPE_CHECKING:
    from skyring.bench.chaos.scenarios import Outcome

__all__ = ["figures", "finding", "print_outcomes", "require_matplotlib", "series", "write"]

TOLD_MAX = 20
FAULT_COLOUR = "#d9480f"
WIDTH_IN = 14.0
HEIGHT_IN = 8.0


def figures(outcome: Outcome) -> dict[str, Any]:
    """The figures of one scenario."""
    history = outcome.history
    answers = Counter(op.answer for op in history.operations)
    acknowledged = {
        op.id for op in history.operations if op.kind == "create" and op.answer == "done"
    }
    first = _first(history)
    delivered = {item.id for item in first}
    cancelled = {
        op.id
        for op in history.operations
        if op.kind == "cancel" and op.answer in ("done", "unknown")
    }
    repeated = sum(item.taken for item in history.deliveries) - len(first)
    calm_ms = [item.clock_ms - item.due_ms for item in first if _is_calm(item, history)]
    late_ms = [item.clock_ms - item.due_ms for item in first if item.due_ms]
    broken = Counter(violation.rule for violation in outcome.violations)
    return {
        "operations": len(history.operations),
        "done": answers["done"],
        "refused": answers["refused"],
        "unknown": answers["unknown"],
        "acknowledged": len(acknowledged),
        "cancelled": len((acknowledged & cancelled) - delivered),
        "delivered": len(acknowledged & delivered),
        "repeated": repeated,
        "lost": broken["lost"],
        "violations": dict(broken),
        "lateness_p50_ms": _share(late_ms, 50),
        "lateness_p99_ms": _share(late_ms, 99),
        "lateness_max_ms": _share(late_ms, 100),
        "calm_p99_ms": _share(calm_ms, 99),
        "drain_s": round(outcome.drain_s, 1),
        "faults": dict(outcome.injected),
        "rounds": dict(outcome.rounds),
        "losses": {what: each._asdict() for what, each in outcome.losses.items()},
    }


def _first(history: History) -> list[Delivery]:
    """The first delivery of each content that was taken."""
    found: dict[str, Delivery] = {}
    for item in history.deliveries:
        if item.taken:
            found.setdefault(item.content, item)
    return list(found.values())


def _is_calm(item: Delivery, history: History) -> bool:
    return history.calm_s is not None and item.began_s >= history.calm_s


def _share(values: Sequence[float], percent: float) -> int | None:
    return round(percentile(sorted(values), percent)) if values else None


def finding(outcome: Outcome) -> str:
    """One line."""
    found = figures(outcome)
    broken = _listed(found["violations"])
    return (
        f"{outcome.name}: {found['acknowledged']:,} timers acknowledged, {found['delivered']:,}"
        f" delivered, {found['cancelled']:,} cancelled, {found['repeated']:,} deliveries repeated,"
        f" {found['unknown']:,} answers unknown; violations: {broken or 'none'}"
        + (f"; {outcome.rounds}" if outcome.rounds else "")
    )


def series(outcome: Outcome) -> dict[str, Any]:
    """What happened in each second since the first operation, and the faults."""
    history = outcome.history
    zero_s = min((op.sent_s for op in history.operations), default=0.0)
    acknowledged: Counter[int] = Counter()
    for op in history.operations:
        if op.kind == "create" and op.answered_s is not None and op.answer == "done":
            acknowledged[int(op.answered_s - zero_s)] += 1
    delivered: Counter[int] = Counter()
    late: dict[int, list[float]] = {}
    for item in _first(history):
        second = int(item.began_s - zero_s)
        delivered[second] += 1
        if item.due_ms:
            late.setdefault(second, []).append(item.clock_ms - item.due_ms)
    return {
        "acknowledged": sorted(acknowledged.items()),
        "delivered": sorted(delivered.items()),
        "late": [
            (at, _share(values, 50), _share(values, 100)) for at, values in sorted(late.items())
        ],
        "faults": [
            (each.kind, each.start_s - zero_s, each.end_s - zero_s, sorted(each.nodes))
            for each in outcome.marks
            if math.isfinite(each.end_s)
        ],
    }


def _document(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "environment": environment(),
        "scenarios": [
            {
                "name": each.name,
                "what": each.what,
                "figures": figures(each),
                "answers": each.answers,
                "skipped": each.skipped,
                "violations": [violation._asdict() for violation in each.violations[:TOLD_MAX]],
                "notes": [*each.notes, *(text for _, text in each.history.notes)][:TOLD_MAX],
                "series": series(each),
            }
            for each in outcomes
        ],
    }


def print_outcomes(outcomes: Sequence[Outcome], *, as_json: bool, seed: int) -> None:
    """On standard output, for people or for machines."""
    typer.echo(json.dumps(_document(outcomes, seed)) if as_json else _table(outcomes))


def require_matplotlib() -> None:
    """Raises BenchError if there is none to draw the plot with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("--report draws a plot with matplotlib: pip install 'skyring[chaos]'")


def write(outcomes: Sequence[Outcome], path: Path, seed: int) -> None:
    """``PATH.json``, ``PATH.md`` and ``PATH.svg``; needs matplotlib."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = json.dumps(_document(outcomes, seed), indent=1)
    path.with_name(f"{path.name}.json").write_text(document, encoding="utf-8")
    path.with_name(f"{path.name}.md").write_text(_table(outcomes) + "\n", encoding="utf-8")
    _plot(outcomes, path.with_name(f"{path.name}.svg"))


COLUMNS = (
    *("scenario", "faults", "operations", "acknowledged", "delivered", "cancelled", "lost"),
    *("other violations", "repeated", "refused / unknown", "late p50 / p99 / max"),
    *("in the calm p99", "all delivered after"),
)


LOSSES = ("where a node serves", "rounds", "pending", "in the damaged part", "lost", "as before")


def _table(outcomes: Sequence[Outcome]) -> str:
    lines = [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
    for outcome in outcomes:
        if outcome.rounds:
            continue
        found = figures(outcome)
        broken = {rule: count for rule, count in found["violations"].items() if rule != "lost"}
        late = " / ".join(_duration(found[f"lateness_{name}_ms"]) for name in ("p50", "p99", "max"))
        lines.append(
            _row(
                [
                    *(outcome.name, _listed(found["faults"])),
                    *(f"{found[name]:,}" for name in COLUMNS[2:7]),
                    *(f"**{_listed(broken)}**" if broken else "0", f"{found['repeated']:,}"),
                    *(f"{found['refused']:,} / {found['unknown']:,}", late),
                    *(_duration(found["calm_p99_ms"]), f"{found['drain_s']:.0f} s"),
                ]
            )
        )
    for outcome in outcomes:
        if outcome.rounds:
            lines += ["", _row(["damaged files", "rounds"]), _row(["---"] * 2)]
            lines += [_row([what, f"{count:,}"]) for what, count in outcome.rounds.items()]
        if outcome.losses:
            lines += ["", _row(LOSSES), _row(["---"] * len(LOSSES))]
            lines += [
                _row([what, *(f"{count:,}" for count in each)])
                for what, each in outcome.losses.items()
            ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in counts.items())


def _duration(value_ms: int | None) -> str:
    if value_ms is None:
        return "–"
    return f"{value_ms:,} ms" if value_ms < 1_000 else f"{value_ms / 1000:.1f} s"


def _plot(outcomes: Sequence[Outcome], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    # Ids that are the same for the same figures, so that a new plot differs by what was measured.
    with matplotlib.rc_context({"svg.hashsalt": "skyring", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        rates, lateness = figure.subplots(2, 1, sharex=True)
        begins_s = 0.0
        for outcome in outcomes:
            found = series(outcome)
            ends = [at for name in ("acknowledged", "delivered") for at, _ in found[name]]
            if not ends or outcome.rounds:
                continue
            _draw(rates, lateness, found, begins_s, max(ends))
            for axes in (rates, lateness):
                axes.axvline(begins_s, color="black", linewidth=0.6)
            rates.text(
                begins_s + 1,
                1.01,
                outcome.name,
                fontsize=7,
                rotation=30,
                va="bottom",
                transform=rates.get_xaxis_transform(),
            )
            begins_s += max(ends) + 5.0
        rates.set_ylabel("timers per second")
        lateness.set_ylabel("lateness, ms")
        lateness.set_yscale("symlog", linthresh=10)
        lateness.set_ylim(bottom=0)
        lateness.set_xlim(0, begins_s)
        lateness.set_xlabel("seconds; scenarios one after the other; faults are shaded")
        for axes in (rates, lateness):
            handles, labels = axes.get_legend_handles_labels()
            once = dict(zip(labels, handles, strict=True))
            axes.legend(once.values(), once.keys(), loc="center right", fontsize=7)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw(rates: Any, lateness: Any, found: dict[str, Any], begins_s: float, end: int) -> None:
    seconds = range(end + 1)
    at = [begins_s + second for second in seconds]
    for name, colour in (("acknowledged", "#1971c2"), ("delivered", "#2f9e44")):
        counts = dict(found[name])
        values = [counts.get(second, 0) for second in seconds]
        rates.plot(at, values, color=colour, linewidth=0.8, label=name)
    late_at = [begins_s + second for second, _, _ in found["late"]]
    lateness.plot(
        late_at,
        [max(0, most) for _, _, most in found["late"]],
        ".",
        color="#862e9c",
        markersize=2,
        label="maximum of each second",
    )
    lateness.plot(
        late_at,
        [max(0, half) for _, half, _ in found["late"]],
        color="#1971c2",
        linewidth=0.8,
        label="median of each second",
    )
    for kind, start_s, end_s, _ in found["faults"]:
        for axes in (rates, lateness):
            axes.axvspan(begins_s + start_s, begins_s + end_s, color=FAULT_COLOUR, alpha=0.15, lw=0)
        rates.text(
            begins_s + start_s,
            0.98,
            re.sub("^kill -9 of ", "kill ", kind),
            rotation=90,
            fontsize=4,
            va="top",
            transform=rates.get_xaxis_transform(),
        )
