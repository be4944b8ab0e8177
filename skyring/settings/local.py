"""What one node needs: storage, timers, deliveries, transports, HTTP, logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

from skyring.settings.group import Group, split

__all__ = [
    "DeliverySettings",
    "HttpSettings",
    "LogSettings",
    "RetrySettings",
    "ShutdownSettings",
    "StorageSettings",
    "TimerSettings",
    "TransportSettings",
    "fold_name",
]

BACKEND_ALIASES = {"leveldown": "leveldb", "memdown": "memory"}
"""Names that users of the Node.js Skyring know, and what they are here."""


def _backend(value: object) -> object:
    return BACKEND_ALIASES.get(value, value) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class StorageSettings(Group):
    """Where timers are kept."""

    backend: Annotated[Literal["leveldb", "memory"], BeforeValidator(_backend)] = Field(
        default="leveldb", description="leveldb keeps timers on disk; memory forgets them at exit"
    )
    path: Path = Field(default=Path("data"), description="directory of the LevelDB files")
    sync: Literal["always", "never"] = Field(
        default="always",
        description="always: an acknowledged timer survives a power cut (fsync before the answer);"
        " never: it survives a kill of the process, but not of the machine",
    )
    cache_bytes: int = Field(
        default=16 << 20, ge=1 << 20, le=1 << 40, description="LevelDB block cache"
    )
    write_buffer_bytes: int = Field(
        default=8 << 20, ge=1 << 16, le=1 << 34, description="LevelDB write buffer"
    )
    open_files_max: int = Field(
        default=200, ge=20, le=1_000_000, description="table files kept open"
    )
    compression: Literal["none", "snappy"] = Field(
        default="none",
        description="of what is written from now on: none costs disk, snappy costs processor time",
    )
    group_bytes_max: int = Field(
        default=8 << 20,
        ge=1 << 16,
        description="writes that share one fsync; more wait for the next",
    )
    pending_bytes_max: int = Field(
        default=128 << 20,
        ge=1 << 20,
        description="writes waiting for the disk; more are answered 503",
    )
    reopen_timeout_ms: int = Field(
        default=30_000,
        ge=0,
        description="how long to try to reopen after a failed write before the node gives up",
    )


class TimerSettings(Group):
    """How much of the future is held in memory."""

    window_ms: int = Field(
        default=60_000,
        ge=100,
        le=31_536_000_000,
        description="timers due within this time are held in memory",
    )
    scheduled_max: int = Field(
        default=100_000, ge=100, description="timers held in memory; the rest wait in the storage"
    )


class DeliverySettings(Group):
    """Limits of deliveries."""

    timeout_ms: int = Field(default=15_000, ge=1, description="time allowed for one delivery")
    timeout_ms_max: int = Field(
        default=300_000, ge=1, description="largest callback.timeout_ms that a timer may ask for"
    )
    in_flight_max: int = Field(default=1024, ge=1, description="deliveries under way at once")
    in_flight_per_destination_max: int = Field(
        default=128, ge=1, description="deliveries under way at once to one host"
    )
    backlog_delay_ms: int = Field(
        default=10_000,
        ge=100,
        description="when timers.scheduled_max due timers wait, further ones of a host that is so"
        " far behind are put off by this time",
    )
    open_timeout_ms: int = Field(
        default=30_000, ge=1, description="time allowed to a transport to open at the start"
    )
    answer_bytes_max: int = Field(
        default=65_536, ge=0, description="bytes read of a receiver's answer; the rest is cut off"
    )
    retry_after_ms_max: int = Field(
        default=3_600_000, ge=0, description="longest Retry-After of a receiver that is honoured"
    )


class RetrySettings(Group):
    """The retry policy of timers that bring none of their own."""

    attempts: int = Field(
        default=10, ge=1, description="deliveries before a timer is a dead letter"
    )
    backoff_ms: int = Field(
        default=1_000, ge=1, description="upper bound of the first wait; it doubles"
    )
    max_ms: int = Field(default=3_600_000, ge=1, description="upper bound of any wait")
    attempts_max: int = Field(default=1_000, ge=1, description="largest callback.retry.attempts")
    max_ms_max: int = Field(default=604_800_000, ge=1, description="largest callback.retry.max_ms")


def fold_name(name: str) -> str:
    """A transport's name as every source of settings can spell it."""
    return name.replace("-", "_").lower()


class TransportSettings(Group):
    """Transports beside http, and the options of each."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    main: ClassVar[str | None] = "load"
    may_be_secret: ClassVar[bool] = True

    load: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(
        default=(),
        description="transports to load: an installed one by its name, package.module:Class,"
        " ./file.py or ./file.py:Class; can be repeated, or holds several with commas between",
    )

    @classmethod
    def spread(cls, value: object) -> object:
        """As for every group; the names of transports are brought to one spelling."""
        value = super().spread(value)
        if not isinstance(value, Mapping):
            return value
        return {fold_name(key) if isinstance(key, str) else key: value[key] for key in value}

    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]:
        """What was given for each transport, by its name; its own class checks it."""
        return self.__pydantic_extra__

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "load", self.load  # options may be secret


class HttpSettings(Group):
    """Limits of the HTTP API."""

    body_bytes_max: int = Field(default=1 << 20, ge=1024, description="body of one request")
    bulk_bytes_max: int = Field(default=32 << 20, ge=1024, description="body of one POST /timers")
    bulk_entries_max: int = Field(default=50_000, ge=1, description="timers in one POST /timers")
    page_entries_max: int = Field(default=1_000, ge=1, description="timers on one page of a list")
    page_bytes_max: int = Field(
        default=8 << 20, ge=1024, description="records on one page, which ends early if it has more"
    )
    body_timeout_ms: int = Field(
        default=30_000, ge=100, description="time allowed for a request body"
    )
    header_timeout_ms: int = Field(
        default=10_000, ge=100, description="time allowed for request headers"
    )
    header_bytes_max: int = Field(
        default=32_768, ge=1024, description="request line and headers together"
    )
    keep_alive_ms: int = Field(
        default=75_000, ge=0, description="idle time before a connection is closed"
    )
    connections_max: int = Field(
        default=10_000, ge=1, description="open connections; more are closed"
    )


class LogSettings(Group):
    """What is logged, to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)
    ] = Field(default="info", description="least severe level that is logged")
    format: Literal["text", "json"] = Field(
        default="text", description="lines for people or for machines"
    )


class ShutdownSettings(Group):
    """How a node stops."""

    ready_delay_ms: int = Field(
        default=0, ge=0, description="time between failing readiness and closing the port"
    )
    drain_ms: int = Field(
        default=20_000,
        ge=0,
        description="time allowed for requests and deliveries under way to end",
    )
