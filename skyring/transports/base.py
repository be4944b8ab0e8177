"""The transport contract: what delivers a fired timer, and what it answers.

A transport is handed a callback, the payload and some facts about the delivery. It returns an
`Outcome` and never sees the storage: what the outcome means for the timer is decided elsewhere.
"""

from __future__ import annotations

import contextlib
from types import UnionType
from typing import ClassVar, Literal, TypeAlias, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

__all__ = [
    "Callback",
    "DeliveryInfo",
    "Outcome",
    "RetrySpec",
    "Transport",
    "TransportOptions",
    "told",
]


COLLECTIONS = frozenset({list, tuple, set, frozenset, dict})

OutcomeKind: TypeAlias = Literal["delivered", "retry", "rejected"]


class RetrySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A timer's own retry policy. What is left out comes from the settings."""

    attempts: int | None = None
    """Deliveries in all before the timer becomes a dead letter."""
    backoff_ms: int | None = None
    """Upper bound of the first wait, milliseconds; it doubles with each attempt."""
    max_ms: int | None = None
    """Upper bound of any wait, milliseconds."""


class Callback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a timer goes when it fires, as the user wrote it."""

    transport: str
    method: str
    uri: str
    headers: dict[str, str] = {}
    retry: RetrySpec | None = None
    timeout_ms: int | None = None
    """Time allowed for one delivery, milliseconds; None takes ``delivery.timeout_ms``."""


class DeliveryInfo(msgspec.Struct, frozen=True):
    """Facts about one delivery."""

    id: str
    attempt: int
    """1 for the first delivery."""
    due_ms: int
    """When the timer was due, epoch milliseconds."""
    started_ms: int
    """When this delivery began, epoch milliseconds."""
    timeout_ms: int
    """Time allowed for this delivery, milliseconds. It is cut when they have passed."""
    content_type: str | None
    """Media type of the payload; None when there is none."""

    @property
    def deadline_ms(self) -> int:
        """When this delivery is cut, epoch milliseconds."""
        return self.started_ms + self.timeout_ms


class Outcome(msgspec.Struct, frozen=True):
    """What became of one delivery."""

    kind: OutcomeKind
    reason: str = ""
    after_ms: int | None = None

    @classmethod
    def delivered(cls) -> Outcome:
        """The receiver has taken the timer."""
        return _DELIVERED

    @classmethod
    def retry(cls, reason: str, after_ms: int | None = None) -> Outcome:
        """The delivery failed; try again, no sooner than ``after_ms`` milliseconds if given."""
        return cls("retry", reason, after_ms)

    @classmethod
    def rejected(cls, reason: str) -> Outcome:
        """The receiver will never take this timer: no further attempt is made."""
        return cls("rejected", reason)


_DELIVERED = Outcome("delivered")


class TransportOptions(BaseModel):
    """Base class of a transport's own options: typed fields, checked before it is opened.

    They come from the command line (``--transport:NAME:KEY=VALUE``), the environment
    (``SKYRING_TRANSPORT__NAME__KEY``) and TOML (``[transport.NAME]``). What must not be shown is
    a ``pydantic.SecretStr``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, given: object) -> object:
        """The command line and the environment know nothing but text."""
        if not isinstance(given, dict):
            return given
        fields = cls.model_fields
        return {
            key: _from_text(value, fields[key].annotation) if key in fields else value
            for key, value in given.items()
        }


def _from_text(value: object, annotation: object) -> object:
    """A list or a table is read as JSON, a list also as ``a,b``."""
    is_union = get_origin(annotation) in (Union, UnionType)
    members = get_args(annotation) if is_union else (annotation,)
    kinds = {get_origin(each) or each for each in members}
    if not isinstance(value, str) or str in kinds or not kinds & COLLECTIONS:
        return value
    if value.lstrip().startswith(("[", "{")):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value  # the field says what is wrong with it
    if dict in kinds:
        return value
    return [part for part in (part.strip() for part in value.split(",")) if part]


def told(error: BaseException) -> str:
    """An error in one line, even if its text is anybody's code that fails."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Transport:
    """Base class of all transports; only `deliver` has to be written.

    ``name`` is what a callback's ``transport`` field says. It defaults to the class name in lower
    case. An exception from `deliver` counts as ``Outcome.retry`` with the exception as reason.
    """

    name: ClassVar[str] = ""
    keeps_timeout: ClassVar[bool] = False
    """Does `deliver` end within ``info.timeout_ms`` by itself? Otherwise it is cut off then."""

    class Options(TransportOptions):
        """A subclass with options has an inner class of this name, derived from this one."""

    options: Options
    """Set before `open`; without any given, the defaults."""

    def __init__(self, options: Options | None = None) -> None:
        if options is not None:
            self.options = options

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()
        # Frozen, so one object serves all. Options without a default have to be given.
        with contextlib.suppress(ValidationError):
            cls.options = cls.Options()

    async def open(self) -> None:
        """Called once before the first delivery. An exception stops the start."""

    def check(self, callback: Callback) -> None:
        """Refuse a callback that this transport cannot use, when the timer is created.

        Raises:
            InvalidRequest: names the field at fault; a ValueError is understood as well.
        """

    def destination(self, callback: Callback) -> str:
        """The receiver that a callback leads to, for fairness and per-destination limits.

        The same for all callbacks unless a transport says more.
        """
        return self.name

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        """Hand one timer to its receiver and say what became of it.

        If it is cancelled, its time is over or the node is stopping.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Called after the last delivery; drains what was accepted. May be called twice."""
