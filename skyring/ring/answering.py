"""What a node answers when another asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from skyring.errors import Unavailable
from skyring.ring.bus import Answer
from skyring.ring.host import SlotHost
from skyring.ring.messages import (
    ALONE,
    LATE,
    MOVED,
    TOO_LONG,
    Garbled,
    OperationsAnswer,
    OperationsQuestion,
    ProbeAnswer,
    ReleaseAnswer,
    ReleaseQuestion,
    decode_question,
    encode,
)
from skyring.ring.replays import Replays
from skyring.ring.slots import pack_slots, unpack_slots

__all__ = ["Answering", "ExecuteMany"]

logger = logging.getLogger(__name__)

ExecuteMany: TypeAlias = Callable[
    [Sequence[bytes]], Iterable[tuple[Sequence[int], Awaitable[Sequence[bytes | None]]]]
]
"""Carries out operations in groups: the places of those of a group, and their answers to come;
None is the answer of one whose slot is not held here."""

LATE_S = 1.0
"""After this time an answer is given without those that are not done."""
QUESTIONS_MAX = 10_000
"""That are answered at once; more are dropped."""
FRAME_BYTES = 16
"""More than what a message adds to an answer."""


class Answering:
    """Answers the questions of other nodes.

    Args:
        host: who keeps the slots.
        execute_many: carries out operations.
        slots: how many slots there are.
        incarnation: of this node.
        bytes_max: the longest answer.
        released: called when slots were given to a node.
        is_claiming: is this node claiming a slot in this moment?
        spawn: begins a task that belongs to the ring.
        garbled: told of questions that cannot be read.
    """

    def __init__(
        self,
        host: SlotHost,
        execute_many: ExecuteMany,
        slots: int,
        incarnation: Callable[[], int],
        bytes_max: Callable[[], int],
        released: Callable[[frozenset[int], str], None],
        is_claiming: Callable[[int], bool],
        spawn: Callable[[Awaitable[None]], bool],
        garbled: Callable[[Garbled], None],
    ) -> None:
        self._host = host
        self._execute_many = execute_many
        self._slots = slots
        self._incarnation = incarnation
        self._bytes_max = bytes_max
        self._released = released
        self._is_claiming = is_claiming
        self._spawn = spawn
        self._garbled = garbled
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._replays = Replays()
        self._late: set[asyncio.Future[Sequence[bytes | None]]] = set()

    def take(self, question: bytes, answer: Answer) -> None:
        """Begin to answer a question."""
        if self._under_way < QUESTIONS_MAX and self._spawn(self._take(question, answer)):
            self._under_way += 1
            self._idle.clear()

    async def idle(self) -> None:
        """Wait until all that were taken have been answered."""
        await self._idle.wait()

    async def _take(self, question: bytes, answer: Answer) -> None:
        try:
            answer(await self.answer(question))
        except Garbled as error:
            self._garbled(error)
        except Unavailable as error:
            logger.debug("a question is not answered: %s", error)
        except Exception:  # a defect; whoever asked takes it for an answer that was lost
            logger.exception("a question of another node failed")
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def answer(self, data: bytes) -> bytes:
        """The answer to a question.

        Raises:
            Garbled: it cannot be read.
            Unavailable: it came before.
        """
        question = decode_question(data)
        if isinstance(question, OperationsQuestion):
            return await self._operations(question)
        if isinstance(question, ReleaseQuestion):
            return await self._release(question)
        return encode(ProbeAnswer(self._incarnation()))

    async def _release(self, question: ReleaseQuestion) -> bytes:
        wanted = unpack_slots(question.slots, self._slots)
        released = await self._host.release(wanted.intersection(self._host.held()))
        if released:
            self._released(released, question.node)
        # For these it does not act, and will not without a new claim, which the log would refuse.
        held = self._host.held()
        free = {slot for slot in wanted if slot not in held and not self._is_claiming(slot)}
        return encode(ReleaseAnswer(pack_slots(released | free)))

    async def _operations(self, question: OperationsQuestion) -> bytes:
        asker = (question.node, question.incarnation)
        for number in question.given_up:
            self._replays.is_new(*asker, number)
        if question.number and not self._replays.is_new(*asker, question.number):
            raise Unavailable(f"question {question.number} of {question.node} came before")
        answers: list[bytes | int] = [LATE] * len(question.operations)
        groups = [
            (places, asyncio.ensure_future(work))
            for places, work in self._execute_many(question.operations)
        ]
        tasks = {task for _, task in groups}
        self._late |= tasks
        for task in tasks:
            task.add_done_callback(self._late.discard)
        try:
            # What takes its time must not hold up what travels with it.
            await asyncio.wait(tasks, timeout=LATE_S)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for places, task in groups:
            if not task.done():
                continue
            try:
                for place, answer in zip(places, task.result(), strict=True):
                    answers[place] = MOVED if answer is None else answer
            except Exception:  # a defect; whoever asked takes it for one that has no answer yet
                logger.exception("operations of another node failed")
        return encode(OperationsAnswer(self._fitting(answers)))

    def _fitting(self, answers: Sequence[bytes | int]) -> list[bytes | int]:
        """As many answers as one message can carry."""
        fitting: list[bytes | int] = []
        room = bytes_max = self._bytes_max() - FRAME_BYTES * (len(answers) + 1)
        for answer in answers:
            size = 0 if isinstance(answer, int) else len(answer)
            if size <= room:
                room -= size
                fitting.append(answer)
            else:
                fitting.append(ALONE if size <= bytes_max else TOO_LONG)
        return fitting
