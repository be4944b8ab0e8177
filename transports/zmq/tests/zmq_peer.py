"""Receivers for the tests of the zmq transport, in this process or in one of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from skyring.ports import free_port
from skyring.testing import Peer
from skyring.timers.attempt import Attempts
from skyring.transports import Callback, DeliveryInfo, Outcome
from skyring_zmq import Zmq

KINDS = {"pull": zmq.PULL, "rep": zmq.REP, "router": zmq.ROUTER}
DUE_MS = 1_700_000_000_000
NOBODY = "no connection: nobody listens there, or it cannot be reached"
CLOSED = "the receiver closed the connection"
Reply = Callable[[bytes], bytes | list[bytes] | None]


def ok(message: bytes) -> bytes | list[bytes] | None:
    return b"ok"


def quiet(message: bytes) -> bytes | list[bytes] | None:
    return None


class ZmqPeer(Peer):
    """A receiver in the event loop of the test.

    Args:
        kind: of its socket: pull, rep or router.
        content: as the option of the transport.
        endpoint: where it binds; None takes a free port.
        answer: to a message; None for no answer, a list for all frames after the id.
        set_up: called with each new socket before it is bound.
    """

    def __init__(
        self,
        kind: str = "rep",
        content: str = "payload",
        endpoint: str | None = None,
        answer: Reply = ok,
        set_up: Callable[[zmq.asyncio.Socket], None] | None = None,
    ) -> None:
        self.kind = kind
        self.content = content
        self.answer = answer
        self.endpoint = f"tcp://127.0.0.1:{free_port()}" if endpoint is None else endpoint
        self.messages: list[bytes] = []
        self.routes: list[list[bytes]] = []
        """Of a router: id of the connection, id of the request and empty frame of each message."""
        self.changed = asyncio.Event()
        self._set_up = set_up
        self._resumed = asyncio.Event()
        self._payloads: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def callback(self) -> Callback:
        method = "push" if self.kind == "pull" else "request"
        return Callback(transport="zmq", method=method, uri=self.endpoint)

    async def start(self) -> None:
        self._resumed.set()
        self._context = zmq.asyncio.Context()
        self.socket = self._context.socket(KINDS[self.kind])
        self.socket.linger = 0
        if self._set_up is not None:
            self._set_up(self.socket)
        self.socket.bind(self.endpoint)
        self._task = asyncio.create_task(self._serve())

    async def kill(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        self.socket.close()
        # The address is free again when this has returned.
        await asyncio.to_thread(self._context.term)
        if not task.cancelled():
            task.result()

    async def pause(self) -> None:
        self._resumed.clear()

    async def resume(self) -> None:
        self._resumed.set()

    async def received(self) -> Sequence[bytes]:
        return self._payloads

    async def wait_until(self, reached: Callable[[], bool]) -> None:
        """Until a message makes it true."""
        async with asyncio.timeout(30):
            while not reached():
                self.changed.clear()
                await self.changed.wait()

    async def reply(self, route: list[bytes], answer: bytes) -> None:
        await self.socket.send_multipart([*route, answer])

    async def _serve(self) -> None:
        while True:
            *route, message = await self.socket.recv_multipart()
            await self._resumed.wait()
            self.messages.append(message)
            self.routes.append(route)
            payload = message
            if self.content == "envelope":
                payload = json.loads(message)["data"].encode()
            self._payloads.append(payload)
            self.changed.set()
            answer = None if self.kind == "pull" else self.answer(message)
            if isinstance(answer, bytes):
                await self.socket.send_multipart([*route, answer])
            elif answer is not None:
                await self.socket.send_multipart([*route[:-1], *answer])


class ZmqProcess(Peer):
    """A receiver in a process of its own, which keeps what comes in a file.

    Args:
        kind: of its socket: pull or rep.
        path: of the file; one line for each message, in hexadecimal.
    """

    def __init__(self, kind: str, path: Path) -> None:
        self._kind = kind
        self._path = path
        self._path.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint = f"tcp://127.0.0.1:{free_port()}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def callback(self) -> Callback:
        method = "push" if self._kind == "pull" else "request"
        return Callback(transport="zmq", method=method, uri=self._endpoint)

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._kind, self._endpoint, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    async def kill(self) -> None:
        """With SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    async def pause(self) -> None:
        raise NotImplementedError

    async def resume(self) -> None:
        raise NotImplementedError

    async def received(self) -> Sequence[bytes]:
        # A line that was cut off by the kill was not answered.
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [bytes.fromhex(line.decode()) for line in lines]


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Zmq]:
    transport = Zmq(Zmq.Options(**options))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


async def send(
    transport: Zmq,
    peer: ZmqPeer | ZmqProcess | str,
    payload: bytes = b"hello",
    timeout_ms: int = 20_000,
    method: str = "request",
) -> Outcome:
    """Deliver as a node does."""
    callback = Callback("zmq", method, peer) if isinstance(peer, str) else peer.callback
    info = DeliveryInfo("id-1", 2, DUE_MS, DUE_MS + 5, timeout_ms, "text/plain; charset=utf-8")
    return await Attempts().attempt(transport, callback, payload, info)


async def delivered_in_the_end(transport: Zmq, peer: ZmqPeer, payload: bytes = b"hello") -> None:
    async with asyncio.timeout(20):
        while await send(transport, peer, payload) != Outcome.delivered():
            await asyncio.sleep(0.01)


def small(made: zmq.asyncio.Socket) -> None:
    made.rcvhwm = 1


def sockets(transport: Zmq) -> int:
    assert transport._links is not None
    return len(transport._links)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not reached():
            await asyncio.sleep(0.001)


def _end_with_the_test() -> None:
    sys.stdin.read()
    os._exit(0)


def _serve(kind: str, endpoint: str, path: Path) -> None:
    """The receiver of `ZmqProcess`: it answers when the system has what came."""
    threading.Thread(target=_end_with_the_test, daemon=True).start()
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    socket = zmq.Context().socket(KINDS[kind])
    socket.bind(endpoint)
    print("ready", flush=True)
    while True:
        message = socket.recv()
        os.write(file, message.hex().encode() + b"\n")
        if kind == "rep":
            socket.send(b"ok")


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
