"""Seeds that have found something; docs/SIMULATION.md tells what.

The defects have tests of their own as well, and are made again as mutants: a seed plays something
else as soon as the simulator or the timing of the product changes.
"""

from __future__ import annotations

import pytest

from tests.simulation.seeds import play


@pytest.mark.parametrize(
    "seed",
    [
        17,
        55,
        68,
        110,
        201,
        225,
        226,
        349,
        354,
        370,
        430,
        491,
        576,
        762,
        871,
        1195,
        1745,
        2002,
        2130,
        2366,
        2663,
        2695,
        2840,
        3289,
        4034,
        4115,
        4644,
        4827,
        4841,
        5098,
        5948,
        6140,
        6285,
        6858,
        6935,
        6943,
    ],
)
def test_a_seed_that_has_found_something(seed: int) -> None:
    play(seed)
