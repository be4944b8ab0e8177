"""The log in NATS JetStream: one stream for a ring, one subject for each slot.

skyring.<ring>.log.<slot>

An append names the sequence that the slot's last message must have. The server refuses it
otherwise: that is the fence. `last` is answered by the leader of the stream, so that it stands
behind all that was acknowledged.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from skyring.errors import TooLarge, Unavailable, Uncertain
from skyring.nats.jetstream import JetStreamApi, JetStreamError
from skyring.nats.link import Link
from skyring.nats.message import Message as Publication
from skyring.storage.jetstream_read import Reading
from skyring.storage.jetstream_stream import LogStream
from skyring.storage.log import Log, LogConflict, Message, SlotLog

__all__ = ["JetStreamLog"]

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
HEADERS_BYTES = 128
"""More than the header of an append takes."""

NO_MESSAGE = 10_037
CONFLICTS = (10_071, 10_164)
"""Wrong last sequence. The second one also comes while another append is under way."""
MESSAGE_TOO_LARGE = 10_054
STORE_FAILED = 10_077
STORE_IS_FULL = "maximum "
"""What the text of `STORE_FAILED` begins with if a limit of the stream is reached."""
NOT_STORED = frozenset(
    {
        10_002,  # resource limits exceeded for account
        10_008,  # JetStream system temporarily unavailable
        10_009,  # JetStream cluster can not handle request
        10_023,  # insufficient resources
        10_028,  # insufficient memory resources
        10_047,  # insufficient storage resources
        10_059,  # stream not found
        10_076,  # JetStream not enabled
        10_039,  # JetStream not enabled for account
        10_109,  # invalid operation on sealed stream
        10_163,  # expected last sequence per subject temporarily unavailable
        10_167,  # too many requests
        10_194,  # stream is offline
    }
)
"""Refusals before anything is written. After any other error the log itself has to say."""
LOOKUPS_MAX = 64
"""Questions under way at once when many slots are looked at."""


class _Failure(msgspec.Struct):
    err_code: int = 0
    description: str = "error"


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: _Failure | None = None


_read_ack = msgspec.json.Decoder(_Ack).decode


class JetStreamLog(Log):
    """The logs of a ring.

    Args:
        link: to NATS. It is started and stopped by others.
        ring: name of the ring.
        slots: how many it has.
        replicas: servers that keep the stream, if it has to be made.
        request_timeout_ms: time allowed to NATS for one answer.
        bytes_max: size of all logs, if the stream has to be made; -1 is what NATS allows.
    """

    def __init__(
        self,
        link: Link,
        ring: str,
        slots: int,
        replicas: int,
        request_timeout_ms: int,
        bytes_max: int = -1,
    ) -> None:
        self._link = link
        self._timeout_ms = request_timeout_ms
        self._api = JetStreamApi(link, request_timeout_ms)
        self._stream = LogStream(self._api, ring, slots, replicas, bytes_max)
        self._subjects = [f"skyring.{ring}.log.{slot}" for slot in range(slots)]

    async def open(self) -> None:
        """Make the stream, or make sure that it is the right one.

        Raises:
            StorageError: it can never be used, or JetStream is missing.
            Unavailable: NATS is away.
        """
        await self._stream.open()

    @property
    def identity(self) -> str:
        return self._stream.identity

    async def check(self) -> None:
        """Is the same log still there? To be called after each loss of the connection.

        Raises:
            StorageError: it is gone, or another one stands in its place.
            Unavailable: that cannot be told now.
        """
        await self._stream.check()

    @property
    def message_bytes_max(self) -> int:
        """The largest message that can be appended."""
        return self._link.payload_bytes_max - HEADERS_BYTES

    async def append(self, slot: int, data: bytes, expected: int) -> int:
        reply = await self._link.request(
            Publication(self._subjects[slot], data, {EXPECTED: str(expected)}), self._timeout_ms
        )
        if reply.is_no_responders:
            raise Unavailable("the log does not answer: no leader, or no stream")
        try:
            ack = _read_ack(reply.data)
        except msgspec.DecodeError:
            raise Uncertain("the answer to an append cannot be read") from None
        if ack.error is not None:
            raise _refusal(ack.error, slot)
        if ack.stream != self._stream.name or not ack.seq:
            raise Uncertain("the answer to an append came from somebody else")
        return ack.seq

    async def last(self, slot: int) -> Message | None:
        return await self._message(slot, {"last_by_subj": self._subjects[slot]})

    async def read(self, after: Mapping[int, int]) -> AsyncIterator[Message]:
        targets = await self._targets(after)
        if not targets:
            return
        reading = Reading(
            self._link,
            self._api,
            self._stream.name,
            {slot: self._subjects[slot] for slot in targets},
            after,
            targets,
            self._last_sequence,
            self._timeout_ms,
        )
        async for message in reading.run(len(self._subjects)):
            yield message

    async def purge(self, slot: int, below: int) -> None:
        # Without a sequence it would remove everything.
        if below > 1:
            await self._ask("STREAM.PURGE", {"filter": self._subjects[slot], "seq": below})

    async def size(self, slot: int) -> SlotLog:
        subject = self._subjects[slot]
        last = await self.last(slot)
        if last is None:
            return SlotLog(0, 0, 0)
        first = await self._message(slot, {"seq": 1, "next_by_subj": subject})
        answer = await self._ask("STREAM.INFO", {"subjects_filter": subject})
        counts = answer.get("state", {}).get("subjects") or {}
        return SlotLog(
            counts.get(subject, 0),
            last.sequence if first is None else first.sequence,
            last.sequence,
        )

    async def close(self) -> None:
        pass

    async def _targets(self, after: Mapping[int, int]) -> dict[int, int]:
        """The last sequences of those slots that have something new."""
        room = asyncio.Semaphore(LOOKUPS_MAX)

        async def look(slot: int) -> int:
            async with room:
                return await self._last_sequence(slot)

        ends = await asyncio.gather(*(look(slot) for slot in after), return_exceptions=True)
        targets: dict[int, int] = {}
        for slot, end in zip(after, ends, strict=True):
            if isinstance(end, BaseException):
                raise end
            if end > after[slot]:
                targets[slot] = end
        return targets

    async def _last_sequence(self, slot: int) -> int:
        last = await self.last(slot)
        return 0 if last is None else last.sequence

    async def _message(self, slot: int, which: dict[str, Any]) -> Message | None:
        try:
            answer = await self._api.ask(f"STREAM.MSG.GET.{self._stream.name}", which)
        except JetStreamError as error:
            if error.number == NO_MESSAGE:
                return None
            raise Unavailable(str(error)) from error
        try:
            message = answer["message"]
            return Message(slot, int(message["seq"]), b64decode(message.get("data") or ""))
        except (KeyError, TypeError, ValueError):
            raise Unavailable("an answer of JetStream cannot be read") from None

    async def _ask(self, what: str, body: object) -> dict[str, Any]:
        try:
            return await self._api.ask(f"{what}.{self._stream.name}", body)
        except JetStreamError as error:
            raise Unavailable(str(error)) from error


def _refusal(failure: _Failure, slot: int) -> LogConflict | TooLarge | Unavailable:
    number = failure.err_code
    text = f"JetStream: {failure.description} ({number})"
    if number in CONFLICTS:
        return LogConflict(f"the last message of slot {slot} is another: {text}")
    if number == MESSAGE_TOO_LARGE:
        return TooLarge(text)
    is_full = number == STORE_FAILED and failure.description.startswith(STORE_IS_FULL)
    if number in NOT_STORED or is_full:
        return Unavailable(f"the log takes nothing now: {text}")
    return Uncertain(f"the log may have taken it or not: {text}")
