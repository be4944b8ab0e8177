"""All targets by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.fuzz import spoken, stored, travelling, users
from tests.fuzz.target import Target

__all__ = ["TARGETS"]

TARGETS: Final[Mapping[str, Target]] = {
    **stored.TARGETS,
    **travelling.TARGETS,
    **users.TARGETS,
    **spoken.TARGETS,
}
