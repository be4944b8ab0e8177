"""What a callback may look like. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, NamedTuple, TypeAlias

from skyring.transports import InvalidRequest

__all__ = ["Method", "Target", "method_of", "read_target"]

Method: TypeAlias = Literal["push", "request"]

HOST_CHARS_MAX = 253
URI_CHARS_MAX = 300
PATH_BYTES_MAX = 107
"""What the address of a Unix socket has room for, on Linux."""
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")
NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
TCP = re.compile(r"tcp://(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:/;?#@]*)):(?P<port>[0-9]{1,5})")
IPC = "ipc://"


class Target(NamedTuple):
    """Where a callback leads to: a host and a port, or a path."""

    endpoint: str
    """As ZeroMQ writes it; the same for all spellings."""
    host: str
    """A name or an address; "" for a path."""
    port: int

    @property
    def destination(self) -> str:
        return f"zmq:{self.endpoint}"


def method_of(method: str) -> Method:
    """A method as this package spells it.

    Raises:
        InvalidRequest: naming ``callback.method``.
    """
    match method.lower():
        case "push":
            return "push"
        case "request":
            return "request"
    raise InvalidRequest("must be push or request", "callback.method")


def read_target(uri: str) -> Target:
    """The receiver that a URI leads to.

    Raises:
        InvalidRequest: naming ``callback.uri``.
    """
    if uri.startswith(IPC):
        path = uri.removeprefix(IPC)
        _check_path(path)
        return Target(uri, "", 0)
    match = TCP.fullmatch(uri) if len(uri) <= URI_CHARS_MAX else None
    if match is None:
        raise InvalidRequest(
            "must be tcp://host:port, an IPv6 address in brackets and nothing after the port,"
            " or ipc:///path",
            "callback.uri",
        )
    host = _host(match["host"]) if match["v6"] is None else _ipv6(match["v6"])
    port = int(match["port"])
    if not 0 < port <= 65_535:
        raise InvalidRequest("has no valid port", "callback.uri")
    shown = f"[{host}]" if ":" in host else host
    return Target(f"tcp://{shown}:{port}", host, port)


def _check_path(path: str) -> None:
    if not path.startswith("/") or path.endswith("/"):
        raise InvalidRequest("must name a socket by its whole path: ipc:///path", "callback.uri")
    if not path.isprintable() or "*" in path:
        raise InvalidRequest("holds a control character or a *", "callback.uri")
    if len(path.encode("utf-8", "replace")) > PATH_BYTES_MAX:
        raise InvalidRequest(
            f"has a path of more than {PATH_BYTES_MAX} bytes, which no socket can have",
            "callback.uri",
        )


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
