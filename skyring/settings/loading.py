"""Settings from the command line, the environment and a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from skyring.errors import ConfigError
from skyring.settings.group import Group
from skyring.settings.node import Settings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["load_settings"]


class _Environment(EnvSettingsSource):
    """The environment, where ``SKYRING_RING`` stands beside ``SKYRING_RING__…``."""

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        group = _group(field)
        if group is None or group.main is None:
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        inner: dict[str, Any] = self.explode_env_vars(field_name, field, self.env_vars)
        return (inner or None) if value is None else {group.main: value, **inner}


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
    for name, field in Settings.model_fields.items():
        group = _group(field)
        if group is not None and name in file:
            file[name] = group.spread(file[name])  # so that settings of elsewhere join them
    try:
        loaded = _Loaded(cli_options=dict(options or {}), toml_file=file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    except SettingsError as error:
        raise ConfigError(f"in the environment: {error}") from error
    return Settings.model_validate(loaded.model_dump())


def _group(field: FieldInfo) -> type[Group] | None:
    """The group that stands in this field; None for a setting outside every group."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Group) else None


def _explain(error: ValidationError) -> str:
    return "; ".join(_explain_one(item) for item in error.errors(include_url=False))


def _explain_one(item: ErrorDetails) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown setting {path}"
    if item["type"] == "value_error":  # one of ours, which says all there is to say
        return f"{path}: {item['ctx']['error']}"
    group = _group(Settings.model_fields[str(item["loc"][0])])
    if item["loc"][0] == "transport":
        return f"{path}: {item['msg']}; options are given as transport.NAME.KEY"
    if group is not None and group.may_be_secret:
        return f"{path}: {item['msg']}"
    return f"{path}: {item['msg']}, got {item['input']!r}"
