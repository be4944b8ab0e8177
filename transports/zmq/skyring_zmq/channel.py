"""One ZeroMQ socket with one connection. When that breaks, the channel is done for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple, TypeAlias

import zmq
from zmq.utils.monitor import parse_monitor_message

from skyring_zmq.rules import Method

__all__ = ["Broken", "Channel", "Context", "Curve", "SocketOptions", "new_socket"]

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"

DAY_MS = 86_400_000
ANSWER_FRAME_BYTES_MIN = 65_536
"""Up to here a reply that is too long fails alone; beyond, ZeroMQ closes the connection for it."""
BATCH = 256
"""Replies that are read before the rest of the program gets its turn."""
EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
FITTING = {"push": "PULL", "request": "REP or ROUTER"}


class Broken(Exception):
    """It will not be delivered now. ``str(error)`` is the reason, for a person."""


class Curve(NamedTuple):
    """Keys in Z85."""

    server_key: bytes
    public_key: bytes
    secret_key: bytes


class SocketOptions(NamedTuple):
    """What all sockets of a transport have in common."""

    send_queue_max: int
    answer_bytes_max: int
    connect_timeout_ms: int
    heartbeat_ms: int
    linger_ms: int
    curve: Curve | None


class _Message(NamedTuple):
    frames: Sequence[bytes]
    done: asyncio.Future[bytes]
    """With the reply; with nothing in it when a message is pushed."""


def new_socket(context: Context, method: Method, options: SocketOptions) -> zmq.Socket[bytes]:
    """A socket that is not connected yet.

    Raises:
        zmq.ZMQError: the system has no room for it, or a key is none.
    """
    made: zmq.Socket[bytes] = context.socket(zmq.PUSH if method == "push" else zmq.DEALER)
    try:
        made.linger = 0
        made.sndhwm = made.rcvhwm = options.send_queue_max
        made.set(zmq.MAXMSGSIZE, max(options.answer_bytes_max, ANSWER_FRAME_BYTES_MIN))
        made.set(zmq.HANDSHAKE_IVL, 2 * options.connect_timeout_ms)  # `connect` is there before
        made.set(zmq.HEARTBEAT_IVL, options.heartbeat_ms)
        made.set(zmq.HEARTBEAT_TIMEOUT, options.heartbeat_ms)
        # Each connection gets a socket of its own. But -1, which stands for never, would throw
        # away the replies that have come when the connection ends.
        made.set(zmq.RECONNECT_IVL, DAY_MS)
        # So that nothing is taken for a connection that is lost. With requests, where it does not
        # matter, it would throw away replies too.
        made.set(zmq.IMMEDIATE, int(method == "push"))
        if options.curve is not None:
            made.curve_serverkey, made.curve_publickey, made.curve_secretkey = options.curve
    except BaseException:
        made.close()
        raise
    return made


class Channel:
    """Sends on one connection; `connect` first, `close` in the end.

    The descriptor of a ZeroMQ socket tells only that something may have changed, and once. So
    after whatever is done with the socket, `_work` looks until there is nothing left to do.

    Args:
        context: where sockets are made.
        method: push or request.
        options: of the socket.
        on_closed: called once when it is done for.

    Raises:
        Broken: there is no room for another socket.
    """

    def __init__(
        self,
        context: Context,
        method: Method,
        options: SocketOptions,
        on_closed: Callable[[Channel], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._method = method
        self._options = options
        self._on_closed = on_closed
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._unsent: OrderedDict[bytes, _Message] = OrderedDict()
        self._unanswered: dict[bytes, asyncio.Future[bytes]] = {}
        self._numbers = count(1)
        self._is_scheduled = False
        self._why: str | None = None
        self._hint = "the receiver closed the connection"
        try:
            self._socket = new_socket(context, method, options)
            try:
                self._monitor = self._socket.get_monitor_socket(EVENTS)
            except BaseException:
                self._socket.close()
                raise
        except zmq.ZMQError as error:
            raise Broken(f"no socket can be made: {error.strerror}") from error
        self._loop.add_reader(self._monitor.FD, self._watch)
        self._loop.add_reader(self._socket.FD, self._work)

    @property
    def is_usable(self) -> bool:
        """Is it connected, as far as is known?"""
        return self._why is None

    async def connect(self, endpoint: str) -> None:
        """Return when the receiver has shaken hands.

        Args:
            endpoint: with a path or an address, no name: ZeroMQ would look it up in the thread
                that serves all sockets.

        Raises:
            Broken: it has not.
        """
        self._hint = "no connection: nobody listens there, or it cannot be reached"
        timeout_ms = self._options.connect_timeout_ms
        try:
            if "[" in endpoint:
                self._socket.set(zmq.IPV6, 1)
            self._socket.connect(endpoint)
            self._watch()
            async with asyncio.timeout(timeout_ms / 1000):
                await self._ready
        except zmq.ZMQError as error:
            raise Broken(f"cannot be used: {error.strerror}") from error
        except TimeoutError:
            raise Broken(f"no connection within {timeout_ms} ms") from None
        if self._why is not None:
            raise Broken(self._why)

    async def send(self, message: bytes) -> bytes:
        """Send a message; the reply to a request, nothing for a push.

        Raises:
            Broken: the connection is lost.
        """
        if self._why is not None:
            raise Broken(self._why)
        number = next(self._numbers).to_bytes(8, "big")
        frames = [message] if self._method == "push" else [number, b"", message]
        done: asyncio.Future[bytes] = self._loop.create_future()
        self._unsent[number] = _Message(frames, done)
        self._schedule()
        try:
            return await done
        finally:
            # A reply that comes after this is not known any more.
            self._unsent.pop(number, None)
            self._unanswered.pop(number, None)

    def close(self) -> None:
        """Free the socket; what was pushed has ``linger_ms`` to leave."""
        linger_ms = self._options.linger_ms if self._method == "push" else 0
        self._fail("the connection was closed", linger_ms)

    # Inside

    def _schedule(self) -> None:
        """Work in the next turn of the event loop, for all that is to be sent in this one."""
        if not self._is_scheduled and self._why is None:
            self._is_scheduled = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._is_scheduled = False
        if self._why is not None:
            return
        try:
            self._send_all()
            self._receive(BATCH)
            events = int(self._socket.get(zmq.EVENTS))
        except zmq.ZMQError as error:
            self._fail(f"the socket is broken: {error.strerror}")
            return
        if events & zmq.POLLIN or (events & zmq.POLLOUT and self._unsent):
            self._schedule()

    def _send_all(self) -> None:
        """Send what the socket takes, in order."""
        while self._unsent:
            number, message = next(iter(self._unsent.items()))
            if message.done.done():  # it was given up
                del self._unsent[number]
                continue
            try:
                self._socket.send_multipart(message.frames, zmq.NOBLOCK)
            except zmq.Again:
                return
            del self._unsent[number]
            if self._method == "push":
                message.done.set_result(b"")
            else:
                self._unanswered[number] = message.done

    def _receive(self, replies_max: int | None) -> None:
        """Read the replies that have come; None for all of them."""
        if self._method == "push":
            return
        while replies_max != 0:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if replies_max is not None:
                replies_max -= 1
            done = self._unanswered.pop(frames[0], None)
            if done is None or done.done():  # the request was given up
                continue
            if len(frames) == 3 and not frames[1]:
                done.set_result(frames[2])
            else:
                done.set_exception(Broken("the reply is not of the form id, empty frame, answer"))

    def _watch(self) -> None:
        """What has become of the connection?"""
        while self._why is None:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event = parse_monitor_message(frames)
            self._notice(int(event["event"]), int(event["value"]))

    def _notice(self, event: int, value: int) -> None:
        match event:
            case zmq.EVENT_CONNECTED:
                self._hint = (
                    f"the handshake failed: is a {FITTING[self._method]} socket there,"
                    " with the same security?"
                )
                if _is_connected_to_itself(value):
                    self._fail("no connection: nobody listens there")
            case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._hint = "the receiver closed the connection"
                if not self._ready.done():
                    self._ready.set_result(None)
            case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._hint = f"the receiver does not accept the key: {value}"
            case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._hint += f" (ZeroMQ error 0x{value:x})"
            case zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED:
                self._end()

    def _end(self) -> None:
        """The connection is gone, but answers may have come before."""
        with contextlib.suppress(zmq.ZMQError):
            self._receive(None)
        self._fail(self._hint)

    def _fail(self, reason: str, linger_ms: int = 0) -> None:
        """Free everything; whoever waits is told why."""
        if self._why is not None:
            return
        self._why = reason
        self._loop.remove_reader(self._monitor.FD)
        self._loop.remove_reader(self._socket.FD)
        self._socket.disable_monitor()  # first; otherwise it would wait for a reader for ever
        self._monitor.close()
        self._socket.close(linger_ms)
        if not self._ready.done():
            self._ready.set_exception(Broken(reason))
            self._ready.exception()  # seen, should nobody wait for it any more
        for done in (*self._unanswered.values(), *(item.done for item in self._unsent.values())):
            if not done.done():
                done.set_exception(Broken(reason))
        self._on_closed(self)


def _is_connected_to_itself(descriptor: int) -> bool:
    """On one machine a client that picks the port it calls can be connected to itself.

    It would take its own request for the reply.
    """
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            return connection.family != socket.AF_UNIX and (
                connection.getsockname() == connection.getpeername()
            )
    except OSError:  # it is gone already
        return False
