"""What all groups of settings have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Group", "split"]


class Group(BaseModel):
    """Settings that belong together; immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    main: ClassVar[str | None] = None
    """The setting that the group's own name stands for: ``ring = "x"`` is ``ring.name``."""
    may_be_secret: ClassVar[bool] = False
    """Must no message quote what was given?"""

    @classmethod
    def spread(cls, value: object) -> object:
        """What was given for the group, with the setting that its own name stands for by name."""
        if cls.main is not None and isinstance(value, str | list | tuple):
            return {cls.main: value}
        return value

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        return cls.spread(value)


def split(value: object) -> object:
    """The items of a list; each may hold several with commas between."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        return value
    parts = (part.strip() for item in value for part in item.split(","))
    return [part for part in parts if part]
