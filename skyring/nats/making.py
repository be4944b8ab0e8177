"""The link of a node, from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyring.nats.access import credentials, read_servers
from skyring.nats.connection import check_library
from skyring.nats.link import Link
from skyring.settings import NatsSettings
from skyring.tls import client_tls

__all__ = ["make_link"]


def make_link(settings: NatsSettings, client_name: str) -> Link:
    """A link that is not started yet. Reads the files that the settings name, at once.

    Args:
        client_name: what the server's monitoring shows.

    Raises:
        ConfigError: a setting can never work.
    """
    check_library()
    servers = read_servers(settings.servers, "nats", needs_tls=settings.ca_file is not None)
    arguments = _access(settings)
    return Link(
        servers,
        {
            **arguments,
            "name": client_name,
            "pending_size": settings.pending_bytes_max,
            "connect_timeout": settings.connect_timeout_ms / 1000,
        },
        connect_timeout_ms=settings.connect_timeout_ms,
        reconnect_pause_ms=settings.reconnect_pause_ms,
        echo_interval_ms=settings.echo_interval_ms,
        echo_timeout_ms=settings.echo_timeout_ms,
    )


def _access(settings: NatsSettings) -> Mapping[str, Any]:
    return {**credentials(settings, "nats"), "tls": client_tls(settings.ca_file, "nats.ca_file")}
