"""A simulator: a ring of real nodes in one thread, in simulated time, with faults from a seed.

`run_seed` plays one seed and checks what has happened; the same seed plays the same every time.
``python -m skyring.testing.simulation --help`` plays many. What is real and what is simulated
stands in docs/SIMULATION.md.
"""

from skyring.testing.simulation.loop import Process, SimulatedLoop
from skyring.testing.simulation.run import Played, run_seed

__all__ = ["Played", "Process", "SimulatedLoop", "run_seed"]
