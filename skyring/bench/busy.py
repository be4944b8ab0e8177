"""A process that keeps one core busy until its standard input ends."""

from __future__ import annotations

from skyring.bench.process import exit_with_parent

__all__ = ["main"]


def main() -> None:
    """Count for ever."""
    exit_with_parent()
    number = 0
    while True:
        number += 1


if __name__ == "__main__":
    main()
