"""What a benchmark says when it cannot go on."""

from __future__ import annotations

from typing import ClassVar

from skyring.errors import SkyringError

__all__ = ["BenchError"]


class BenchError(SkyringError):
    """The benchmark cannot run or cannot go on. ``str(error)`` is one line for a person."""

    code: ClassVar[str] = "bench"
