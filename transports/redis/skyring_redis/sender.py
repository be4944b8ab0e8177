"""Sends commands over a few connections, in batches, and gives each its own answer.

A batch belongs to a task of its own: a delivery that is cut off stops waiting for its answer, but
the answer is read all the same. No connection is ever left with an answer that nobody has read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from skyring.transports import Outcome, end_tasks
from skyring_redis.rules import Command, outcome_of, told
from skyring_redis.server import Server

__all__ = ["Limits", "Sender"]

logger = logging.getLogger(__name__)

BATCH_BYTES_MAX = 1 << 20
"""Commands of a batch together; a single one may have more."""
CLOSE_S_MAX = 1
"""How long a connection that is in order may take to close."""
STOPPING = "cut off, for this node is stopping"


class Limits(NamedTuple):
    """What bounds a `Sender`; durations in seconds."""

    connections_max: int
    batch_max: int
    in_flight_max: int
    connect_timeout_s: float
    answer_timeout_s: float
    pause_s: float


class _Lost(Exception):
    """A connection is of no use any more, or none could be made. Its text is for people."""


class Sender:
    """Connections are made when they are needed, and kept.

    After a failure no further one is made for a while; what comes in this time, and finds no
    connection, fails at once.
    """

    def __init__(self, server: Server, limits: Limits) -> None:
        self._server = server
        self._limits = limits
        self._waiting: dict[asyncio.Future[Outcome], Command] = {}
        """Commands that no connection has taken yet, in the order they came."""
        self._open: set[AbstractConnection] = set()
        self._idle: list[AbstractConnection] = []
        self._busy: set[asyncio.Task[None]] = set()
        """One task for each connection that is being made, or has commands under way."""
        self._is_one_starting = False
        """Is there one among them that will take what waits as soon as it can?"""
        self._in_flight = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._closing = False
        self._failure = ""
        """Why nothing could be sent; empty again with the next answer."""
        self._pause_end_s = 0.0

    def begin(self) -> None:
        """Make the first connection, so that a fault is logged at the start."""
        self._start(None)

    async def send(self, command: Command) -> Outcome:
        """Send one command, and say what its answer means."""
        if self._closing:
            return Outcome.retry(STOPPING)
        if self._in_flight >= self._limits.in_flight_max:
            return Outcome.retry(f"{self._in_flight} deliveries to Redis are under way already")
        if self._is_pausing() and not self._busy and not self._idle:
            return Outcome.retry(self._failure)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = command
        self._in_flight += 1
        self._drained.clear()
        self._start_if_needed()
        try:
            return await answer
        finally:
            self._waiting.pop(answer, None)
            self._in_flight -= 1
            if not self._in_flight:
                self._drained.set()

    async def close(self) -> None:
        """Wait for the commands under way, each of which has its time-out, then disconnect.

        If the wait is cancelled, they are cut off.
        """
        self._closing = True
        try:
            await self._drained.wait()
        finally:
            self._fail_waiting(STOPPING)
            tasks = list(self._busy)
            # A silent server may owe answers that nobody waits for any more.
            await end_tasks(*tasks)
            await asyncio.gather(*tasks, return_exceptions=True)
            self._idle.clear()
            while self._open:
                await _disconnect(self._open.pop())

    # Connections

    def _is_pausing(self) -> bool:
        return asyncio.get_running_loop().time() < self._pause_end_s

    def _start_if_needed(self) -> None:
        if not self._waiting or self._is_one_starting:
            return
        if self._idle:
            self._start(self._idle.pop())
        elif len(self._busy) < self._limits.connections_max and not self._is_pausing():
            self._start(None)

    def _start(self, connection: AbstractConnection | None) -> None:
        self._is_one_starting = True
        task = asyncio.create_task(self._serve(connection))
        self._busy.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a defect in the redis transport", exc_info=error)
        self._start_if_needed()
        if not self._busy:  # nobody will take what waits
            self._fail_waiting(self._failure or "the connection to Redis has ended")

    async def _serve(self, connection: AbstractConnection | None) -> None:
        """Send what waits until there is nothing more; then the connection is idle."""
        try:
            try:
                connection = await self._fresh(connection)
            finally:
                self._is_one_starting = False
            while batch := self._take():
                await self._exchange(connection, batch)
        except _Lost as lost:
            self._note_failure(str(lost))
        else:
            self._idle.append(connection)

    async def _fresh(self, connection: AbstractConnection | None) -> AbstractConnection:
        """The connection, unless the server has closed it meanwhile; or a new one."""
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                # True means closed, or that something came that nobody has asked for.
                if not await connection.can_read():
                    return connection
            await self._drop(connection)
        connection = self._server.connection()
        self._open.add(connection)
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                await _greet(connection)
        except BaseException as error:
            await self._drop(connection)
            if isinstance(error, TimeoutError):
                raise _Lost(f"cannot connect to {self._server}: it does not answer") from None
            if isinstance(error, RedisError | OSError):
                raise _Lost(f"cannot connect to {self._server}: {told(error)}") from error
            raise
        return connection

    async def _drop(self, connection: AbstractConnection) -> None:
        """Close a connection that is not in order, without waiting for the server."""
        self._open.discard(connection)
        with contextlib.suppress(RedisError, OSError):
            await connection.disconnect(nowait=True)

    def _note_failure(self, reason: str) -> None:
        if not self._failure:  # once, and not with each delivery until it is over
            logger.warning("%s; it is tried again with each delivery", reason)
        self._failure = reason
        self._pause_end_s = asyncio.get_running_loop().time() + self._limits.pause_s

    def _note_success(self) -> None:
        if self._failure:
            self._failure = ""
            logger.info("%s takes deliveries again", self._server)

    # Commands

    def _take(self) -> dict[asyncio.Future[Outcome], Command]:
        """The commands that have waited longest; the rest is for another connection."""
        batch: dict[asyncio.Future[Outcome], Command] = {}
        size_bytes = 0
        for answer, command in self._waiting.items():
            size_bytes += sum(map(len, command))
            if batch and (len(batch) >= self._limits.batch_max or size_bytes > BATCH_BYTES_MAX):
                break
            batch[answer] = command
        for answer in batch:
            del self._waiting[answer]
        self._start_if_needed()
        return batch

    async def _exchange(
        self, connection: AbstractConnection, batch: dict[asyncio.Future[Outcome], Command]
    ) -> None:
        """Send a batch and read all of its answers.

        Raises:
            _Lost: not all could be read; the connection is closed.
        """
        reason = STOPPING
        try:
            async with asyncio.timeout(self._limits.answer_timeout_s):
                await connection.send_packed_command(connection.pack_commands(batch.values()))
                for answer in batch:
                    outcome = await _read(connection)
                    if not answer.done():  # otherwise its delivery has been cut off
                        answer.set_result(outcome)
        except BaseException as error:
            await self._drop(connection)
            if isinstance(error, TimeoutError):
                reason = f"{self._server} has not answered in {self._limits.answer_timeout_s:g} s"
                raise _Lost(reason) from None
            if isinstance(error, RedisError | OSError):
                reason = f"the connection to {self._server} is lost: {told(error)}"
                raise _Lost(reason) from error
            raise
        finally:
            _finish(batch, reason)
        self._note_success()

    def _fail_waiting(self, reason: str) -> None:
        _finish(self._waiting, reason)
        self._waiting.clear()


async def _greet(connection: AbstractConnection) -> None:
    """Find out now whether the server wants a password or is still loading.

    Raises:
        RedisError: it does or is.
    """
    await connection.send_command("PING")
    # To a stranger Redis calls a long command a protocol error, and does not ask for the password.
    with contextlib.suppress(ResponseError):  # not everybody may say PING
        await connection.read_response()


async def _read(connection: AbstractConnection) -> Outcome:
    try:
        await connection.read_response()
    except ResponseError as error:
        return outcome_of(error)
    return Outcome.delivered()


def _finish(answers: Iterable[asyncio.Future[Outcome]], reason: str) -> None:
    """Those that have no answer yet are told to try again."""
    for answer in answers:
        if not answer.done():
            answer.set_result(Outcome.retry(reason))


async def _disconnect(connection: AbstractConnection) -> None:
    with contextlib.suppress(RedisError, OSError):  # TimeoutError is one
        async with asyncio.timeout(CLOSE_S_MAX):
            await connection.disconnect()
