"""The other end of a transport under test."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from skyring.transports.base import Callback

__all__ = ["WAIT_S_MAX", "Peer"]

WAIT_S_MAX = 120
"""How long a test waits for anything before it fails, seconds."""
POLL_S = 0.01


class Peer(ABC):
    """A real receiver, or a real broker with a real consumer: never a stand-in.

    It is used as ``async with peer:``, which starts and closes it. It can be killed and started
    again in between, and has the same address then.
    """

    @property
    @abstractmethod
    def callback(self) -> Callback:
        """A callback that leads here."""

    @abstractmethod
    async def start(self) -> None:
        """Be there for deliveries, after the first time as after `kill`."""

    @abstractmethod
    async def kill(self) -> None:
        """Be gone at once, as after kill -9. `received` stays."""

    @abstractmethod
    async def pause(self) -> None:
        """Be silent: whatever is sent, nothing is answered, as after SIGSTOP.

        A signal takes effect some time after it was sent: return when it has.
        """

    @abstractmethod
    async def resume(self) -> None:
        """Answer again."""

    @abstractmethod
    async def received(self) -> Sequence[bytes]:
        """The payloads that have come since the first start, in any order."""

    async def close(self) -> None:
        """Called once in the end, whatever state it is in."""
        await self.kill()

    async def wait(self, reached: Callable[[Sequence[bytes]], bool]) -> Sequence[bytes]:
        """Until what has been received makes it true.

        Raises:
            TimeoutError: it never does.
        """
        received: Sequence[bytes] = ()
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                while not reached(received := await self.received()):
                    await asyncio.sleep(POLL_S)  # nobody is told when something has come
        except TimeoutError:
            raise TimeoutError(f"only {len(set(received))} different payloads have come") from None
        return received

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
