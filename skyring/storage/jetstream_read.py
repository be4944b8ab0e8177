"""Reading the logs of many slots at once, up to where they end.

Where each slot ends is asked of the stream's leader before. Then a consumer reads from the lowest
wanted sequence, until each slot has come to its end: what a consumer says of its own end is not
relied upon, for it may run on a server that is a little behind.

If many slots are wanted, everything is read, and what nobody wants is thrown away here: a server
sends 350,000 messages a second as they stand, but only some 12,000 that it has to pick out.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec

from skyring.errors import Unavailable
from skyring.nats.jetstream import JetStreamApi, JetStreamError
from skyring.nats.link import Link
from skyring.nats.message import Message as Publication
from skyring.nats.message import Reply
from skyring.storage.log import Message

__all__ = ["Reading"]

PICKING_COST = 25
"""Messages that can be read and thrown away while a server picks out one."""
BATCH_MAX = 2_000
BATCH_BYTES_MAX = 4 << 20
PULLS = 2
"""Batches that are asked for at once, so that the next one comes while one is being applied."""
INACTIVE_NS = 60 * 10**9
"""A consumer that was not removed goes away by itself."""
CREATE_MS = 1_000
"""Time allowed to NATS for making a consumer, before it is asked for another one."""
SLICE_S = 0.25
"""Silence is looked at so often, and a stall of this process uses up only one of them."""
NAME_BYTES = 9

IDLE = "100"
BATCH_ENDED = ("408", "409")
ENDINGS = ("Request Timeout", "Message Size Exceeds MaxBytes", "Batch Completed")

_Arrival: TypeAlias = tuple[int, int, bytes, bytes]
"""Slot, how many messages have come with it, reply address, data."""


class Reading:
    """One reading of some slots, from its beginning to its end.

    Args:
        link: to NATS.
        api: of JetStream.
        stream: its name.
        subjects: of each slot that is wanted.
        after: sequences behind which the slots are wanted.
        targets: sequences that the slots have to come to.
        last: the last sequence of a slot as it is now.
        timeout_ms: silence after which it is given up.

    Raises:
        Unavailable: there is no connection.
    """

    def __init__(
        self,
        link: Link,
        api: JetStreamApi,
        stream: str,
        subjects: Mapping[int, str],
        after: Mapping[int, int],
        targets: Mapping[int, int],
        last: Callable[[int], Awaitable[int]],
        timeout_ms: int,
    ) -> None:
        session = link.session
        if session is None:
            raise Unavailable(f"no connection to NATS: {link.reason}")
        self._session = session
        self._api = api
        self._stream = stream
        self._slots = {subjects[slot].encode(): slot for slot in targets}
        self._after = after
        self._missing = dict(targets)
        self._last = last
        self._timeout_ms = timeout_ms
        self._consumer = ""
        inbox = f"{session.inbox}.read.{secrets.token_hex(NAME_BYTES)}"
        self._inbox = inbox.encode()
        self._arrivals: deque[_Arrival] = deque()
        self._statuses: deque[Reply] = deque()
        self._asked = 0
        self._arrived = 0
        self._refused = ""
        self._news = asyncio.Event()
        self._interest = session.subscribe(inbox, self._take, "", self._refuse)
        session.lost.add_done_callback(self._lost)

    async def run(self, slots: int) -> AsyncIterator[Message]:
        """The messages of each slot, until it has come to its target. To be run once.

        Args:
            slots: how many have messages in the stream.

        Raises:
            Unavailable: it was broken off; what has come is right.
        """
        try:
            await self._make_consumer(len(self._slots) * PICKING_COST >= slots)
            idle_slices = 0
            while self._missing:
                if len(self._arrivals) + self._asked - self._arrived <= (PULLS - 1) * BATCH_MAX:
                    self._pull()
                if self._arrivals:
                    idle_slices = 0
                else:
                    arrived = self._arrived
                    await self._wait()
                    idle_slices = idle_slices + 1 if arrived == self._arrived else 0
                self._read_statuses()
                while self._arrivals:
                    slot, count, reply, data = self._arrivals.popleft()
                    sequence = _sequence(reply, count)
                    if sequence >= self._missing.get(slot, sequence + 1):
                        del self._missing[slot]
                    if sequence > self._after[slot]:
                        yield Message(slot, sequence, data)
                if idle_slices:
                    await self._leave_out_what_was_purged()
                if idle_slices * SLICE_S * 1000 > self._timeout_ms:
                    raise Unavailable(f"NATS sent nothing of the log for {self._timeout_ms} ms")
        finally:
            self._end()

    def _end(self) -> None:
        """Nothing is waited for, so that it works in any state."""
        self._interest.end()
        self._session.lost.remove_done_callback(self._lost)
        if self._consumer:
            self._api.tell(f"CONSUMER.DELETE.{self._consumer}")

    # Asking

    async def _make_consumer(self, everything: bool) -> None:
        """It may be given to a server that has just died; the next one to another, perhaps."""
        tries = max(1, self._timeout_ms // CREATE_MS)
        for tried in range(1, tries + 1):
            name = f"skyring_{secrets.token_hex(NAME_BYTES)}"
            self._consumer = f"{self._stream}.{name}"
            body = {
                "stream_name": self._stream,
                "config": self._config(name, everything),
                "action": "create",
            }
            try:
                await self._api.ask(
                    f"CONSUMER.CREATE.{self._consumer}", body, min(CREATE_MS, self._timeout_ms)
                )
                return
            except JetStreamError as error:
                raise Unavailable(str(error)) from error
            except Unavailable:
                if tried == tries or self._session.lost.done():
                    raise
                self._api.tell(f"CONSUMER.DELETE.{self._consumer}")

    def _config(self, name: str, everything: bool) -> dict[str, object]:
        config: dict[str, object] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": min(self._after[slot] for slot in self._slots.values()) + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": INACTIVE_NS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if not everything:
            config["filter_subjects"] = [subject.decode() for subject in self._slots]
        return config

    def _pull(self) -> None:
        self._asked += BATCH_MAX
        request = {
            "batch": BATCH_MAX,
            "max_bytes": max(BATCH_BYTES_MAX, 2 * self._session.payload_bytes_max),
            "expires": self._timeout_ms * 1_000_000,
        }
        message = Publication(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._consumer}", msgspec.json.encode(request)
        )
        self._session.send(message, self._inbox.decode())

    async def _leave_out_what_was_purged(self) -> None:
        """Slots whose log does not go as far any more as it did when this began."""
        for slot, target in list(self._missing.items()):
            if await self._last(slot) < target:
                del self._missing[slot]

    # What comes

    def _take(self, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        slot = self._slots.get(subject)
        if slot is not None:
            self._arrived += 1
            self._arrivals.append((slot, self._arrived, reply, data))
        elif subject == self._inbox:
            self._statuses.append(Reply(data, head))
        else:
            self._arrived += 1
        self._news.set()

    def _refuse(self, text: str) -> None:
        self._refused = text
        self._news.set()

    def _lost(self, lost: object) -> None:
        self._news.set()

    async def _wait(self) -> None:
        """Until something has come, the connection is lost, or one slice is over."""
        self._news.clear()
        if self._session.lost.done():
            raise Unavailable(f"the connection to NATS was lost: {self._session.lost.result()}")
        if self._refused:
            raise Unavailable(f"NATS: {self._refused}")
        try:
            async with asyncio.timeout(SLICE_S):
                await self._news.wait()
        except TimeoutError:
            return

    def _read_statuses(self) -> None:
        while self._statuses:
            headers = self._statuses.popleft().headers
            status, text = headers.get("Status", ""), headers.get("Description", "")
            if status == IDLE:
                continue
            if status not in BATCH_ENDED or not text.startswith(ENDINGS):
                raise Unavailable(f"the reading of the log was broken off: {status} {text}")
            try:
                self._asked -= int(headers["Nats-Pending-Messages"])
            except (KeyError, ValueError):
                raise Unavailable(f"an unknown status: {status} {text}") from None


def _sequence(reply: bytes, count: int) -> int:
    """Of a message in the stream, from its reply address.

    $JS.ACK.[domain.account.]stream.consumer.deliveries.in the stream.in the consumer.…

    Args:
        count: how many have come with it: if the consumer has sent more, some were lost.
    """
    fields = reply.split(b".")
    at = 5 if len(fields) == 9 else 7
    try:
        sequence, in_consumer = int(fields[at]), int(fields[at + 1])
    except (IndexError, ValueError):
        raise Unavailable("a message of the log cannot be read") from None
    if in_consumer != count:
        raise Unavailable("messages of the log were lost on their way")
    return sequence
