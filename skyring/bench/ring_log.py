"""The logs of a ring as NATS keeps them, read by a witness that shares no code with the nodes'.

`LogChecker` judges the entries of all slots, `LogWatch` brings them from NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from skyring.bench.errors import BenchError
from skyring.bench.ring_events import connect_nats
from skyring.errors import RecordUnreadable
from skyring.storage.entry import Entry, decode_entry

__all__ = ["LogChecker", "LogMessage", "LogWatch", "SlotLive", "read_log", "read_slots"]

FETCH_MAX = 500
FETCH_TIMEOUT_S = 0.5
END_TIMEOUT_S = 60.0
TOLD_MAX = 20
MESSAGE_OVERHEAD_BYTES = 30
"""What the file store of NATS adds to subject, headers and payload of a message."""


class LogMessage(NamedTuple):
    """One message of a slot's log."""

    slot: int
    sequence: int
    data: bytes


class _Claim(NamedTuple):
    epoch: int
    node: str


@dataclass
class LogChecker:
    """Holds the entries of each slot against the rules of the log. Pure."""

    entries: Counter[str] = field(default_factory=Counter)
    """By kind."""
    stale: int = 0
    """Commits of a node that is not the one of the last claim: must be 0."""
    fallen: int = 0
    """Claims whose epoch is not above that of the claim before: must be 0."""
    unreadable: int = 0
    unseen: int = 0
    """Places where an entry names a predecessor that did not come by: it was purged, or missed."""
    told: list[str] = field(default_factory=list)
    _claims: dict[int, _Claim] = field(default_factory=dict)
    _last: dict[int, int] = field(default_factory=dict)

    def add(self, slot: int, sequence: int, message: bytes) -> None:
        """The next entry of a slot."""
        try:
            entry = decode_entry(message)
        except RecordUnreadable as error:
            self.unreadable += 1
            self._tell(f"slot {slot}, {sequence}: {error}")
            return
        self.entries[entry.kind] += 1
        if slot in self._last and entry.previous != self._last[slot]:
            self.unseen += 1
        self._last[slot] = sequence
        known = self._claims.get(slot)
        if entry.kind == "claim":
            if known is not None and entry.epoch <= known.epoch:
                self.fallen += 1
                self._tell(f"slot {slot}, {sequence}: {_said(entry)} after {known}")
            self._claims[slot] = _Claim(entry.epoch, entry.node)
        elif known is None:
            self._claims[slot] = _Claim(entry.epoch, entry.node)  # its claim has been purged
        elif known != (entry.epoch, entry.node):
            self.stale += 1
            self._tell(f"slot {slot}, {sequence}: {_said(entry)} after {known}")

    def holder(self, slot: int) -> str | None:
        """The node of the last claim that was seen."""
        claim = self._claims.get(slot)
        return None if claim is None else claim.node

    def _tell(self, what: str) -> None:
        if len(self.told) < TOLD_MAX:
            self.told.append(what)


def _said(entry: Entry) -> str:
    return f"{entry.kind} of {entry.node}, epoch {entry.epoch}"


@dataclass
class SlotLive:
    """What one slot's log amounts to. Pure."""

    messages: int = 0
    log_bytes: int = 0
    """Of all messages, with what NATS adds to each."""
    live: dict[bytes, int] = field(default_factory=dict)
    """Bytes of key and value, by key: what is left when all writes have been made in order."""

    @property
    def live_bytes(self) -> int:
        """Of all keys and values that are live."""
        return sum(self.live.values())

    def add(self, message: bytes, extra_bytes: int) -> None:
        """The next message of the slot; raises RecordUnreadable."""
        self.messages += 1
        self.log_bytes += len(message) + extra_bytes + MESSAGE_OVERHEAD_BYTES
        for key, value in decode_entry(message).writes:
            if value is None:
                self.live.pop(key, None)
            else:
                self.live[key] = len(key) + len(value)


class LogWatch:
    """Follows the logs of all slots while a benchmark runs.

    async with LogWatch(ring.nats_url, "bench") as watch:
        ...
        await watch.caught_up()
        watch.checker.stale
    """

    def __init__(self, url: str, ring: str) -> None:
        self.checker = LogChecker()
        self._url = url
        self._stream = f"SKYRING_{ring}"
        self._subject = f"skyring.{ring}.log.*"
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._seen = 0

    async def __aenter__(self) -> LogWatch:
        self._client = await connect_nats(self._url)
        self._task = asyncio.create_task(self._follow(), name="log-watch")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._client.close()

    async def caught_up(self) -> None:
        """Return when everything that is in the logs now has been looked at. Raises BenchError."""
        state = (await self._client.jetstream().stream_info(self._stream)).state
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                while self._seen < state.last_seq:
                    if self._task is not None and self._task.done():
                        self._task.result()
                    await asyncio.sleep(FETCH_TIMEOUT_S / 5)
        except TimeoutError as error:
            raise BenchError(
                f"the log is read up to {self._seen} of {state.last_seq} only"
            ) from error

    async def _follow(self) -> None:
        async for sequence, slot, message, _ in _messages(
            self._client, self._stream, self._subject, endless=True
        ):
            self.checker.add(slot, sequence, message)
            self._seen = sequence


async def read_log(url: str, ring: str) -> list[LogMessage]:
    """All that the logs of a ring hold, up to where they end now, in the order of sequences.

    Raises:
        BenchError: there is no such log, or it cannot be read to its end.
    """
    from nats.errors import Error

    client = await connect_nats(url)
    found: list[LogMessage] = []
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            stream = f"SKYRING_{ring}"
            # Where it ends is asked of its leader: a consumer may run on a server that is behind.
            end = (await client.jetstream().stream_info(stream)).state.last_seq
            subject = f"skyring.{ring}.log.*"
            if end:
                async for sequence, slot, data, _ in _messages(
                    client, stream, subject, endless=True
                ):
                    found.append(LogMessage(slot, sequence, data))
                    if sequence >= end:
                        break
    except (Error, TimeoutError) as error:
        raise BenchError(f"the logs of {ring} cannot be read: {error!r}") from error
    finally:
        await client.close()
    return found


async def read_slots(url: str, ring: str) -> dict[int, SlotLive]:
    """All that the logs of a ring hold now, by slot.

    Raises:
        RecordUnreadable: an entry is damaged.
    """
    client = await connect_nats(url)
    slots: dict[int, SlotLive] = {}
    try:
        stream, subject = f"SKYRING_{ring}", f"skyring.{ring}.log.*"
        async for _, slot, message, extra_bytes in _messages(client, stream, subject):
            slots.setdefault(slot, SlotLive()).add(message, extra_bytes)
    finally:
        await client.close()
    return slots


async def _messages(client: Any, stream: str, subject: str, endless: bool = False) -> Any:
    """Sequence, slot, payload and the bytes of subject and headers, of each message."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    pulled = await client.jetstream().pull_subscribe(
        subject,
        stream=stream,
        config=ConsumerConfig(
            ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True
        ),
    )
    while True:
        try:
            fetched = await pulled.fetch(FETCH_MAX, timeout=FETCH_TIMEOUT_S)
        except TimeoutError:  # nothing new; the library's own is one of these
            if endless:
                continue
            return
        for message in fetched:
            meta = message.metadata
            extra_bytes = len(message.subject) + sum(
                len(name) + len(value) + 4 for name, value in (message.headers or {}).items()
            )
            slot = int(message.subject.rpartition(".")[2])
            yield meta.sequence.stream, slot, message.data, extra_bytes
            if not endless and meta.num_pending == 0:
                return
