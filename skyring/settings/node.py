"""All settings of a node together."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from skyring.settings.local import (
    DeliverySettings,
    HttpSettings,
    LogSettings,
    RetrySettings,
    ShutdownSettings,
    StorageSettings,
    TimerSettings,
    TransportSettings,
)
from skyring.settings.shared import NatsSettings, RingSettings

__all__ = ["Settings"]


class Settings(BaseSettings):
    """One node's settings; immutable."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # some values are secret
        env_prefix="SKYRING_",
        env_nested_delimiter="__",
    )

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(
        default=3000, ge=0, le=65_535, description="port to listen on; 0 takes a free one"
    )
    slots: int = Field(
        default=256,
        ge=1,
        le=65_536,
        description="partitions of the key space; fixed when a ring, or the storage of a node that"
        " stands alone, is made: for another number export, and import into a new one",
    )
    node: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_-]{0,64}$",
        description="name of this node, different on each; empty: host name and port",
    )
    advertise: str = Field(
        default="",
        pattern=r"^(https?://[^\s/?#@]+(/[^\s?#@]*)?)?$",
        description="URL at which others reach this node's API; empty: host and port",
    )
    nats: NatsSettings = NatsSettings()
    ring: RingSettings = RingSettings()
    storage: StorageSettings = StorageSettings()
    timers: TimerSettings = TimerSettings()
    delivery: DeliverySettings = DeliverySettings()
    transport: TransportSettings = TransportSettings()
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
