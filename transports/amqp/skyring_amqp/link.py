"""One connection to the broker, and its channels.

Each exchange has a channel of its own, for AMQP tells of a fault by closing the channel: an
exchange that is missing, or that may not be written to, harms only the messages that go there.

A message that has been handed to the client is followed until the broker answers or the connection
ends, even if its delivery is cut off before. So no answer is taken for another's, and there is
never more than one message of a timer under way.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import aiormq
from aiormq import spec
from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError

from skyring.transports import Outcome
from skyring_amqp.outbox import Outbox
from skyring_amqp.rules import Target, refusal, told

__all__ = ["STOPPING", "Limits", "Link"]

CLOSE_S_MAX = 1
"""How long the broker may take to say goodbye."""
STOPPING = "cut off, for this node is stopping"
UNSENDABLE = Outcome.rejected("the message cannot be sent as it is")


class Limits(NamedTuple):
    """What bounds a connection; durations in seconds."""

    channels_max: int
    in_flight_max: int
    connect_timeout_s: float
    pause_s: float


class _Lane:
    """The channel of one exchange, from the moment when it is asked for."""

    __slots__ = ("channel", "messages", "opening", "reason", "waiting")

    opening: asyncio.Task[None]

    def __init__(self) -> None:
        self.channel: AbstractChannel | None = None
        self.reason = ""
        """Why there is no channel, when `opening` is done."""
        self.waiting = 0
        """Deliveries that wait for it to be open."""
        self.messages: dict[str, asyncio.Task[Outcome]] = {}
        """Those that the broker has not answered, by the id of their timer."""

    @property
    def is_idle(self) -> bool:
        return self.channel is not None and not self.waiting and not self.messages


class Link:
    """A connection that is open, until it is lost or closed.

    Args:
        on_lost: called once when it has ended by itself, with a reason for people.
    """

    def __init__(
        self,
        connection: aiormq.Connection,
        socket: asyncio.WriteTransport,
        limits: Limits,
        on_lost: Callable[[Link, str], None],
    ) -> None:
        self._connection = connection
        self._socket = socket
        self._limits = limits
        self._on_lost = on_lost
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()
        """By the name of the exchange, the longest unused first."""
        self._tasks: set[asyncio.Task[None] | asyncio.Task[Outcome]] = set()
        self._messages = 0
        self._reason = STOPPING
        connection.closing.add_done_callback(self._ended)

    async def publish(
        self, target: Target, body: bytes, properties: spec.Basic.Properties
    ) -> Outcome:
        """Publish a message, and say what the broker answers."""
        lane = self._lane(target.exchange)
        if lane is None:
            return Outcome.retry(
                f"all {self._limits.channels_max} channels are in use, each for another exchange"
            )
        lane.waiting += 1
        try:
            await asyncio.wait([lane.opening])
        finally:
            lane.waiting -= 1
        if lane.channel is None:
            return Outcome.retry(lane.reason or self._reason)
        if self._messages >= self._limits.in_flight_max:
            return Outcome.retry(f"the broker has not confirmed {self._messages} messages yet")
        timer_id = properties.message_id
        assert timer_id is not None
        if timer_id in lane.messages:
            return Outcome.retry("the broker has not confirmed the delivery before this one yet")
        message = asyncio.create_task(self._follow(lane, target, body, properties))
        lane.messages[timer_id] = message
        self._messages += 1
        self._tasks.add(message)
        message.add_done_callback(lambda _: self._forget_message(lane, timer_id, message))
        try:
            return await asyncio.shield(message)
        except asyncio.CancelledError:
            if not message.cancelled():  # it is the delivery that is cut off
                raise
            return Outcome.retry(self._reason)

    async def close(self) -> None:
        """Disconnect; what is still under way is cut off."""
        abort = asyncio.get_running_loop().call_later(CLOSE_S_MAX, self._socket.abort)
        try:
            self._cut_off()
            await self._connection.close(aiormq.ConnectionClosed(0, STOPPING))
        finally:
            abort.cancel()
            self._socket.abort()

    # Messages

    async def _follow(
        self, lane: _Lane, target: Target, body: bytes, properties: spec.Basic.Properties
    ) -> Outcome:
        channel = lane.channel
        assert channel is not None
        try:
            await channel.basic_publish(
                body,
                exchange=target.exchange,
                routing_key=target.routing_key,
                properties=properties,
                mandatory=True,
            )
        except DeliveryError as error:
            return Outcome.retry(refusal(error, target))
        except ChannelInvalidStateError:  # it was closed while this message waited its turn
            return Outcome.retry(await self._why_closed(channel))
        except (AMQPError, OSError) as error:
            return Outcome.retry(told(error))
        except asyncio.CancelledError:
            return Outcome.retry(self._reason)
        except (TypeError, ValueError):
            return UNSENDABLE
        return Outcome.delivered()

    async def _why_closed(self, channel: AbstractChannel) -> str:
        closing = channel.closing
        try:
            await asyncio.wait([closing])  # the client is about to say it
        except asyncio.CancelledError:
            return self._reason
        error = None if closing.cancelled() else closing.exception()
        return "the channel was closed" if error is None else told(error)

    def _forget_message(self, lane: _Lane, timer_id: str, message: asyncio.Task[Outcome]) -> None:
        del lane.messages[timer_id]
        self._messages -= 1
        self._tasks.discard(message)

    # Channels

    def _lane(self, exchange: str) -> _Lane | None:
        lane = self._lanes.get(exchange)
        if lane is not None:
            self._lanes.move_to_end(exchange)
            return lane
        unused = None
        if len(self._lanes) >= self._limits.channels_max:
            unused = next((name for name, lane in self._lanes.items() if lane.is_idle), None)
            if unused is None:
                return None
        lane = self._lanes[exchange] = _Lane()
        old = None if unused is None else self._lanes.pop(unused).channel
        lane.opening = asyncio.create_task(self._open(exchange, lane, old))
        self._tasks.add(lane.opening)
        lane.opening.add_done_callback(self._tasks.discard)
        return lane

    async def _open(self, exchange: str, lane: _Lane, old: AbstractChannel | None) -> None:
        timeout_s = self._limits.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if old is not None:
                    await old.close()
                # Left to itself, the client counts up until it is beyond what the broker allows.
                number = next(n for n in count(1) if n not in self._connection.channels)
                channel = await self._connection.channel(number, on_return_raises=True)
                lane.channel = self._guarded(channel)
        except TimeoutError:
            lane.reason = f"the broker has opened no channel in {timeout_s:g} s"
            self._socket.abort()  # nobody knows in what state the channel is
        except asyncio.CancelledError:
            lane.reason = self._reason
        except (AMQPError, OSError, RuntimeError) as error:
            lane.reason = told(error)
        if lane.channel is None:
            self._forget_lane(exchange, lane)
        else:
            lane.channel.closing.add_done_callback(lambda _: self._forget_lane(exchange, lane))

    def _guarded(self, channel: AbstractChannel) -> AbstractChannel:
        assert isinstance(channel, aiormq.Channel)
        outbox = Outbox(channel.write_queue, self._socket.abort)
        channel.write_queue = outbox  # type: ignore[assignment]  # a channel uses no more of it
        return channel

    def _forget_lane(self, exchange: str, lane: _Lane) -> None:
        if self._lanes.get(exchange) is lane:
            del self._lanes[exchange]

    # The end

    def _ended(self, closing: asyncio.Future[None]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._reason = "the connection was closed" if error is None else told(error)
        self._cut_off()
        self._on_lost(self, self._reason)

    def _cut_off(self) -> None:
        # The client fails what waits for an answer, but not what still waits to be sent.
        for task in self._tasks:
            task.cancel()
