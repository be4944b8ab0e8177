"""TLS of whoever connects to a server."""

from __future__ import annotations

import ssl
from pathlib import Path

from skyring.errors import ConfigError

__all__ = ["client_tls"]


def client_tls(ca_file: Path | str | None, option: str) -> ssl.SSLContext:
    """Verifies certificates, by those of a PEM file or of the machine. Takes some 20 ms.

    Args:
        ca_file: None takes those of the machine.
        option: what the file was given as, such as ``transport.tcp.ca_file``.

    Raises:
        ConfigError: naming the option: there are no certificates in the file.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError(f"{option}: {ca_file} holds no certificates in PEM form") from error
    except OSError as error:
        raise ConfigError(f"{option}: {ca_file}: {error.strerror or error}") from error
