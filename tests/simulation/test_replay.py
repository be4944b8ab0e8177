"""The same seed plays the same, in any process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from skyring.testing.simulation import run_seed

SEEDS = (3, 19)
CODE = "from skyring.testing.simulation import run_seed; print(run_seed({}).digest())"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_plays_the_same(seed: int) -> None:
    here = run_seed(seed).digest()
    run_seed(seed + 1)
    assert run_seed(seed).digest() == here
    there = [
        subprocess.run(
            [sys.executable, "-c", CODE.format(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    ]
    assert there == [here, here]


def test_other_seeds_play_something_else() -> None:
    assert run_seed(3).digest() != run_seed(4).digest()
