"""Plays many seeds, in several processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing import get_context
from traceback import format_exception
from typing import NamedTuple

from skyring.testing.simulation.mutants import mutated
from skyring.testing.simulation.run import Played, run_seed

__all__ = ["Told", "play_many"]

SEEDS_PER_CALL = 5
CALLS_PER_PROCESS = 20
LINES_MAX = 40


class Told(NamedTuple):
    """What came of a seed, as far as it is told."""

    seed: int
    simulated_s: float
    real_s: float
    timers: int
    deliveries: int
    faults: Counter[str]
    digest: str
    violations: list[str]
    lines: list[str]
    """What has happened to the first timer at fault; the last of it, if that is much."""


def _told(played: Played) -> Told:
    history = played.history
    return Told(
        played.seed,
        played.simulated_s,
        played.real_s,
        sum(op.kind == "create" for op in history.operations),
        len(history.deliveries),
        Counter(fault.kind for fault in history.faults),
        played.digest(),
        [f"{rule}: {timer} {text}" for rule, timer, text in played.violations],
        _story(played),
    )


def _story(played: Played) -> list[str]:
    timer = next((item.timer for item in played.violations if item.timer), None)
    return [] if timer is None else played.history.lines(timer)[-LINES_MAX:]


def _play(seeds: Iterable[int], mutant: str) -> list[Told]:
    told = []
    with mutated(mutant):
        for seed in seeds:
            try:
                told.append(_told(run_seed(seed)))
            except Exception as error:
                # The others are played all the same, and this one is named.
                crash = ["crashed: " + "".join(format_exception(error)).rstrip()]
                told.append(Told(seed, 0.0, 0.0, 0, 0, Counter(), "", crash, []))
    return told


def play_many(first: int, count: int, jobs: int, mutant: str = "") -> Iterator[Told]:
    """Play seeds side by side; the results come in order.

    Args:
        first: the first seed.
        count: how many.
        jobs: processes.
        mutant: a safety rule that is switched off.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    play = partial(_play, mutant=mutant)
    starts = range(first, first + count, SEEDS_PER_CALL)
    batches = [range(start, min(start + SEEDS_PER_CALL, first + count)) for start in starts]
    # Each process is replaced now and then: what is left of killed nodes adds up.
    with context.Pool(jobs, maxtasksperchild=CALLS_PER_PROCESS) as pool:
        for told in pool.imap(play, batches):
            yield from told
