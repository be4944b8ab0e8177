"""Has the history of a simulation tell what nodes log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from skyring.testing.proof.history import History
from skyring.testing.simulation.loop import Process, SimulatedLoop, current_process

__all__ = ["FELT_S", "watching"]

EXPLAINED_BY = {
    "a write failed": ("failing disk",),
    "the node has failed": ("failing disk",),
    "the due index of slot": ("failing disk",),
    "a delivery does not end": ("stall",),
}
"""Errors that a node has to log, and the faults of its machine that explain them. Any other error
is a defect."""
FELT_S = 5.0
"""A fault explains errors for so long after its end."""


class _Watch(logging.Handler):
    """Has the history tell what nodes log: always defects, and if wanted everything."""

    def __init__(self, loop: SimulatedLoop, history: History, *, everything: bool) -> None:
        super().__init__(logging.DEBUG if everything else logging.ERROR)
        self._loop = loop
        self._history = history
        self._everything = everything

    def emit(self, record: logging.LogRecord) -> None:
        process = current_process()
        where = "" if process is None else f"{process.name}  "
        text = f"{where}{record.levelname.lower()}: {record.getMessage()}"
        if record.levelno >= logging.ERROR and not self._is_explained(record, process):
            error = record.exc_info[1] if record.exc_info else ""
            self._history.failures.append((self._loop.time(), f"{text} {error!r}"))
        elif self._everything:
            self._history.note(self._loop.time(), text)

    def _is_explained(self, record: logging.LogRecord, process: Process | None) -> bool:
        """Does a fault of the machine explain the error?"""
        if record.exc_info or not record.getMessage().startswith(tuple(EXPLAINED_BY)):
            return False
        machine = "" if process is None else process.name.split("/")[0]
        now_s = self._loop.time()
        return any(
            record.getMessage().startswith(text)
            and fault.kind in kinds
            and machine in fault.nodes
            and fault.hits(frozenset({machine}), now_s - FELT_S, now_s)
            for text, kinds in EXPLAINED_BY.items()
            for fault in self._history.faults
        )


@contextmanager
def watching(loop: SimulatedLoop, history: History, *, everything: bool) -> Iterator[None]:
    """Watch the nodes of a loop; if wanted the history tells everything, else only defects."""
    logger = logging.getLogger("skyring")
    watch = _Watch(loop, history, everything=everything)
    before, propagated = logger.level, logger.propagate
    logger.addHandler(watch)
    logger.setLevel(watch.level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(watch)
        logger.setLevel(before)
        logger.propagate = propagated
