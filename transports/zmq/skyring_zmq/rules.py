"""What a callback may look like. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from skyring.transports import InvalidRequest, read_address

__all__ = ["Method", "Target", "method_of", "read_target"]

Method: TypeAlias = Literal["push", "request"]

PATH_BYTES_MAX = 107
"""What the address of a Unix socket has room for, on Linux."""
TCP = "tcp://"
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
    address = read_address(uri.removeprefix(TCP)) if uri.startswith(TCP) else None
    if address is None:
        raise InvalidRequest(
            "must be tcp://host:port, an IPv6 address in brackets and nothing after the port,"
            " or ipc:///path",
            "callback.uri",
        )
    return Target(f"tcp://{address}", address.host, address.port)


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
