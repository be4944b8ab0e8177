"""Every error that Skyring raises on purpose.

    SkyringError                  error
    ├── ConfigError               config             a setting or an option is wrong
    ├── InvalidRequest            invalid            a field of a request is wrong
    ├── NotFound                  not-found          no timer (or dead letter) has this id
    ├── Conflict                  conflict           the id is taken by other content
    │   └── DeliveryInProgress    delivering         too late: the timer is being delivered
    ├── TooLarge                  too-large          a body or a batch is over its maximum
    ├── Unavailable               unavailable        nothing was changed; try again
    │   └── Uncertain             uncertain          a failed write; it may be stored or not
    ├── TransportError            transport          a transport cannot be opened
    ├── RingError                 ring               the ring cannot be joined
    └── StorageError              storage            the storage cannot be used
        ├── StorageLocked         storage-locked     another process holds the directory
        ├── RecordUnreadable      unreadable         one record is of an unknown version or shape
        └── Fenced                fenced             the claim on the slot is lost

``code`` is stable: it is part of the problem documents and may be matched on by clients.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConfigError",
    "Conflict",
    "DeliveryInProgress",
    "Fenced",
    "InvalidRequest",
    "NotFound",
    "RecordUnreadable",
    "RingError",
    "SkyringError",
    "StorageError",
    "StorageLocked",
    "TooLarge",
    "TransportError",
    "Unavailable",
    "Uncertain",
]


class SkyringError(Exception):
    """The root of the tree. ``str(error)`` is one line for a person."""

    code: ClassVar[str] = "error"


class ConfigError(SkyringError):
    """A setting, an option or a file that the operator gave is wrong."""

    code = "config"


class InvalidRequest(SkyringError):
    """A request is wrong. ``field`` is the dotted path of the part at fault, or ""."""

    code = "invalid"

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field


class NotFound(SkyringError):
    """No timer, or no dead letter, has this id."""

    code = "not-found"


class Conflict(SkyringError):
    """The id belongs to a timer with other content."""

    code = "conflict"


class DeliveryInProgress(Conflict):
    """A delivery of this timer has begun, so it can be neither cancelled nor replaced."""

    code = "delivering"


class TooLarge(SkyringError):
    """A body or a batch is larger than its maximum."""

    code = "too-large"


class Unavailable(SkyringError):
    """The request cannot be served now and has changed nothing. ``retry_after_s`` in seconds."""

    code = "unavailable"

    def __init__(self, reason: str, retry_after_s: int = 1) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Uncertain(Unavailable):
    """A write failed half-way: it may be stored or not. Repeating it with the same id is safe."""

    code = "uncertain"


class TransportError(SkyringError):
    """A transport cannot be opened."""

    code = "transport"


class RingError(SkyringError):
    """This node cannot be, or remain, a member of its ring."""

    code = "ring"


class StorageError(SkyringError):
    """The storage cannot be opened, read or written."""

    code = "storage"


class StorageLocked(StorageError):
    """Another process holds the storage directory."""

    code = "storage-locked"


class RecordUnreadable(StorageError):
    """A record has a version or a shape that this program does not know."""

    code = "unreadable"


class Fenced(StorageError):
    """The claim on a slot is lost: another node holds it now."""

    code = "fenced"
