"""The simulated log: a stream on the server, and each node's way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from skyring.errors import TooLarge, Unavailable, Uncertain
from skyring.storage.entry import Entry, NoEntry, decode_entry
from skyring.storage.log import Log, LogConflict, Message, SlotLog
from skyring.testing.proof.history import History, LogEntry
from skyring.testing.simulation.network import Server, Wire

__all__ = ["LogConditions", "LogServer", "SimulatedLog"]

MESSAGES_PER_READ = 50


class LogConditions:
    """How the log fares. Faults change it."""

    def __init__(self) -> None:
        self.is_away = False
        """Does it answer nothing?"""
        self.delay_s = 0.0
        self.refused = 0.0
        """Part of the appends that are refused as if another had been quicker."""
        self.unanswered = 0.0
        """Part of the appends that are made, and not answered."""


class LogServer:
    """The messages of all slots.

    Args:
        server: where it is.
        history: told of each entry.
    """

    def __init__(self, server: Server, history: History) -> None:
        self.server = server
        self.conditions = LogConditions()
        self.watch: Callable[[str, Entry], None] | None = None
        """Told of each entry that has been appended, and of its writer."""
        self.claimed: Callable[[], None] = lambda: None
        """Called when a slot has been claimed."""
        self._history = history
        self._sequence = 0
        self._slots: dict[int, dict[int, bytes]] = {}
        self._lasts: dict[int, int] = {}

    def last_sequence(self, slot: int) -> int:
        """Of the last message of a slot, 0 without any."""
        return self._lasts.get(slot, 0)

    def append(
        self, writer: str, slot: int, data: bytes, expected: int, answer: Callable[[Any], None]
    ) -> None:
        """Append a message if the slot ends where it should."""
        random, conditions = self.server.random, self.conditions
        last = self.last_sequence(slot)
        if last != expected:
            answer(LogConflict(f"the last sequence of slot {slot} is {last}, not {expected}"))
            return
        if conditions.refused and random.random() < conditions.refused:
            answer(LogConflict(f"the last sequence of slot {slot} is another one"))
            return
        self._sequence += 1
        self._slots.setdefault(slot, {})[self._sequence] = data
        self._lasts[slot] = self._sequence
        self._note(writer, slot, data)
        if not (conditions.unanswered and random.random() < conditions.unanswered):
            answer(self._sequence)

    def last(self, slot: int, answer: Callable[[Any], None]) -> None:
        """The last message of a slot."""
        messages = self._slots.get(slot)
        sequence = self.last_sequence(slot)
        answer(Message(slot, sequence, messages[sequence]) if messages else None)

    def read(self, after: Mapping[int, int], answer: Callable[[Any], None]) -> None:
        """Messages of several slots."""
        found = [
            Message(slot, sequence, data)
            for slot, start in after.items()
            if self.last_sequence(slot) > start
            for sequence, data in self._slots.get(slot, {}).items()
            if sequence > start
        ]
        answer(found)

    def purge(self, slot: int, below: int, answer: Callable[[Any], None]) -> None:
        """Remove older messages of a slot."""
        messages = self._slots.get(slot, {})
        for sequence in [each for each in messages if each < below]:
            del messages[sequence]
        answer(None)

    def size(self, slot: int, answer: Callable[[Any], None]) -> None:
        """How much a slot has."""
        messages = self._slots.get(slot, {})
        answer(SlotLog(len(messages), next(iter(messages), 0), next(reversed(messages), 0)))

    def _note(self, writer: str, slot: int, data: bytes) -> None:
        try:
            entry = decode_entry(data)
        except NoEntry:
            return
        is_claim = entry.kind == "claim"
        self._history.entries.append(
            LogEntry(slot, self._sequence, entry.epoch, writer, is_claim, self.server.loop.time())
        )
        if is_claim:
            self.claimed()
        if self.watch is not None:
            self.watch(writer, entry)


class SimulatedLog(Log):
    """The log as one node reaches it.

    Args:
        server: the stream.
        wire: the way to it.
        writer: node and start of the node, for the history.
        timeout_s: time allowed to the server for an answer.
    """

    def __init__(self, server: LogServer, wire: Wire, writer: str, timeout_s: float) -> None:
        self._server = server
        self._wire = wire
        self._writer = writer
        self._timeout_s = timeout_s

    async def open(self) -> None:
        await self.check()

    async def check(self) -> None:
        await self.size(0)

    @property
    def identity(self) -> str:
        return "simulated"

    @property
    def message_bytes_max(self) -> int:
        return self._wire.server.payload_bytes_max

    async def append(self, slot: int, data: bytes, expected: int) -> int:
        if len(data) > self.message_bytes_max:
            raise TooLarge(f"{len(data)} bytes are more than it takes")
        sequence: int = await self._ask(self._server.append, self._writer, slot, data, expected)
        return sequence

    async def last(self, slot: int) -> Message | None:
        found: Message | None = await self._read(self._server.last, slot)
        return found

    async def read(self, after: Mapping[int, int]) -> AsyncIterator[Message]:
        found: list[Message] = await self._read(self._server.read, dict(after))
        for index, message in enumerate(found):
            if index % MESSAGES_PER_READ == MESSAGES_PER_READ - 1:
                await self._read(lambda answer: answer(None))  # the next part is asked for
            yield message

    async def purge(self, slot: int, below: int) -> None:
        await self._read(self._server.purge, slot, below)

    async def size(self, slot: int) -> SlotLog:
        found: SlotLog = await self._read(self._server.size, slot)
        return found

    async def close(self) -> None:
        pass

    async def _ask(self, call: Callable[..., object], *arguments: Any) -> Any:
        return await self._wire.ask(self._served, call, arguments, timeout_s=self._timeout_s)

    async def _read(self, call: Callable[..., object], *arguments: Any) -> Any:
        try:
            return await self._ask(call, *arguments)
        except Uncertain as error:
            raise Unavailable(str(error)) from error

    def _served(
        self, call: Callable[..., object], arguments: Any, answer: Callable[[Any], None]
    ) -> None:
        """At the server: now, later, or not at all."""
        conditions = self._server.conditions
        if conditions.is_away:
            return
        if conditions.unanswered == 1.0:
            answer = _unheard
        if conditions.delay_s:
            server = self._wire.server
            delay_s = server.random.uniform(0, conditions.delay_s)
            server.later(server.loop.time() + delay_s, call, *arguments, answer)
        else:
            call(*arguments, answer)


def _unheard(_: Any) -> None:
    """An answer that gets lost."""
