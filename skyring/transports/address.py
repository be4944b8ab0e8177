"""``host:port`` as it stands in a callback's URI, for transports that connect to it. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from skyring.errors import InvalidRequest

__all__ = ["Address", "read_address"]

HOST_CHARS_MAX = 253
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")
NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:/;?#@]*)):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """A host and a port; the same for all spellings of them."""

    host: str
    """A name in lower case, or an IP address without brackets."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def read_address(text: str) -> Address | None:
    """A host and its port, an IPv6 address in brackets; None if it is not of that form.

    Raises:
        InvalidRequest: naming ``callback.uri``: the host or the port cannot be one.
    """
    match = ADDRESS.fullmatch(text)
    if match is None:
        return None
    host = _host(match["host"]) if match["v6"] is None else _ipv6(match["v6"])
    port = int(match["port"])
    if not 0 < port <= 65_535:
        raise InvalidRequest("has no valid port", "callback.uri")
    return Address(host, port)


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:
        raise InvalidRequest("has no valid IPv6 address in its brackets", "callback.uri")
    return str(address)


def _host(text: str) -> str:
    if len(text) > HOST_CHARS_MAX or NAME.fullmatch(text) is None:
        raise InvalidRequest("has no valid host", "callback.uri")
    if NUMBER.fullmatch(text.rpartition(".")[2]):
        # The system would take 127.1 or 0x7f.1 for an address too, and others for a name.
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise InvalidRequest("has no valid IPv4 address", "callback.uri") from None
    return text.lower()
