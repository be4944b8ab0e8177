"""Any node takes any request: it is carried out here, or by the node that holds its slot.

Operations for one node that come together travel in one message. A node that does not hold the slot
(any more) says so, and the table of holders is asked again, until the time is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from skyring.clock import Clock
from skyring.errors import Fenced, SkyringError, TooLarge, Unavailable, Uncertain
from skyring.ring.bus import Bus, NobodyThere
from skyring.ring.messages import (
    ALONE,
    MOVED,
    TOO_LONG,
    Garbled,
    OperationsQuestion,
    decode_operations_answer,
    encode,
)
from skyring.ring.routing import RoutingTable
from skyring.tasks import wait_for_event

__all__ = ["Execute", "Moved", "Operation", "Router", "RouterLimits"]

Execute = Callable[[bytes], Awaitable[bytes]]
"""Carries out an operation on slots that are held here; raises Fenced if they are not."""
FRAME_BYTES = 4_096
"""More than what a message adds to an operation, or to the timer in it when it is shown."""
OPERATION_BYTES = 16
"""More than what a message adds to each of several operations."""
GIVEN_UP_MAX = 200
"""Questions without an answer that are named in the next one; they fit into FRAME_BYTES."""
PEERS_MAX = 1_000
"""Nodes that may owe answers."""
ALONE_TRIES = 10
PAUSE_S_MIN, PAUSE_S_MAX = 0.02, 0.5
"""Before a slot without a holder is looked at again, unless the table changes before that."""


class Moved(Unavailable):
    """The node that was asked does not hold the slot."""


class _Alone(Uncertain):
    """It was done, and its answer has to be asked for again."""


class Operation(Protocol):
    """Something to be done in a slot."""

    def encode(self, waited_ms: int, repeated: bool) -> bytes:
        """The operation as it travels.

        Args:
            waited_ms: how long it has waited for its slot, rounded down.
            repeated: was it sent before, so that it may have been done already?
        """


class RouterLimits(NamedTuple):
    """Bounds of the router."""

    request_timeout_ms: int = 10_000
    """How long an operation waits for its slot."""
    waiting_max: int = 10_000
    """Operations under way to other nodes; more are refused with Unavailable."""
    batch_operations_max: int = 256
    batch_bytes_max: int = 256 << 10
    batches_max: int = 8
    """Messages under way to one node."""
    hold_ms: int = 2
    """While a message is under way, further operations are held so long to travel together: each
    message costs three processes more than an operation in it."""


class _Waiting(NamedTuple):
    operation: bytes
    until_ms: int
    answer: asyncio.Future[bytes | int]


class _Peer:
    """What is on its way to one node."""

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.under_way = 0
        self.carrying: set[asyncio.Task[Any]] = set()
        self.next: asyncio.Handle | None = None
        """When the next message begins, if that is settled."""


class Router:
    """Sends operations to where their slots are.

    Args:
        me: name of this node.
        bus: the way to the others.
        table: who holds what.
        is_here: does this node hold a slot, and may it act?
        execute: carries operations out here.
        spawn: begins a task that belongs to the ring.
        clock: for waits.
        limits: bounds.
        incarnation: of this node.
    """

    def __init__(
        self,
        me: str,
        bus: Bus,
        table: RoutingTable,
        is_here: Callable[[int], bool],
        execute: Execute,
        spawn: Callable[[Awaitable[None]], bool],
        clock: Clock,
        limits: RouterLimits,
        incarnation: Callable[[], int],
    ) -> None:
        self._me = me
        self._incarnation = incarnation
        self._asked = 0
        self._given_up: dict[str, deque[int]] = {}
        """Numbers of questions to each node that had no answer."""
        self._bus = bus
        self._table = table
        self.is_here = is_here
        self._execute = execute
        self._spawn = spawn
        self._clock = clock
        self._limits = limits
        self._peers: dict[str, _Peer] = {}
        self._under_way = 0
        self._changed = asyncio.Event()

    @property
    def operation_bytes_max(self) -> int:
        """Of an operation as it travels, and of its answer, as far as is known now."""
        return self._bus.payload_bytes_max - FRAME_BYTES

    def changed(self) -> None:
        """Slots have a new holder: whoever waits for one looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def holders(self) -> Mapping[str, list[int]]:
        """Slots by the node that holds them, this one among them."""
        return self._table.by_node()

    async def run(self, slot: int, operation: Operation) -> bytes:
        """Have an operation carried out by whoever holds its slot; its answer.

        Raises:
            Unavailable: nothing was done (Uncertain: perhaps it was).
            TooLarge: it does not fit into a message.
        """
        began_ms = self._clock.monotonic_ms()
        pause_s = PAUSE_S_MIN
        repeated = False
        while True:
            changed = self._changed
            waited_ms = self._clock.monotonic_ms() - began_ms
            left_ms = self._limits.request_timeout_ms - waited_ms
            if left_ms <= 0:
                break
            try:
                return await self._try(slot, operation.encode(waited_ms, repeated), left_ms)
            except Uncertain:
                repeated = True
            except (Fenced, Moved, NobodyThere):
                pass
            except Unavailable as error:
                if repeated:
                    raise Uncertain(f"it may be done or not: {error}") from error
                raise
            if not self._bus.is_up:
                break
            await wait_for_event(changed, min(pause_s, left_ms / 1000))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        if repeated:
            raise Uncertain("the node that holds this timer did not answer; it may be done or not")
        if not self._bus.is_up:
            raise Unavailable("this node has no connection to the ring")
        raise Unavailable("no node holds the slot of this timer now")

    async def run_at(self, node: str, operation: Operation) -> bytes:
        """Have an operation about several slots carried out by one node; its answer.

        Raises:
            Moved: that node does not hold all of them (any more).
            Unavailable: it cannot be reached.
        """
        encoded = operation.encode(0, False)
        if node == self._me:
            try:
                return await self._execute(encoded)
            except Fenced as error:
                raise Moved(str(error)) from error
        for _ in range(ALONE_TRIES):
            with suppress(_Alone):
                return await self._send(node, encoded, self._limits.request_timeout_ms)
        raise Unavailable(f"the answer of {node} does not fit into a message with others")

    async def _try(self, slot: int, operation: bytes, left_ms: int) -> bytes:
        if self.is_here(slot):
            return await self._execute(operation)
        holder = self._table.holder(slot)
        if holder == self._me and not self._bus.is_up:
            return await self._execute(operation)  # it can still be read; writing ends with Fenced
        if holder is None or holder == self._me:
            raise Moved("no node is known to hold it")
        return await self._send(holder, operation, left_ms)

    # To one other node

    async def _send(self, node: str, operation: bytes, left_ms: int) -> bytes:
        if len(operation) > self.operation_bytes_max:
            raise TooLarge(f"a timer may have {self.operation_bytes_max} bytes in this ring")
        if not self._incarnation():  # by it the others know a question that comes twice
            raise Moved("this node has not joined the ring yet")
        if self._under_way >= self._limits.waiting_max:
            raise Unavailable("too many requests are waiting for other nodes")
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer()
        done: asyncio.Future[bytes | int] = asyncio.get_running_loop().create_future()
        peer.waiting.append(_Waiting(operation, self._clock.monotonic_ms() + left_ms, done))
        if peer.next is None and peer.under_way < self._limits.batches_max:
            peer.next = self._begin_later(node, peer)
        self._under_way += 1
        try:
            answer = await done
        finally:
            self._under_way -= 1
        if isinstance(answer, bytes):
            return answer
        if answer == ALONE:
            raise _Alone(f"the answer of {node} did not fit into a message with others")
        if answer == MOVED:
            raise Moved(f"{node} does not hold it any more")
        if answer == TOO_LONG:
            raise Unavailable(f"the answer of {node} is longer than a message may be")
        raise Uncertain(f"{node} takes its time")

    def gone(self, node: str) -> None:
        """A node is dead, has left or was started anew: it answers nothing that it was asked."""
        peer = self._peers.get(node)
        if peer is not None:
            for carrying in list(peer.carrying):
                carrying.cancel()

    def _begin_later(self, node: str, peer: _Peer) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        if peer.under_way:
            return loop.call_later(self._limits.hold_ms / 1000, self._begin, node, peer)
        # The operations of this turn of the event loop travel together.
        return loop.call_soon(self._begin, node, peer)

    def _begin(self, node: str, peer: _Peer) -> None:
        if peer.next is not None:
            peer.next.cancel()
            peer.next = None
        batch = self._take(peer)
        if batch:
            peer.under_way += 1
            if not self._spawn(self._carry(node, peer, batch)):
                self._end(node, peer, batch, Unavailable("this node is stopping"))
                return
        if peer.waiting and peer.under_way < self._limits.batches_max:
            peer.next = self._begin_later(node, peer)

    def _take(self, peer: _Peer) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        now_ms = self._clock.monotonic_ms()
        bytes_max = min(self._limits.batch_bytes_max, self.operation_bytes_max)
        while peer.waiting and len(batch) < self._limits.batch_operations_max:
            size += len(peer.waiting[0].operation) + OPERATION_BYTES
            if batch and size > bytes_max:
                break
            waiting = peer.waiting.popleft()
            if waiting.answer.done():
                continue  # whoever asked has gone
            if now_ms < waiting.until_ms:
                batch.append(waiting)
            else:
                waiting.answer.set_exception(Unavailable("the node that holds it is too busy"))
        return batch

    async def _carry(self, node: str, peer: _Peer, batch: list[_Waiting]) -> None:
        self._asked += 1
        number, given_up = self._asked, list(self._given_up.get(node, ()))
        operations = [item.operation for item in batch]
        question = OperationsQuestion(operations, self._me, self._incarnation(), number, given_up)
        outcome: list[bytes | int] | SkyringError = Uncertain("this node is stopping")
        task = asyncio.current_task()
        assert task is not None, "it is run as one"
        peer.carrying.add(task)
        try:
            # It is waited for as long as it lives: whoever asks again adds to its work.
            data = await self._bus.ask(node, encode(question), self._limits.request_timeout_ms)
            outcome = decode_operations_answer(data).answers
            if len(outcome) != len(batch):
                outcome = Uncertain(f"{node} has answered something else")
        except Garbled as error:
            outcome = Uncertain(str(error))
        except (Unavailable, TooLarge) as error:
            outcome = error
        except asyncio.CancelledError:  # by `gone`, or because this node is stopping
            outcome = Uncertain(f"{node} is gone")
        finally:
            peer.carrying.discard(task)
            self._note(node, number, given_up, outcome)
            self._end(node, peer, batch, outcome)

    def _note(
        self,
        node: str,
        number: int,
        given_up: Sequence[int],
        outcome: Sequence[bytes | int] | SkyringError,
    ) -> None:
        """A question without an answer may still be on its way, and come after what follows it.

        So the next ones to that node name it, until one of them is answered.
        """
        if isinstance(outcome, Uncertain):
            self._given_up.setdefault(node, deque(maxlen=GIVEN_UP_MAX)).append(number)
            if len(self._given_up) > PEERS_MAX:
                del self._given_up[next(iter(self._given_up))]
        elif not isinstance(outcome, SkyringError) and given_up:
            left = [each for each in self._given_up.get(node, ()) if each not in given_up]
            if left:
                self._given_up[node] = deque(left, GIVEN_UP_MAX)
            else:
                self._given_up.pop(node, None)

    def _end(
        self,
        node: str,
        peer: _Peer,
        batch: list[_Waiting],
        outcome: list[bytes | int] | SkyringError,
    ) -> None:
        peer.under_way -= 1
        for index, item in enumerate(batch):
            if item.answer.done():
                continue
            if isinstance(outcome, SkyringError):
                item.answer.set_exception(outcome)
            else:
                item.answer.set_result(outcome[index])
        if peer.waiting:
            self._begin(node, peer)
        elif not peer.under_way and peer.next is None:
            self._peers.pop(node, None)
