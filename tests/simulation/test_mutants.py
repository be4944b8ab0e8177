"""The simulator bites: safety rules that are switched off are missed within a few seeds.

All of them are tried by ``make mutants``; here are some of those that are missed soonest.
"""

from __future__ import annotations

import pytest

from skyring.testing.simulation import run_seed
from skyring.testing.simulation.mutants import MUTANTS, mutated

SEEDS_MAX = 60


@pytest.mark.parametrize(
    "name",
    [
        "expected-sequence fence",
        "waiting out a lease",
        "never guess success",
        "never guess failure",
        "delete after success",
        "claim replay",
        "cancel's barrier",
        "retry after failure",
        "refused when sent again",
    ],
)
def test_a_rule_that_is_switched_off_is_missed(name: str) -> None:
    with mutated(name):
        assert any(run_seed(seed).violations for seed in range(SEEDS_MAX))


def test_no_rule_stays_switched_off() -> None:
    for name in MUTANTS:
        with mutated(name):
            pass
    assert run_seed(0).violations == []


def test_a_rule_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="no such rule"), mutated("gravity"):
        pass
