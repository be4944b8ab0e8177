"""What every seed has to show."""

from __future__ import annotations

from skyring.testing.simulation import run_seed

__all__ = ["play"]

TIMER_LINES_MAX = 200


def play(seed: int) -> None:
    """Play a seed; a violation fails with its history."""
    played = run_seed(seed)
    if played.violations:
        first = played.violations[0]
        lines = played.history.lines(first.timer or None)[:TIMER_LINES_MAX]
        told = "\n".join(f"{rule}: {timer} {text}" for rule, timer, text in played.violations)
        raise AssertionError(
            f"seed {seed} breaks promises:\n{told}\n\n" + "\n".join(lines) + "\n\nReplay it with"
            f" python -m skyring.testing.simulation replay {seed} --verbose"
        )
