"""Where the broker is, and how a connection to it is made."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import aiormq
from pamqp.common import FieldTable
from yarl import URL

from skyring.errors import ConfigError
from skyring.version import VERSION

__all__ = ["Address", "Server", "read_url"]

PORTS = {"amqp": 5672, "amqps": 5671}
PATH = re.compile(r"/?([^/]*)")
FORMS = "amqp://host:port/vhost or amqps://host:port/vhost; a slash in the vhost is written as %2F"
CLIENT: FieldTable = {"product": "Skyring", "version": VERSION, "information": ""}
"""What the broker shows to its operators."""


class Address(NamedTuple):
    """What the option ``url`` says."""

    scheme: str
    host: str
    port: int
    vhost: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}:{host}:{self.port}"


def read_url(url: str) -> Address:
    """The address in a URL of one of the `FORMS`.

    Raises:
        ConfigError: it is none, or holds credentials. It is not quoted then.
    """
    try:
        parts = urlsplit(url)
        port = PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    except ValueError:
        raise _malformed() from None
    if "@" in parts.netloc:
        raise ConfigError(
            "transport.amqp.url holds credentials: they are given as transport.amqp.user and"
            " transport.amqp.password"
        )
    vhost = PATH.fullmatch(parts.path)
    if parts.scheme not in PORTS or not parts.hostname or not port or vhost is None:
        raise _malformed()
    # A query could switch off the verification of certificates, among other things.
    if parts.query or parts.fragment:
        raise _malformed()
    return Address(parts.scheme, parts.hostname, port, unquote(vhost[1]) or "/")


def _malformed() -> ConfigError:
    return ConfigError(f"transport.amqp.url has to be of the form {FORMS}")


class _Opened(aiormq.TransportFactory):
    """Hands over a socket that is open already.

    The client logs an error of its own for every socket that it fails to open. And whoever holds
    the socket can abort it, when the client would wait for a broker that does not answer.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams = reader, writer

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._streams


class Server:
    """Makes connections.

    Args:
        heartbeat_s: how often the broker is to give a sign of life, seconds.
        tls: needed for an address with TLS.
    """

    def __init__(
        self,
        address: Address,
        user: str,
        password: str,
        heartbeat_s: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._address = address
        self._tls = tls
        url = URL.build(
            scheme=address.scheme,
            user=user,
            password=password,
            host=address.host,
            port=address.port,
        )
        self._url = url.with_path("/" + quote(address.vhost, safe=""), encoded=True).with_query(
            heartbeat=heartbeat_s, name=f"skyring {VERSION}"
        )

    def __str__(self) -> str:
        return str(self._address)

    async def connect(self, timeout_s: float) -> tuple[aiormq.Connection, asyncio.WriteTransport]:
        """A connection that is open, and the socket under it.

        Raises:
            TimeoutError: it took longer.
            Exception: anything else that the client comes to.
        """
        async with asyncio.timeout(timeout_s) as limit:
            reader, writer = await asyncio.open_connection(
                self._address.host, self._address.port, ssl=self._tls
            )
        connection = aiormq.Connection(
            self._url, transport_factory=_Opened(reader, writer), client_properties=CLIENT
        )
        # If it were cancelled, the client would wait for the end of the socket first.
        deadline_s = limit.when()
        assert deadline_s is not None
        abort = asyncio.get_running_loop().call_at(deadline_s, writer.transport.abort)
        try:
            await connection.connect()
        except aiormq.InvalidFrameError as error:
            # The client does not understand the refusal, and has dropped its text.
            if "Connection.Close" in str(error):
                raise ConnectionError(
                    f"there is no virtual host {self._address.vhost!r}, or the user may not use it"
                ) from error
            raise
        except Exception:
            if asyncio.get_running_loop().time() >= deadline_s:
                raise TimeoutError from None
            raise
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            abort.cancel()
        return connection, writer.transport
