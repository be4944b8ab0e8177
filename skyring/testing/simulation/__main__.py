"""``python -m skyring.testing.simulation``: plays many seeds, or one that failed once more."""

from __future__ import annotations

import time
from collections import Counter
from multiprocessing import cpu_count
from typing import Annotated

import typer

from skyring.testing.simulation.many import play_many
from skyring.testing.simulation.mutants import MUTANTS, mutated
from skyring.testing.simulation.run import run_seed

__all__ = ["main"]

VIOLATIONS_SHOWN_MAX = 5
LINES_SHOWN_MAX = 400


def _known(given: str | list[str] | None) -> str | list[str] | None:
    names = [given] if isinstance(given, str) else given or []
    for name in names:
        if name and name not in MUTANTS:
            raise typer.BadParameter(f"no such rule: {name}; there are: {'; '.join(MUTANTS)}")
    return given


def seeds(
    count: Annotated[int, typer.Option("--seeds", min=1, help="how many seeds")] = 200,
    first: Annotated[int, typer.Option(min=0, help="the first of them")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = cpu_count(),
    mutant: Annotated[
        str, typer.Option(callback=_known, help="a safety rule that is switched off")
    ] = "",
    keep_going: Annotated[bool, typer.Option(help="go on after a violation")] = False,
) -> None:
    """Play many seeds. Ends with 1 if a promise was broken."""
    began_s, done, simulated_s, failed = time.monotonic(), 0, 0.0, 0
    faults: Counter[str] = Counter()
    timers = deliveries = 0
    for told in play_many(first, count, jobs, mutant):
        done += 1
        simulated_s += told.simulated_s
        timers += told.timers
        deliveries += told.deliveries
        faults += told.faults
        if told.violations:
            failed += 1
            typer.echo(f"seed {told.seed}: {len(told.violations)} violations")
            for text in (*told.violations[:VIOLATIONS_SHOWN_MAX], *told.lines):
                typer.echo(f"  {text}")
            rule = f" --mutant {mutant!r}" if mutant else ""
            typer.echo(f"  again: python -m skyring.testing.simulation replay {told.seed}{rule}")
            if not keep_going:
                break
        if done % 100 == 0:
            typer.echo(f"{done} seeds, {failed} failed, {time.monotonic() - began_s:.0f} s")
    real_s = time.monotonic() - began_s
    typer.echo(
        f"{done} seeds in {real_s:.0f} s: {failed} with violations; {simulated_s:.0f} simulated"
        f" seconds, {timers} timers, {deliveries} deliveries, {sum(faults.values())} faults"
    )
    for kind, number in sorted(faults.items()):
        typer.echo(f"  {number:8d} {kind}")
    if failed:
        raise typer.Exit(1)


def replay(
    seed: Annotated[int, typer.Argument(min=0, help="the seed")],
    timer: Annotated[str, typer.Option(help="id of a timer; empty: the first at fault")] = "",
    verbose: Annotated[bool, typer.Option(help="also what the nodes log")] = False,
    mutant: Annotated[
        str, typer.Option(callback=_known, help="a safety rule that is switched off")
    ] = "",
) -> None:
    """Play one seed, and tell what has happened to a timer. Ends with 1 after a violation."""
    with mutated(mutant):
        played = run_seed(seed, verbose=verbose)
    history = played.history
    known = {each.id for each in history.operations} | {each.id for each in history.deliveries}
    if timer and timer not in known:
        raise typer.BadParameter(f"no timer of this seed is {timer!r}", param_hint="--timer")
    wanted = timer or next((item.timer for item in played.violations if item.timer), "")
    lines = history.lines(wanted or None)
    for line in lines if wanted else lines[:LINES_SHOWN_MAX]:
        typer.echo(line)
    typer.echo(f"seed {seed}, history {played.digest()}: {len(played.violations)} violations")
    for rule, timer_id, text in played.violations[:VIOLATIONS_SHOWN_MAX]:
        typer.echo(f"  {rule}: {timer_id} {text}")
    if played.violations:
        raise typer.Exit(1)


def mutants(
    most: Annotated[int, typer.Option("--seeds", min=1, help="seeds for each at most")] = 500,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = cpu_count(),
    only: Annotated[
        list[str] | None, typer.Argument(callback=_known, help="names; all if none")
    ] = None,
) -> None:
    """Switch off one safety rule after the other; ends with 1 if that is not noticed of one."""
    unnoticed = []
    for name in only or MUTANTS:
        began_s = time.monotonic()
        found = next((told for told in play_many(0, most, jobs, name) if told.violations), None)
        took_s = time.monotonic() - began_s
        if found is None:
            unnoticed.append(name)
            typer.echo(f"{name:32} NOT FOUND in {most} seeds, {took_s:.0f} s")
        else:
            text = found.violations[0]
            typer.echo(f"{name:32} seed {found.seed:3d}, {took_s:3.0f} s  {text[:100]}")
    if unnoticed:
        typer.echo(f"{len(unnoticed)} rules can be switched off unnoticed: {', '.join(unnoticed)}")
        raise typer.Exit(1)


def main() -> None:
    """The command line."""
    app = typer.Typer(add_completion=False, no_args_is_help=True)
    for command in (seeds, replay, mutants):
        app.command()(command)
    app()


if __name__ == "__main__":
    main()
