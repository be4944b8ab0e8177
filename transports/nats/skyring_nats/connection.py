"""nats-py's client, with what a transport needs and the library has not got.

- `Connection.ping` proves what was published before it. The library's own ``flush`` does not: it
  writes its PING past the messages that are still waiting to be written, and once its reading task
  is dead it returns without any proof.
- The loss of the connection is told at once and in every case, as ``lost``. The library's callbacks
  can fail to come: when its reading task dies of an unforeseen error, or when closing fails.
- `Connection.dispose` frees everything without waiting for a server that may be silent; the
  library's ``close`` waits for what is unsent to be sent.
- ``tls://`` means TLS. The library goes on in the clear if the server does not ask for it.

All that reaches into the library stands in this file.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.client import PING_PROTO, Client, __version__
from nats.errors import UnexpectedEOF
from nats.protocol.parser import PERMISSIONS_ERR

from skyring.errors import ConfigError
from skyring_nats.access import Server
from skyring_nats.answers import one_line

__all__ = ["Connection", "ConnectionLost", "check_library", "told"]

logger = logging.getLogger(__name__)

NEVER_S = 10 * 365 * 86_400
"""For the library's own pings, which would go past what is waiting to be written."""
DISPOSE_S_MAX = 5

INTERNALS = (
    "_close",
    "_connect_command",
    "_flush_pending",
    "_pending",
    "_pending_data_size",
    "_pongs",
    "_process_err",
    "_process_op_err",
    "_reading_task",
    "_send_command",
    "_transport",
)


class ConnectionLost(Exception):
    """The connection is gone; the text says why. What was under way may have been taken or not."""


def check_library() -> None:
    """Is the installed nats-py one that this file can reach into?

    Raises:
        ConfigError: it is not.
    """
    client = Client()
    missing = [name for name in INTERNALS if not hasattr(client, name)]
    if missing:
        raise ConfigError(
            f"nats-py {__version__} is not known to this transport; install another one"
            f" (it has no {', '.join(missing)})"
        )


class Connection(Client):
    """One connection to one server. It is never made again: when it is lost, another one is.

    Args:
        server: where to.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._is_up = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone, with the reason."""
        self.on_refusal: Callable[[str], None] = _ignore
        """Called with the server's words, in lower case, when it denies a permission."""

    async def establish(self, arguments: Mapping[str, Any]) -> None:
        """Connect, and log in.

        Args:
            arguments: for ``Client.connect``: who connects, and the limits.

        Raises:
            Exception: there is no connection; the library lets errors of all kinds through.
        """
        await self.connect(
            servers=[self._server.url],
            error_cb=self._note,
            allow_reconnect=False,
            ping_interval=NEVER_S,
            **arguments,
        )
        # The library takes a connection that is closed after the log-in for a good one.
        if not self.is_connected or self._reading_task is None:
            raise ConnectionError("the server closed the connection")
        self._is_up = True
        # Whatever ends this task: nothing is heard of the server any more.
        self._reading_task.add_done_callback(self._reading_ended)

    async def ping(self) -> asyncio.Future[Any]:
        """Send a PING behind everything that was published.

        It can wait until there is room for it, as publishing can. The future that it returns is
        done when the server has read all that; it must not be cancelled.
        """
        pong: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        await self._send_command(PING_PROTO)
        await self._flush_pending()
        return pong

    def lose(self, reason: str) -> None:
        """From now on this connection is gone."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def dispose(self) -> None:
        """Cut the connection, and free everything. Nothing that is unsent is sent any more."""
        self.lose("it was given up")
        self._pending.clear()
        self._pending_data_size = 0
        self._abort()
        if self._reading_task is not None:
            try:
                async with asyncio.timeout(DISPOSE_S_MAX):
                    await self.close()
            except Exception as error:  # there is nobody any more to whom it matters
                logger.debug("closing failed: %s", told(error))

    def _abort(self) -> None:
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _connect_command(self) -> bytes:
        """The log-in. It holds the credentials, and nothing was sent before it."""
        writer = getattr(self._transport, "_io_writer", None)
        if self._server.needs_tls and (
            writer is None or writer.get_extra_info("ssl_object") is None
        ):
            raise ConnectionError("the server does not ask for TLS, so it is told nothing")
        return super()._connect_command()

    async def _note(self, error: Exception) -> None:
        """The library's error callback."""
        if not self._is_up:
            raise error  # otherwise it tries the same server again, after a while
        logger.debug("NATS: %s", told(error))

    async def _process_op_err(self, e: Exception) -> None:
        """The connection cannot be read or written. The library would close it, and wait."""
        self.lose(told(e))

    async def _process_err(self, err_msg: str) -> None:
        """The server complains: it has denied something, or is about to close the connection."""
        if PERMISSIONS_ERR in err_msg:
            self.on_refusal(err_msg.strip("'"))
        else:
            self.lose(f"the server says {one_line(err_msg)}")

    def _reading_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.lose("the connection failed" if error is None else told(error))


def told(error: BaseException) -> str:
    """An error of the library as a reason, the same on every event loop."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, UnexpectedEOF | ConnectionResetError | BrokenPipeError):
        return "the server closed the connection"
    text = re.sub(r"^(nats: |\[Errno -?\d+\] )", "", str(error))
    return one_line(text) or type(error).__name__


def _ignore(text: str) -> None:
    pass
