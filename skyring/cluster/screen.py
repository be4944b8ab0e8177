"""The output of several programs on one terminal, line by line, each with its name before it."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable

from skyring.commands.output import printable

__all__ = ["Screen"]

LINES_MAX = 10_000
"""Lines that may wait to be shown; what comes beyond is left out, the files of the logs have it."""
CLOSE_S = 2.0
COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)


class Screen:
    """Standard output, written by a thread: whoever reads it slowly holds up nothing else.

    Args:
        names: of all who will write, in order.
        coloured: may the names have colours?
        on_end: called, in that thread, when the reader of the output has gone away.
    """

    def __init__(self, names: list[str], *, coloured: bool, on_end: Callable[[], None]) -> None:
        width = max((len(name) for name in names), default=0)
        self._prefixes = {
            name: _coloured(f"{name:<{width}} |", number) if coloured else f"{name:<{width}} |"
            for number, name in enumerate(names)
        }
        self._on_end = on_end
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_MAX)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write, name="screen", daemon=True)
        self._thread.start()

    def show(self, name: str, line: str) -> None:
        """A line of one of them; control characters are shown instead of obeyed."""
        self.show_plain(f"{self._prefixes[name]} {printable(line)}")

    def show_plain(self, text: str) -> None:
        """Text as it is."""
        try:
            if self._left_out:
                self._lines.put_nowait(f"({self._left_out} lines are not shown)")
                self._left_out = 0
            self._lines.put_nowait(text)
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Show what is left, if it is read in time."""
        try:
            self._lines.put(None, timeout=CLOSE_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def _write(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                sys.stdout.write(f"{line}\n")
                if self._lines.empty():
                    sys.stdout.flush()
            sys.stdout.flush()
        except (OSError, ValueError):
            self._on_end()


def _coloured(text: str, number: int) -> str:
    return f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m"
