"""Every setting of a node, written once.

The command line, the environment and the TOML file are all generated from the models below:
``storage.path`` is ``--storage:path`` or ``--storage-path``, ``SKYRING_STORAGE__PATH``, and
``path`` under ``[storage]``. The command line wins over the environment, and that over the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from skyring.errors import ConfigError

__all__ = [
    "DeliverySettings",
    "HttpSettings",
    "LogSettings",
    "RetrySettings",
    "Settings",
    "ShutdownSettings",
    "StorageSettings",
    "TimerSettings",
    "TransportSettings",
    "fold_name",
    "load_settings",
]

BACKEND_ALIASES = {"leveldown": "leveldb", "memdown": "memory"}
"""Names that users of the Node.js Skyring know, and what they are here."""


def _backend(value: object) -> object:
    return BACKEND_ALIASES.get(value, value) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StorageSettings(_Group):
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


class TimerSettings(_Group):
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


class DeliverySettings(_Group):
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


class RetrySettings(_Group):
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


def _split(value: object) -> object:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        return value
    parts = (part.strip() for item in value for part in item.split(","))
    return [part for part in parts if part]


class TransportSettings(_Group):
    """Transports beside http, and the options of each."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    load: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="transports to load: an installed one by its name, package.module:Class,"
        " ./file.py or ./file.py:Class; can be repeated, or holds several with commas between",
    )

    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]:
        """What was given for each transport, by its name; its own class checks it."""
        return self.__pydantic_extra__

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "load", self.load  # options may be secret


def fold_name(name: str) -> str:
    """A transport's name as every source of settings can spell it."""
    return name.replace("-", "_").lower()


def _transport(value: object) -> object:
    """The list of transports alone means them without options."""
    if isinstance(value, str | list | tuple):
        return {"load": value}
    if isinstance(value, Mapping):
        return {fold_name(name) if isinstance(name, str) else name: value[name] for name in value}
    return value


class HttpSettings(_Group):
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


class LogSettings(_Group):
    """What is logged, to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)
    ] = Field(default="info", description="least severe level that is logged")
    format: Literal["text", "json"] = Field(
        default="text", description="lines for people or for machines"
    )


class ShutdownSettings(_Group):
    """How a node stops."""

    ready_delay_ms: int = Field(
        default=0, ge=0, description="time between failing readiness and closing the port"
    )
    drain_ms: int = Field(
        default=20_000,
        ge=0,
        description="time allowed for requests and deliveries under way to end",
    )


class Settings(BaseSettings):
    """One node's settings; immutable."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="SKYRING_", env_nested_delimiter="__"
    )

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(
        default=3000, ge=0, le=65_535, description="port to listen on; 0 takes a free one"
    )
    slots: int = Field(default=256, ge=1, le=65_536, description="partitions of the key space")
    storage: StorageSettings = StorageSettings()
    timers: TimerSettings = TimerSettings()
    delivery: DeliverySettings = DeliverySettings()
    transport: Annotated[TransportSettings, BeforeValidator(_transport)] = TransportSettings()
    retry: RetrySettings = RetrySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    shutdown: ShutdownSettings = ShutdownSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Settings(...) in a program means what it says: only load_settings() looks around.
        return (init_settings,)


class _Environment(EnvSettingsSource):
    """The environment, where ``SKYRING_TRANSPORT`` stands beside ``SKYRING_TRANSPORT__…``."""

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        if field_name != "transport":
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        inner: dict[str, Any] = self.explode_env_vars(field_name, field, self.env_vars)
        return (inner or None) if value is None else {"load": value, **inner}


class _Loaded(Settings):
    """Settings that also look at the environment, and at a file handed over beforehand."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        given = dict(init_settings.init_kwargs)
        options, file = given.pop("cli_options"), given.pop("toml_file")
        return (
            InitSettingsSource(settings_cls, init_kwargs=options),
            _Environment(settings_cls),
            InitSettingsSource(settings_cls, init_kwargs=file),
        )


def load_settings(
    options: Mapping[str, Any] | None = None, config_file: Path | None = None
) -> Settings:
    """Settings from the command line, the environment and a TOML file, in this order of weight.

    Args:
        options: what the command line gave, nested as the settings are.
        config_file: a TOML file, or None.

    Raises:
        ConfigError: in one line, naming the setting at fault and where it can be given.
    """
    file: dict[str, Any] = {}
    if config_file is not None:
        try:
            file = tomllib.loads(config_file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {config_file}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config_file} is not TOML: {error}") from error
    if "transport" in file:
        file["transport"] = _transport(file["transport"])  # so that options of elsewhere join it
    try:
        loaded = _Loaded(cli_options=dict(options or {}), toml_file=file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    except SettingsError as error:
        raise ConfigError(f"in the environment: {error}") from error
    return Settings.model_validate(loaded.model_dump())


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown setting {path}")
        elif item["loc"][0] == "transport":  # the value may hold a secret
            lines.append(f"{path}: {item['msg']}; options are given as transport.NAME.KEY")
        else:
            lines.append(f"{path}: {item['msg']}, got {item['input']!r}")
    return "; ".join(lines)
