"""``skyring bench chaos``: real processes, and what can befall them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skyring.bench.errors import BenchError
from skyring.bench.running import Json, MaxSeconds, Seed, bounded, fail, show_progress

if TYPE_CHECKING:
    from skyring.bench.chaos.scenarios import Limits, Outcome

__all__ = ["chaos"]

DAMAGE = "damage"
DAMAGE_ROUNDS = 100
SHORT_DAMAGE_ROUNDS = 12
DAMAGE_LOAD_S = 10.0
SHORT_DAMAGE_LOAD_S = 4.0
SHORT = ("short", "short-disk", DAMAGE)


def chaos(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which scenarios; all if none is named.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How long each injects faults.")
    ] = 60.0,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, max=10_000, help="Damaged files, one by one.")
    ] = DAMAGE_ROUNDS,
    rate: Annotated[
        float, typer.Option("--rate", min=1, max=2_000, help="Operations per second.")
    ] = 150.0,
    seed: Seed = 1,
    short: Annotated[
        bool, typer.Option("--short", help="Few faults, and generous with time: for tests.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--directory", help="Keep the files of the processes there.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write PATH.json, PATH.md and PATH.svg; needs matplotlib."),
    ] = None,
    max_seconds: MaxSeconds = 7_200.0,
    json: Json = False,
    inside: Annotated[bool, typer.Option("--inside", hidden=True)] = False,
) -> None:
    """Faults of nodes, networks, NATS, disks and files, under load; nothing may be lost.

    Needs Linux and root: it makes networks and mounts of its own, which end with it.
    """
    from skyring.bench.chaos.sandbox import missing_requirement, run_inside

    wanted = _wanted(names, short)
    if not inside:
        missing = missing_requirement()
        if missing is not None:
            fail(missing)
        _check_report(report)
        if directory is not None:
            raise typer.Exit(run_inside(_arguments(directory)))
        with tempfile.TemporaryDirectory(prefix="skyring-chaos-") as temporary:
            raise typer.Exit(run_inside(_arguments(Path(temporary))))
    assert directory is not None
    limits = _limits(short, seconds, rate)
    rounds = SHORT_DAMAGE_ROUNDS if short else rounds
    try:
        outcomes = bounded(_run(wanted, directory, limits, seed, rounds, report, json), max_seconds)
    except BenchError as error:
        fail(str(error))
    wrong = [f"{each.name}: {len(each.violations)}" for each in outcomes if each.violations]
    if wrong:
        fail(f"promises broken: {', '.join(wrong)}")


def _arguments(directory: Path) -> list[str]:
    """The command line once more, for the process in the sandbox."""
    given = sys.argv[sys.argv.index("chaos") + 1 :] if "chaos" in sys.argv[:3] else sys.argv[1:]
    return [*given, "--inside", "--directory", str(directory.absolute())]


def _check_report(report: Path | None) -> None:
    """Better now than after half an hour."""
    from skyring.bench.chaos.report import require_matplotlib

    if report is None:
        return
    try:
        require_matplotlib()
        report.parent.mkdir(parents=True, exist_ok=True)
        report.with_name(f"{report.name}.json").touch()
    except BenchError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot write the report {report}: {error.strerror}")


def _wanted(names: list[str] | None, short: bool) -> list[str]:
    from skyring.bench.chaos.scenarios import SCENARIOS

    known = [*SCENARIOS, DAMAGE]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        fail(f"there is no scenario {unknown[0]!r}; there are {', '.join(known)}")
    if names:
        return list(names)
    return list(SHORT) if short else [name for name in known if name not in SHORT[:2]]


def _limits(short: bool, seconds: float, rate: float) -> Limits:
    from skyring.bench.chaos.load import LoadShape
    from skyring.bench.chaos.scenarios import Limits

    if not short:
        return Limits(seconds=seconds, shape=LoadShape(rate_per_s=rate))
    return Limits(
        seconds=1.0,
        shape=LoadShape(rate_per_s=40.0, timeouts_ms=(500, 6_000)),
        pause_s=(0.5, 1.0),
        settle_s=2.0,
        calm_s=2.0,
        drain_s=90.0,
        late_s=30.0,
        is_busy=True,
    )


async def _run(
    names: list[str],
    directory: Path,
    limits: Limits,
    seed: int,
    rounds: int,
    report: Path | None,
    json: bool,
) -> list[Outcome]:
    from skyring.bench.chaos.damage import blows, run_damage
    from skyring.bench.chaos.report import finding, print_outcomes, write
    from skyring.bench.chaos.sandbox import Network
    from skyring.bench.chaos.scenarios import run_scenario

    network = Network()
    outcomes: list[Outcome] = []
    for name in names:
        show_progress(f"{name}:")
        place = _made(directory / name)
        if name == DAMAGE:
            load_s = SHORT_DAMAGE_LOAD_S if limits.is_busy else DAMAGE_LOAD_S
            chosen = blows(rounds, seed)
            outcome = await run_damage(place, network, chosen, seed, load_s, show_progress)
        else:
            outcome = await run_scenario(name, place, network, limits, seed, show_progress)
        outcomes.append(outcome)
        show_progress(f"  {finding(outcome)}")
        for violation in outcome.violations[:10]:
            show_progress(f"  {violation.rule}: {violation.timer} {violation.text[:300]}")
            for line in outcome.history.lines(violation.timer) if violation.timer else ():
                show_progress(f"      {line[:200]}")
        if report is not None:  # after each, so that what there is stays if a later one fails
            write(outcomes, report, seed)
    print_outcomes(outcomes, as_json=json, seed=seed)
    return outcomes


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory
