"""Which transports a node has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from skyring.errors import ConfigError
from skyring.settings import DeliverySettings, TransportSettings
from skyring.transports.base import Transport
from skyring.transports.http import Http
from skyring.transports.loading import Found, TransportSpec, find
from skyring.version import VERSION

__all__ = ["Loaded", "load_transports"]

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RESERVED = frozenset({"load"})
"""Names that stand for something else where the options of transports are given."""


class Loaded(NamedTuple):
    """A transport with its options, and where it comes from, in words."""

    transport: Transport
    source: str


def load_transports(
    delivery: DeliverySettings,
    settings: TransportSettings,
    more: Iterable[TransportSpec] = (),
) -> dict[str, Loaded]:
    """The built-in transport, those of the settings and the given ones, by name.

    Raises:
        ConfigError: one is not there, is no transport, has a name that is taken, or options that
            it does not know.
    """
    builtin = Http(
        answer_bytes_max=delivery.answer_bytes_max,
        retry_after_ms_max=delivery.retry_after_ms_max,
        connections_per_host_max=delivery.in_flight_per_destination_max,
        user_agent=f"skyring/{VERSION}",
    )
    loaded = {builtin.name: Loaded(builtin, "built in")}
    options = {_env_name(name): given for name, given in settings.options.items()}
    for found in _found(settings.load, more):
        name = _name(found)
        if name in loaded:
            raise ConfigError(
                f"two transports have the name {name!r}: {loaded[name].source} and {found.source}"
            )
        loaded[name] = Loaded(
            _configured(found, name, options.pop(_env_name(name), {})), found.source
        )
    for name, given in options.items():
        key = next(iter(given), "")
        if name in loaded:
            raise ConfigError(f"the transport {name!r} has no option {key!r}")
        raise ConfigError(
            f"transport.{name}.{key}: no transport {name!r} is loaded (loaded:"
            f" {', '.join(loaded)}); load it with --transport"
        )
    return loaded


def _env_name(name: str) -> str:
    """A transport's name as the environment can spell it."""
    return name.replace("-", "_")


def _found(specs: Iterable[str], more: Iterable[TransportSpec]) -> Iterator[Found]:
    for spec in [*specs, *more]:
        if spec != Http.name:  # whoever asks for it has it already
            yield find(spec)


def _name(found: Found) -> str:
    name: object = found.given.name
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{found.source}: a transport's name has 1 to 64 of a-z, 0-9, - and _, not {name!r}"
        )
    if name in RESERVED:
        raise ConfigError(f"{found.source}: no transport can have the name {name!r}")
    return name


def _configured(found: Found, name: str, given: Mapping[str, Any]) -> Transport:
    """The transport with its options; an object that was handed over keeps those it has."""
    cls = found.given if isinstance(found.given, type) else type(found.given)
    own = {} if isinstance(found.given, type) else _own_options(found.given)
    try:
        options = cls.Options.model_validate({**own, **given})
    except ValidationError as error:
        raise ConfigError(_explain(error, name, cls)) from error
    transport = _made(found)
    transport.options = options
    return transport


def _own_options(transport: Transport) -> dict[str, Any]:
    options = getattr(transport, "options", None)
    return (
        {}
        if options is None
        else {name: getattr(options, name) for name in options.model_fields_set}
    )


def _made(found: Found) -> Transport:
    if not isinstance(found.given, type):
        return found.given
    try:
        return found.given()
    except Exception as error:  # it may be anybody's code
        raise ConfigError(
            f"{found.source} cannot be made without arguments: {type(error).__name__}: {error}"
        ) from error


def _explain(error: ValidationError, name: str, cls: type[Transport]) -> str:
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(["transport", name, *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden":
            known = ", ".join(cls.Options.model_fields) or "none"
            lines.append(f"unknown option {path} (it has: {known})")
        elif item["type"] == "missing":
            lines.append(f"{path} has to be given")
        else:  # the value is not quoted: it may be a secret
            lines.append(f"{path}: {item['msg']}")
    return "; ".join(lines)
