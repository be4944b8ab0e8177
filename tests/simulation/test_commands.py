"""What the command line of the simulator says, of what goes wrong in it as well."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from skyring.testing.simulation import many, run_seed
from skyring.testing.simulation.many import Told, play_many

TIMEOUT_S = 100


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "skyring.testing.simulation", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seeds", "--seeds", "abc"], "should be a valid integer"),
        (["seeds", "--mutant", "no such"], "no such rule: no such; there are: "),
        (["replay", "--", "-5"], "should be greater than or equal to 0"),
        (["replay", "3", "--timer", "done"], "no timer of this seed is 'done'"),
        (["replay", "3", "--timer", "n1"], "no timer of this seed is 'n1'"),
        (["mutants", "no such"], "no such rule: no such; there are: "),
    ],
)
def test_what_makes_no_sense_is_said(arguments: list[str], said: str) -> None:
    done = simulate(*arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split()), done.stderr


def test_a_seed_that_fails_is_shown_with_what_happened_and_how_to_see_it_again() -> None:
    done = simulate("seeds", "--seeds", "5", "--mutant", "claim replay")
    assert done.returncode == 1
    assert re.search(r"again: python .* replay \d --mutant 'claim replay'\n", done.stdout)
    assert "lost: " in done.stdout
    assert " create " in done.stdout, "what has happened to the timer"


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_seed

    def broken(seed: int) -> Any:
        if seed == 1:
            raise ValueError("no such thing")
        return real(seed)

    monkeypatch.setattr(many, "run_seed", broken)


@pytest.mark.usefixtures("_broken")
def test_a_seed_in_which_the_simulator_breaks_is_named_and_the_others_are_played() -> None:
    told: list[Told] = many._play(range(3), "")
    assert [each.seed for each in told] == [0, 1, 2]
    assert [bool(each.violations) for each in told] == [False, True, False]
    assert told[1].violations[0].startswith("crashed: Traceback")
    assert "no such thing" in told[1].violations[0]


def test_many_seeds_come_in_order() -> None:
    assert [told.seed for told in play_many(0, 7, 2)] == list(range(7))
