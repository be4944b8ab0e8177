"""Which transports a node has."""

from __future__ import annotations

from collections.abc import Iterable

from skyring.errors import ConfigError
from skyring.settings import DeliverySettings
from skyring.transports.base import Transport
from skyring.transports.http import Http
from skyring.version import VERSION

__all__ = ["load_transports"]


def load_transports(
    settings: DeliverySettings, more: Iterable[Transport | type[Transport]] = ()
) -> dict[str, Transport]:
    """The built-in transport and the given ones, by name.

    Raises:
        ConfigError: one is no transport, or its name is taken.
    """
    builtin = Http(
        answer_bytes_max=settings.answer_bytes_max,
        retry_after_ms_max=settings.retry_after_ms_max,
        connections_per_host_max=settings.in_flight_per_destination_max,
        user_agent=f"skyring/{VERSION}",
    )
    loaded: dict[str, Transport] = {builtin.name: builtin}
    for given in more:
        transport = given() if isinstance(given, type) else given
        if not isinstance(transport, Transport):
            raise ConfigError(f"{given!r} is not a Transport")
        if transport.name in loaded:
            raise ConfigError(f"two transports have the name {transport.name!r}")
        loaded[transport.name] = transport
    return loaded
