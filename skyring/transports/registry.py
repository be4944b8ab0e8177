"""Which transports a node has."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from skyring.errors import ConfigError
from skyring.settings import DeliverySettings, TransportSettings, fold_name
from skyring.transports.base import Transport, TransportOptions, told
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
    options = dict(settings.options)
    for found in _found(settings.load, more):
        name = _name(found)
        same = {fold_name(other): other for other in loaded}.get(fold_name(name))
        if same is not None and same != name:
            raise ConfigError(f"{same!r} and {name!r} are one name where options are given")
        if name in loaded:
            raise ConfigError(
                f"two transports have the name {name!r}: {loaded[name].source} and {found.source}"
            )
        loaded[name] = Loaded(
            _configured(found, name, options.pop(fold_name(name), {})), found.source
        )
    for name, given in options.items():
        path = ".".join(["transport", name, *list(given)[:1]])
        if name in loaded:
            raise ConfigError(f"unknown option {path}: the transport {name!r} has none")
        raise ConfigError(
            f"{path}: no transport {name!r} is loaded (loaded:"
            f" {', '.join(loaded)}); load it with --transport"
        )
    return loaded


def _found(specs: Iterable[str], more: Iterable[TransportSpec]) -> Iterator[Found]:
    for spec in [*specs, *([more] if isinstance(more, str) else more)]:
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
    if not isinstance(found.given, type) and not given and hasattr(found.given, "options"):
        return found.given
    own = {} if isinstance(found.given, type) else _own_options(found.given)
    try:
        options = cls.Options.model_validate({**own, **given})
    except ValidationError as error:
        raise ConfigError(_explain(error, name, cls)) from error
    transport = _made(found, options)
    try:
        transport.options = options
    except Exception as error:  # a frozen class
        if cls.Options.model_fields:
            raise ConfigError(f"{found.source} does not take its options: {told(error)}") from error
    return transport


def _own_options(transport: Transport) -> dict[str, Any]:
    options: object = getattr(transport, "options", None)
    if not isinstance(options, TransportOptions):
        return {}
    return {name: getattr(options, name) for name in options.model_fields_set}


def _made(found: Found, options: Transport.Options) -> Transport:
    if not isinstance(found.given, type):
        return found.given
    try:
        if "options" in inspect.signature(found.given).parameters:
            return found.given(options=options)
        return found.given()
    except (Exception, SystemExit) as error:  # it may be anybody's code
        raise ConfigError(
            f"{found.source} cannot be made without arguments: {told(error)}"
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
