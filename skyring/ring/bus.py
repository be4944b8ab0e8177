"""The bus contract: what the nodes of a ring say to each other, and who hears it.

A node *announces* itself: all hear it live, and a newcomer is told the last announcement of each.
It *asks* another by name and is answered. It *emits* events for whoever listens outside the ring.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeAlias

from skyring.errors import Unavailable

__all__ = ["Answer", "Bus", "Listener", "NobodyThere"]

Answer: TypeAlias = Callable[[bytes], None]
"""Sends the answer to a question; it may get lost."""


class NobodyThere(Unavailable):
    """No node of this name is connected: the question was heard by nobody."""


class Listener(Protocol):
    """Who is told what comes. None of these may raise or wait."""

    def heard(self, announcement: bytes) -> None:
        """A node, perhaps this one, has announced itself. It may be garbled."""

    def asked(self, question: bytes, answer: Answer) -> None:
        """Another node asks this one. It may be garbled."""

    def connected(self) -> None:
        """From now on everything is heard."""

    def disconnected(self, reason: str) -> None:
        """From now on nothing is heard."""


class Bus(ABC):
    """One node's way to the others."""

    @property
    @abstractmethod
    def is_up(self) -> bool:
        """Is there a connection, as far as is known?"""

    @property
    def down_reason(self) -> str:
        """Why there is none; empty if that is not known."""
        return ""

    @property
    @abstractmethod
    def payload_bytes_max(self) -> int:
        """The longest question, answer or announcement."""

    @abstractmethod
    async def open(self, node: str, listener: Listener) -> None:
        """Connect in the background, and tell the listener.

        Args:
            node: name of this node. Its questions come only after `serve`.
        """

    @abstractmethod
    def serve(self) -> None:
        """Have questions to this node come here, at the latest with the next announcement."""

    @abstractmethod
    async def drain(self) -> None:
        """Have no more questions come here. Those that were on their way have come when it returns.

        Raises:
            Unavailable: there is no connection (any more); no questions come by it.
        """

    @abstractmethod
    async def announce(self, announcement: bytes, timeout_ms: int) -> None:
        """Tell all; when it returns, the announcement is kept for newcomers.

        Raises:
            Unavailable: it is not known to be kept.
        """

    @abstractmethod
    async def announcements(self) -> list[bytes]:
        """The last announcement of each node that is kept.

        Raises:
            Unavailable: they cannot be read now.
        """

    @abstractmethod
    async def ask(self, node: str, question: bytes, timeout_ms: int) -> bytes:
        """Ask a node, and return its answer.

        Raises:
            NobodyThere: no node of this name listens.
            Unavailable: the question was not sent.
            Uncertain: there was no answer in time; it may have been heard or not.
            TooLarge: it is longer than `payload_bytes_max`.
        """

    @abstractmethod
    def emit(self, kind: str, event: bytes) -> None:
        """Publish an event. It is dropped when too many wait to be sent."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. May be called twice."""
