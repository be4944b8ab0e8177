"""What comes from a server, cut into messages.

It stands in the place of nats-py's own parser, which tries several regular expressions on each
message, moves the rest of its buffer for each, and hands each to a queue and a task.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol, TypeAlias

from nats.errors import ProtocolError

__all__ = ["Parser", "Sink", "Take"]

LINE_BYTES_MAX = 1 << 20
"""INFO names all servers of a cluster."""
MESSAGE_BYTES_MAX = 128 << 20
"""A server can be told to take 64 MiB, and its headers come on top."""

Take: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply address, head and payload of a message; raises nothing."""


class Sink(Protocol):
    """What the parser feeds; nats-py's client, with one thing more."""

    takers: dict[bytes, Take]
    """By the number of the subscription."""

    async def _process_err(self, err_msg: str) -> None: ...
    async def _process_info(self, info: dict[str, object]) -> None: ...
    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None: ...
    async def _process_ping(self) -> None: ...
    async def _process_pong(self) -> None: ...


class Parser:
    """Takes the bytes in pieces of any size."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.reset()

    def reset(self) -> None:
        """Forget what is incomplete."""
        self._parts: list[bytes] = []
        self._missing = 0

    async def parse(self, data: bytes = b"") -> None:
        """Hand on what is complete.

        Raises:
            ProtocolError: this is not what a server says.
        """
        if len(data) < self._missing:
            self._missing -= len(data)
            self._parts.append(data)
            return
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
        self._missing = 0
        position = 0
        while position < len(data):
            end = data.find(b"\r\n", position)
            if end < 0:
                if len(data) - position > LINE_BYTES_MAX:
                    raise ProtocolError("nats: a line without end")
                break
            fields = data[position:end].split()
            operation = fields[0] if fields else b""
            if operation == b"MSG" or operation == b"HMSG":
                after = self._message(fields, data, end + 2)
                if after < 0:
                    break
                if after == 0:
                    after = await self._foreign_message(fields, data, end + 2)
                position = after
            else:
                await self._control(operation, data[position:end])
                position = end + 2
        if position < len(data):
            self._parts.append(data[position:])

    def _message(self, fields: list[bytes], data: bytes, start: int) -> int:
        """Where the next one begins; -1 if this one is incomplete, 0 if nobody here takes it."""
        has_head = fields[0] == b"HMSG"
        try:
            size = int(fields[-1])
            head_size = int(fields[-2]) if has_head else 0
            reply = fields[3] if len(fields) == (6 if has_head else 5) else b""
            subject, sid = fields[1], fields[2]
        except (ValueError, IndexError):
            raise ProtocolError("nats: malformed message") from None
        if not 0 <= head_size <= size <= MESSAGE_BYTES_MAX:
            raise ProtocolError("nats: malformed message")
        end = start + size
        if len(data) < end + 2:
            self._missing = end + 2 - len(data)
            return -1
        take = self._sink.takers.get(sid)
        if take is None:
            return 0
        if head_size:
            middle = start + head_size
            take(subject, reply, data[start:middle], data[middle:end])
        else:
            take(subject, reply, b"", data[start:end])
        return end + 2

    async def _foreign_message(self, fields: list[bytes], data: bytes, start: int) -> int:
        """One that the library has subscribed to, or that came after a subscription has ended."""
        has_head = fields[0] == b"HMSG"
        end = start + int(fields[-1])
        middle = start + (int(fields[-2]) if has_head else 0)
        reply = fields[3] if len(fields) == (6 if has_head else 5) else b""
        try:
            sid = int(fields[2])
        except ValueError:
            raise ProtocolError("nats: malformed message") from None
        await self._sink._process_msg(sid, fields[1], reply, data[middle:end], data[start:middle])
        return end + 2

    async def _control(self, operation: bytes, line: bytes) -> None:
        if operation == b"PING":
            await self._sink._process_ping()
        elif operation == b"PONG":
            await self._sink._process_pong()
        elif operation == b"-ERR":
            await self._sink._process_err(line[len(b"-ERR") :].strip().decode("utf-8", "replace"))
        elif operation == b"INFO":
            try:
                info = json.loads(line[len(b"INFO") :])
            except (ValueError, RecursionError):
                raise ProtocolError("nats: malformed INFO") from None
            if not isinstance(info, dict):
                raise ProtocolError("nats: malformed INFO")
            await self._sink._process_info(info)
        elif operation != b"+OK":
            raise ProtocolError("nats: unknown protocol")
