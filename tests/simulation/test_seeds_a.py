"""The first half of the seeds of ``make test``: two files, so that they run side by side."""

from __future__ import annotations

import pytest

from tests.simulation.seeds import play


@pytest.mark.parametrize("seed", range(100))
def test_a_seed(seed: int) -> None:
    play(seed)
