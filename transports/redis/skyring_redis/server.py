"""Where the Redis server is, and how a connection to it is made."""

from __future__ import annotations

import re
import ssl
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)

from skyring.errors import ConfigError

__all__ = ["Address", "Server", "read_url"]

PORT = 6379
UNIX_QUERY = re.compile(r"(?:db=(\d{1,9}))?", re.ASCII)
DB_PATH = re.compile(r"/?(\d{0,9})", re.ASCII)
FORMS = "redis://host:port/db, rediss://host:port/db or unix:///path?db=0"


class Address(NamedTuple):
    """What the option ``url`` says. Either ``host`` or ``path`` is set."""

    host: str
    port: int
    path: str
    db: int
    tls: bool

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}:{host}:{self.port}"


def read_url(url: str) -> Address:
    """The address in a URL of one of the `FORMS`.

    Raises:
        ConfigError: it is none, or holds credentials. It is not quoted then.
    """
    try:
        parts = urlsplit(url)
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise _malformed() from None
    if "@" in parts.netloc or "password" in parts.query or "username" in parts.query:
        raise ConfigError(
            "transport.redis.url holds credentials: they are given as transport.redis.username"
            " and transport.redis.password"
        )
    match parts.scheme:
        case "redis" | "rediss":
            return _read_tcp(parts, port)
        case "unix":
            return _read_unix(parts)
    raise _malformed()


def _read_tcp(parts: SplitResult, port: int) -> Address:
    db = DB_PATH.fullmatch(parts.path)
    if not parts.hostname or not port or db is None or parts.query or parts.fragment:
        raise _malformed()
    return Address(parts.hostname, port, "", int(db[1] or "0"), parts.scheme == "rediss")


def _read_unix(parts: SplitResult) -> Address:
    query = UNIX_QUERY.fullmatch(parts.query)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or query is None or parts.fragment:
        raise _malformed()
    return Address("", 0, path, int(query[1] or "0"), tls=False)


def _malformed() -> ConfigError:
    return ConfigError(f"transport.redis.url has to be of the form {FORMS}")


class Server:
    """Makes connections that are not open yet.

    Args:
        tls: needed for an address with TLS.
    """

    def __init__(
        self,
        address: Address,
        username: str | None,
        password: str | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._address = address
        self._tls = tls
        self._common: dict[str, Any] = {
            "username": username,
            "password": password,
            "db": address.db,
            "protocol": 2,  # what is read here is the same in 3, which takes a HELLO more
            "driver_info": None,  # nothing is said about this program that nobody asked for
            # Both default to 5 seconds; `Sender` bounds connecting and waiting as a whole.
            "socket_timeout": None,
            "socket_connect_timeout": None,
        }

    def __str__(self) -> str:
        return str(self._address)

    def connection(self) -> AbstractConnection:
        """One that tries nothing again by itself: it has no ``retry``."""
        address = self._address
        if address.path:
            return UnixDomainSocketConnection(path=address.path, **self._common)
        if self._tls is None:
            return Connection(host=address.host, port=address.port, **self._common)
        connection = SSLConnection(host=address.host, port=address.port, **self._common)
        # Otherwise each would read all certificates of the machine anew, on the event loop.
        connection.ssl_context.context = self._tls
        return connection
