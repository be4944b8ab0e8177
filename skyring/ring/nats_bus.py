"""The bus over NATS.

skyring.<ring>.gossip.<node>    announcements: core NATS carries them live, and a stream
                                keeps the last one of each node; its answer is the acknowledgement
skyring.<ring>.node.<node>      questions to a node, by request and reply
skyring.<ring>.events.<kind>    events
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from contextlib import suppress

import msgspec

from skyring.errors import SkyringError, Unavailable, Uncertain
from skyring.nats.jetstream import JetStreamApi, JetStreamError
from skyring.nats.link import Link
from skyring.nats.message import Message, Received
from skyring.nats.session import Session
from skyring.nats.subscription import Subscription
from skyring.ring.bus import Bus, Listener, NobodyThere

__all__ = ["NatsBus"]

logger = logging.getLogger(__name__)

GOSSIP_AGE_NS_MAX = 3_600 * 10**9
"""How long the last announcement of a node is kept: far longer than any lease."""
MEMBERS_MAX = 1_000
NO_MESSAGE = 10_037
NAME_IN_USE = 10_058


class NatsBus(Bus):
    """One node's way to the others.

    Args:
        link: to NATS; it belongs to the bus, which starts and stops it.
        ring: name of the ring.
        replicas: servers that keep the announcements.
        request_timeout_ms: time allowed to NATS for one answer of its own.
    """

    def __init__(self, link: Link, ring: str, replicas: int, request_timeout_ms: int) -> None:
        self._link = link
        self._prefix = f"skyring.{ring}"
        self._stream = f"SKYRING-GOSSIP_{ring}"  # no log has such a name, whatever its ring
        self._replicas = replicas
        self._api = JetStreamApi(link, request_timeout_ms)
        self._node = ""
        self._listener: Listener | None = None
        self._announcements: Subscription | None = None
        self._questions: Subscription | None = None
        self._has_stream = False

    @property
    def is_up(self) -> bool:
        return self._link.session is not None

    @property
    def down_reason(self) -> str:
        return self._link.reason

    @property
    def payload_bytes_max(self) -> int:
        return self._link.payload_bytes_max

    async def open(self, node: str, listener: Listener) -> None:
        self._node, self._listener = node, listener
        subject = f"{self._prefix}.gossip.*"
        self._announcements = self._link.subscribe(subject, self._on_announcement)
        self._link.watch(self._on_up, listener.disconnected)
        await self._link.start()

    def serve(self) -> None:
        subject = f"{self._prefix}.node.{self._node}"
        self._questions = self._link.subscribe(subject, self._on_question)

    async def drain(self) -> None:
        if self._questions is not None:
            await self._questions.drain()

    async def announce(self, announcement: bytes, timeout_ms: int) -> None:
        await self._need_stream()
        message = Message(f"{self._prefix}.gossip.{self._node}", announcement)
        try:
            reply = await self._link.request(message, timeout_ms)
        except Uncertain:
            self._has_stream = False  # the other nodes hear it, but does it answer?
            raise
        try:
            is_kept = _read_ack(reply.data).stream == self._stream
        except msgspec.DecodeError:  # nobody is there, or it is somebody else
            is_kept = False
        if not is_kept:
            self._has_stream = False  # NATS has been restarted, perhaps: it is made again
            raise Unavailable("an announcement is not kept")

    async def announcements(self) -> list[bytes]:
        await self._need_stream()
        subjects = await self._subjects()
        found = await asyncio.gather(*(self._last(subject) for subject in subjects))
        return [data for data in found if data is not None]

    async def ask(self, node: str, question: bytes, timeout_ms: int) -> bytes:
        message = Message(f"{self._prefix}.node.{node}", question)
        reply = await self._link.request(message, timeout_ms)
        if reply.is_no_responders:
            raise NobodyThere(f"the node {node} is not connected")
        return reply.data

    def emit(self, kind: str, event: bytes) -> None:
        with suppress(SkyringError):
            self._link.send(Message(f"{self._prefix}.events.{kind}", event))

    async def close(self) -> None:
        for subscription in (self._announcements, self._questions):
            if subscription is not None:
                subscription.end()
        await self._link.stop()

    # What comes

    def _on_up(self, session: Session) -> None:
        self._has_stream = False
        if self._listener is not None:
            self._listener.connected()

    def _on_announcement(self, received: Received) -> None:
        if self._listener is not None:
            self._listener.heard(received.data)

    def _on_question(self, received: Received) -> None:
        if self._listener is not None and received.reply:
            self._listener.asked(received.data, lambda data: self._reply(received.reply, data))

    def _reply(self, subject: str, data: bytes) -> None:
        try:
            self._link.send(Message(subject, data))
        except Unavailable as error:
            logger.debug("an answer is lost: %s", error)
        except SkyringError as error:
            logger.warning("an answer cannot be sent: %s", error)

    # The stream of announcements

    async def _need_stream(self) -> None:
        if self._has_stream:
            return
        wanted = {
            "name": self._stream,
            "subjects": [f"{self._prefix}.gossip.*"],
            "storage": "file",  # after a restart of NATS too a newcomer has to know of leases
            "retention": "limits",
            "discard": "old",
            "max_msgs_per_subject": 1,
            "max_age": GOSSIP_AGE_NS_MAX,
            "num_replicas": self._replicas,
        }
        try:
            await self._api.ask(f"STREAM.CREATE.{self._stream}", wanted)
        except JetStreamError as error:
            if error.number != NAME_IN_USE:
                raise Unavailable(f"announcements cannot be kept: {error}") from error
        self._has_stream = True

    async def _subjects(self) -> list[str]:
        """Of all announcements that are kept."""
        wanted = {"subjects_filter": f"{self._prefix}.gossip.*"}
        try:
            answer = await self._api.ask(f"STREAM.INFO.{self._stream}", wanted)
        except JetStreamError as error:
            self._has_stream = False
            raise Unavailable(f"announcements cannot be read: {error}") from error
        return list(answer.get("state", {}).get("subjects") or {})[:MEMBERS_MAX]

    async def _last(self, subject: str) -> bytes | None:
        try:
            answer = await self._api.ask(
                f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": subject}
            )
            return b64decode(answer["message"].get("data") or "")
        except JetStreamError as error:
            if error.number == NO_MESSAGE:
                return None
            raise Unavailable(f"an announcement cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unavailable("an announcement cannot be read") from error


class _Ack(msgspec.Struct):
    """JetStream's answer to an announcement."""

    stream: str = ""


_read_ack = msgspec.json.Decoder(_Ack).decode
