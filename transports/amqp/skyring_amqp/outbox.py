"""The way from a channel to the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelInvalidStateError

__all__ = ["Outbox"]


class Outbox:
    """Takes what a channel has to send, until the broker has closed the channel.

    When that happens the client confirms it, and for some turns of the event loop goes on to send
    what was waiting. The broker takes that for a fault of the whole connection and ends it, with
    all that is under way on other channels.

    Args:
        queue: what the client's writer takes from.
        on_stuck: called when the confirmation cannot be sent: the broker would wait for it, and
            ignore all that a further channel of this number sends.
    """

    def __init__(self, queue: asyncio.Queue[ChannelFrame], on_stuck: Callable[[], None]) -> None:
        self._queue = queue
        self._on_stuck = on_stuck
        self._is_closed = False

    async def put(self, frame: ChannelFrame) -> None:
        """The way of everything but the confirmation.

        Raises:
            ChannelInvalidStateError: the broker has closed the channel.
        """
        if self._is_closed:
            raise ChannelInvalidStateError("the channel was closed")
        await self._queue.put(frame)

    def put_nowait(self, frame: ChannelFrame) -> None:
        """The way of the confirmation that the channel is closed."""
        self._is_closed = True
        try:
            self._queue.put_nowait(frame)
        except asyncio.QueueFull:
            self._on_stuck()
            raise
