"""What every fault has: its place in the history, and its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from skyring.testing.proof.history import Fault, History
from skyring.testing.simulation.log import LogConditions, LogServer
from skyring.testing.simulation.loop import SimulatedLoop
from skyring.testing.simulation.machine import Machine
from skyring.testing.simulation.network import Server
from skyring.testing.simulation.plan import Planned
from skyring.testing.simulation.receiver import Receivers

__all__ = ["Harm"]


class Harm:
    """Writes down what is done to the machines, and ends it.

    Args:
        loop: whose time it is.
        random: for the details.
        machines: all of them.
        server: the network.
        log: the stream.
        receivers: who takes the timers.
        history: told of each fault.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        random: Random,
        machines: Sequence[Machine],
        server: Server,
        log: LogServer,
        receivers: Receivers,
        history: History,
    ) -> None:
        self._loop = loop
        self._random = random
        self._machines = machines
        self._server = server
        self._log = log
        self._receivers = receivers
        self._history = history
        self.is_over = False
        self._log_faults: list[Fault] = []
        """Of the log, those that have not ended."""

    def _fault(self, kind: str, machine: Machine | None, duration_s: float) -> Fault:
        now_s = self._loop.time()
        nodes = frozenset() if machine is None else frozenset((machine.name,))
        fault = Fault(kind, now_s, now_s + duration_s, nodes)
        self._history.faults.append(fault)
        return fault

    def _after(self, duration_s: float, end: Callable[[], object]) -> None:
        def ended() -> None:
            if not self.is_over:
                end()

        self._loop.later(duration_s, ended)

    def _calm_wire(self, machine: Machine) -> None:
        """The end of one fault is that of every bad network there."""
        if machine.wire is not None:
            machine.wire.calm()
        for fault in self._history.faults:
            if fault.kind == "bad network" and fault.nodes == {machine.name}:
                fault.end_s = min(fault.end_s, self._loop.time())

    def _log_fault(self, planned: Planned, name: str, value: float | bool) -> None:
        self._log_faults.append(self._fault(planned.kind, None, planned.duration_s))
        setattr(self._log.conditions, name, value)
        self._after(planned.duration_s, self._calm_log)

    def _calm_log(self) -> None:
        """The end of one fault is that of all that were done to the log."""
        self._log.conditions = LogConditions()
        for fault in self._log_faults:
            fault.end_s = min(fault.end_s, self._loop.time())
        self._log_faults.clear()
