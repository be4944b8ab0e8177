"""The log contract: for each slot a replicated sequence of messages, with a fence.

A message is appended only if the slot's last one is the one that its writer knows: of two writers
that both believe to hold a slot, one is refused. Sequences rise within a slot, with gaps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from skyring.errors import SkyringError

__all__ = ["Log", "LogConflict", "MemoryLog", "Message", "SlotLog"]

MESSAGE_BYTES_MAX = 1 << 20
"""For the implementation in memory."""


class Message(NamedTuple):
    """One message of a slot's log."""

    slot: int
    sequence: int
    data: bytes


class SlotLog(NamedTuple):
    """How much a slot's log has."""

    messages: int
    first: int
    """Sequence of its first message; 0 if it is empty."""
    last: int
    """Sequence of its last message; 0 if it is empty."""


class LogConflict(SkyringError):
    """The last message of the slot is not the expected one; nothing was appended."""

    code = "log-conflict"


class Log(ABC):
    """Messages for each slot, kept by somebody who survives this node.

    Errors of all methods:
        Unavailable: nothing was read or written; try again later.
    """

    @abstractmethod
    async def open(self) -> None:
        """Make ready; raises StorageError if this log can never be used."""

    @abstractmethod
    async def check(self) -> None:
        """Is it still the log that was opened? Raises StorageError if not."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What tells this log from all others, also from a later one of the same name."""

    @property
    @abstractmethod
    def message_bytes_max(self) -> int:
        """The longest message that can be appended, as far as is known now."""

    @abstractmethod
    async def append(self, slot: int, data: bytes, expected: int) -> int:
        """Append a message, and return its sequence when it is safe.

        Args:
            expected: sequence of the slot's last message; 0 if it has none.

        Raises:
            LogConflict: the last message is another.
            Uncertain: it may have been appended or not; `last` tells.
            TooLarge: no message can be as large as this.
        """

    @abstractmethod
    async def last(self, slot: int) -> Message | None:
        """The last message of a slot, as it stands after all that was acknowledged."""

    @abstractmethod
    def read(self, after: Mapping[int, int]) -> AsyncIterator[Message]:
        """Messages of several slots, each from behind a sequence up to the slot's end as it is now.

        Those of one slot come in order. With a slot that is shorter than ``after`` says, nothing
        comes of it.
        """

    @abstractmethod
    async def purge(self, slot: int, below: int) -> None:
        """Remove the messages of a slot with a sequence lower than ``below``."""

    @abstractmethod
    async def size(self, slot: int) -> SlotLog:
        """How much a slot's log has."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of it. May be called twice."""


class MemoryLog(Log):
    """The reference implementation. Several nodes of one process share one object."""

    def __init__(self, identity: str = "memory") -> None:
        self._identity = identity
        self._sequence = 0
        self._slots: dict[int, dict[int, bytes]] = {}

    async def open(self) -> None:
        pass

    async def check(self) -> None:
        pass

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def message_bytes_max(self) -> int:
        return MESSAGE_BYTES_MAX

    async def append(self, slot: int, data: bytes, expected: int) -> int:
        messages = self._slots.setdefault(slot, {})
        last = next(reversed(messages), 0)
        if last != expected:
            raise LogConflict(f"the last sequence of slot {slot} is {last}, not {expected}")
        self._sequence += 1
        messages[self._sequence] = data
        return self._sequence

    async def last(self, slot: int) -> Message | None:
        messages = self._slots.get(slot)
        if not messages:
            return None
        sequence = next(reversed(messages))
        return Message(slot, sequence, messages[sequence])

    async def read(self, after: Mapping[int, int]) -> AsyncIterator[Message]:
        found = [
            Message(slot, sequence, data)
            for slot, start in after.items()
            for sequence, data in self._slots.get(slot, {}).items()
            if sequence > start
        ]
        for message in found:
            yield message

    async def purge(self, slot: int, below: int) -> None:
        messages = self._slots.get(slot, {})
        self._slots[slot] = {
            sequence: data for sequence, data in messages.items() if sequence >= below
        }

    async def size(self, slot: int) -> SlotLog:
        messages = self._slots.get(slot, {})
        return SlotLog(len(messages), next(iter(messages), 0), next(reversed(messages), 0))

    async def close(self) -> None:
        pass
