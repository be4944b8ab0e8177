"""Times as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

from skyring.errors import ConfigError

__all__ = ["DURATION_MS_MAX", "format_duration", "parse_at", "parse_duration_ms"]

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_MS_MAX = 253_402_300_799_999
"""Nothing is farther away than the year 9999, the last that a timer can be due in."""

PART = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)


def parse_duration_ms(text: str) -> int:
    """Milliseconds in ``500ms``, ``5s``, ``1.5h``, ``1h30m`` or ``2d``.

    Raises:
        ConfigError: it is no such time, less than 1 ms, or absurdly long.
    """
    total_ms, at = Fraction(0), 0
    compact = text.strip().replace(" ", "")
    while (part := PART.match(compact, at)) is not None:
        total_ms += Fraction(part[1]) * UNITS_MS[part[2]]
        at = part.end()
    if at == 0 or at < len(compact):
        raise ConfigError(f"{text!r} is no length of time; write 500ms, 5s, 10m, 2h, 1d or 1h30m")
    if total_ms.denominator != 1 or not 1 <= total_ms <= DURATION_MS_MAX:
        raise ConfigError(f"{text!r} is not a whole number of milliseconds, 1 or more")
    return int(total_ms)


def parse_at(text: str) -> int | str:
    """Epoch milliseconds as a number; anything else is left for the server to read."""
    stripped = text.strip()
    return int(stripped) if re.fullmatch(r"\d{1,18}", stripped, re.ASCII) else stripped


def format_duration(ms: int) -> str:
    """A length of time in its two largest units: ``2h 05m``; past ones with a minus."""
    if ms < 0:
        return f"-{format_duration(-ms)}"
    seconds = ms // 1_000
    if seconds < 1:
        return f"{ms}ms"
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3_600:
        return f"{seconds // 60}m {seconds % 60:02}s"
    if seconds < 86_400:
        return f"{seconds // 3_600}h {seconds % 3_600 // 60:02}m"
    return f"{seconds // 86_400}d {seconds % 86_400 // 3_600:02}h"
