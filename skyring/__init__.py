"""Skyring: setTimeout for distributed systems.

>>> from skyring import Settings, Skyring
>>> async with Skyring(Settings()) as sky:
...     await sky.listen(3000)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["Settings", "Skyring"]

if TYPE_CHECKING:
    from skyring.server import Skyring
    from skyring.settings import Settings


def __getattr__(name: str) -> object:
    # Loaded when asked for, so that the command line and the client start quickly.
    if name == "Skyring":
        from skyring.server import Skyring

        return Skyring
    if name == "Settings":
        from skyring.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
