"""nats-py's client, with what is needed here and the library has not got.

- `Connection.prove` proves what was published before it. The library's own ``flush`` does not: it
  writes its PING past the messages that are still waiting to be written, and once its reading task
  is dead it returns without any proof.
- The loss of the connection is told at once and in every case, as ``lost``. The library's callbacks
  can fail to come: when its reading task dies of an unforeseen error, or when closing fails.
- `Connection.dispose` frees everything without waiting for a server that may be silent; the
  library's ``close`` waits for what is unsent to be sent.
- ``tls://`` means TLS. The library goes on in the clear if the server does not ask for it, and does
  not tell its stream that TLS has begun.
- Messages are written and handed on without a queue and a task for each subscription: all that is
  put in one turn of the event loop is one write, and `Connection.listen` calls back at once.

All that reaches into the library stands in this file and in ``parser.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.client import PING_PROTO, Client, __version__
from nats.errors import UnexpectedEOF
from nats.protocol.parser import PERMISSIONS_ERR

from skyring.errors import ConfigError
from skyring.nats.access import Server
from skyring.nats.message import one_line
from skyring.nats.parser import Parser, Take

__all__ = ["Connection", "ConnectionLost", "check_library", "told"]

logger = logging.getLogger(__name__)

NEVER_S = 10 * 365 * 86_400
"""For the library's own pings, which would go past what is waiting to be written."""
DISPOSE_S_MAX = 5
AUTHORIZATION = "authorization violation"
PENDING_BYTES = 2 << 20
"""The library's own default."""

INTERNALS = (
    "_close",
    "_connect_command",
    "_flush_pending",
    "_process_err",
    "_process_info",
    "_process_msg",
    "_process_op_err",
    "_process_ping",
    "_process_pong",
    "_ps",
    "_read_loop",
    "_reading_task",
    "_send_command",
    "_sid",
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
            f"nats-py {__version__} is not known to this program; install another one"
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
        self._loop = asyncio.get_running_loop()
        self._ps: Any = Parser(self)
        self._writer: asyncio.StreamWriter | None = None
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._buffered_bytes = 0
        self._flush_is_due = False
        self._unproven: list[Callable[[], None]] = []
        self._proofs: deque[list[Callable[[], None]]] = deque()
        self._room_bytes = PENDING_BYTES
        self.takers: dict[bytes, Take] = {}
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Done when the connection is gone, with the reason."""
        self.on_refusal: Callable[[str], None] = _ignore
        """Called with the server's words when it denies a permission."""

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
        self._writer = self._io_writer()
        self._room_bytes = arguments.get("pending_size", PENDING_BYTES)
        if self._writer is not None:
            self._writer.transport.set_write_buffer_limits(
                high=self._room_bytes, low=self._room_bytes // 4
            )
        self._flush()

    # Writing

    @property
    def has_room(self) -> bool:
        """May more be put? If not, wait for `drain`."""
        if self._unwritten_bytes + self._buffered_bytes < self._room_bytes:
            return True
        if self._writer is not None:  # it may have been written since it was last looked at
            self._buffered_bytes = self._writer.transport.get_write_buffer_size()
        return self._unwritten_bytes + self._buffered_bytes < self._room_bytes

    @property
    def unsent_bytes(self) -> int:
        """What was put and not taken by the system, about."""
        return self._unwritten_bytes + self._buffered_bytes

    def put(self, data: bytes) -> None:
        """Have it written, together with all that is put in this turn of the event loop.

        It is for the caller to look whether it has room.
        """
        self._unwritten.append(data)
        self._unwritten_bytes += len(data)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def prove(self, proven: Callable[[], None]) -> None:
        """Call back when the server has read all that was put until now."""
        self._unproven.append(proven)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def ping(self) -> asyncio.Future[None]:
        """Done when the server has read all that was put until now."""
        pong: asyncio.Future[None] = self._loop.create_future()
        self.prove(lambda: None if pong.done() else pong.set_result(None))
        return pong

    async def drain(self) -> None:
        """Returns when there is room.

        Raises:
            OSError: the connection is lost.
        """
        self._flush()
        if self._writer is not None:
            await asyncio.sleep(0)  # uvloop writes, and looks at its limits, between two turns
            await self._writer.drain()
            self._buffered_bytes = self._writer.transport.get_write_buffer_size()

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._writer is None or self.lost.done():
            return
        if self._unproven:
            self._proofs.append(self._unproven)
            self._unproven = []
            self._unwritten.append(PING_PROTO)
        transport = self._writer.transport
        if transport.is_closing():  # uvloop raises on a write; the reading task hears of it later
            self.lose("the server closed the connection")
            return
        if self._unwritten:
            transport.write(b"".join(self._unwritten))
            self._unwritten.clear()
            self._unwritten_bytes = 0
        self._buffered_bytes = transport.get_write_buffer_size()

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        """The library's way to write."""
        self.put(cmd)

    async def _flush_pending(self, force_flush: bool = False) -> None:
        """Nothing is left to be done: `put` sees to it."""

    # Reading

    def listen(self, subject: str, take: Take, queue: str = "") -> bytes:
        """Subscribe; the number of the subscription.

        Args:
            take: called by the reading task; raises nothing.
        """
        self._sid += 1
        sid = b"%d" % self._sid
        self.takers[sid] = take
        self.put(f"SUB {subject} {queue} ".encode() + sid + b"\r\n")
        return sid

    def unlisten(self, sid: bytes) -> None:
        """End a subscription."""
        if self.takers.pop(sid, None) is not None:
            self.put_unsub(sid)

    def put_unsub(self, sid: bytes) -> None:
        """Have nothing more sent for a subscription; what is on its way is still taken."""
        if not self.lost.done():
            self.put(b"UNSUB %b\r\n" % sid)

    async def _process_pong(self) -> None:
        if self._proofs:
            for proven in self._proofs.popleft():
                proven()

    async def _process_op_err(self, e: Exception) -> None:
        """The connection cannot be read or written. The library would close it, and wait."""
        self.lose(told(e))

    async def _process_err(self, err_msg: str) -> None:
        """The server complains: it has denied something, or is about to close the connection."""
        if PERMISSIONS_ERR in err_msg.lower():
            self.on_refusal(err_msg.strip("'"))
        else:
            self.lose(f"the server says {one_line(err_msg)}")

    def _reading_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.lose("the connection failed" if error is None else told(error))

    # The end

    def lose(self, reason: str) -> None:
        """From now on this connection is gone."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def dispose(self) -> None:
        """Cut the connection, and free everything. Nothing that is unsent is sent any more."""
        self.lose("it was given up")
        self._unwritten.clear()
        self._unproven.clear()
        self._proofs.clear()
        self.takers.clear()
        writer = self._io_writer()
        if writer is not None:
            writer.transport.abort()
        if self._reading_task is not None:
            try:
                async with asyncio.timeout(DISPOSE_S_MAX):
                    await self.close()
            except Exception as error:  # there is nobody any more to whom it matters
                logger.debug("closing failed: %s", told(error))

    def _io_writer(self) -> asyncio.StreamWriter | None:
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer

    def _connect_command(self) -> bytes:
        """The log-in. It holds the credentials, and nothing was sent before it."""
        writer = self._io_writer()
        if writer is not None and writer.get_extra_info("ssl_object") is not None:
            _tell_of_tls(writer.transport)
        elif self._server.needs_tls:
            raise ConnectionError("the server does not ask for TLS, so it is told nothing")
        return super()._connect_command()

    async def _note(self, error: Exception) -> None:
        """The library's error callback."""
        if not self._is_up:
            raise error  # otherwise it tries the same server again, after a while
        logger.debug("NATS: %s", told(error))


def _tell_of_tls(transport: asyncio.WriteTransport) -> None:
    """Tell the stream that its transport is another one now; the library does not (#574).

    Otherwise the stream would not pause a server that sends faster than it is read, and would leave
    a warning at the end of each connection.
    """
    with contextlib.suppress(AssertionError):  # it has been told
        transport.get_protocol().connection_made(transport)


def told(error: BaseException) -> str:
    """An error of the library as a reason, the same on every event loop."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, UnexpectedEOF | ConnectionResetError | BrokenPipeError):
        return "the server closed the connection"
    text = re.sub(r"^(nats: |\[Errno -?\d+\] )", "", str(error))
    if AUTHORIZATION in text.lower():
        return "the server does not accept the credentials (Authorization Violation)"
    return one_line(text) or type(error).__name__


def _ignore(text: str) -> None:
    pass
