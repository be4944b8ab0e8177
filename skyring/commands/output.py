"""What all commands share in speaking to a person: one line on standard error, safe text."""

from __future__ import annotations

import sys

__all__ = ["printable", "say", "warn"]


def say(message: str) -> None:
    """One line on standard error."""
    line = printable(message.replace("\n", " "))
    sys.stderr.write(f"skyring: {line}\n")
    sys.stderr.flush()


def warn(message: str) -> None:
    """A warning on standard error."""
    say(f"warning: {message}")


def printable(text: str) -> str:
    """Text from elsewhere, with control characters shown instead of obeyed by the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else _shown(char) for char in text)


def _shown(char: str) -> str:
    # The two that stand in every other text, in their usual spelling; repr() knows the rest.
    return {"\n": "\\n", "\r": "\\r"}.get(char, repr(char)[1:-1])
