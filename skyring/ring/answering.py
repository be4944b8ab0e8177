"""What a node answers when another asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from skyring.errors import Fenced, SkyringError
from skyring.ring.host import SlotHost
from skyring.ring.messages import (
    ALONE,
    LATE,
    MOVED,
    TOO_LONG,
    OperationsAnswer,
    OperationsQuestion,
    ProbeAnswer,
    ReleaseAnswer,
    ReleaseQuestion,
    decode_question,
    encode,
)
from skyring.ring.router import Execute
from skyring.ring.slots import pack_slots, unpack_slots

__all__ = ["Answering"]

logger = logging.getLogger(__name__)

LATE_S = 1.0
"""After this time an answer is given without those that are not done."""
FRAME_BYTES = 16
"""More than what a message adds to an answer."""


class Answering:
    """Answers the questions of other nodes.

    Args:
        host: who keeps the slots.
        execute: carries out operations.
        slots: how many slots there are.
        incarnation: of this node.
        bytes_max: the longest answer.
        released: called when slots were given to a node.
    """

    def __init__(
        self,
        host: SlotHost,
        execute: Execute,
        slots: int,
        incarnation: Callable[[], int],
        bytes_max: Callable[[], int],
        released: Callable[[frozenset[int], str], None],
    ) -> None:
        self._host = host
        self._execute = execute
        self._slots = slots
        self._incarnation = incarnation
        self._bytes_max = bytes_max
        self._released = released
        self._late: set[asyncio.Future[bytes | int]] = set()

    async def answer(self, data: bytes) -> bytes:
        """The answer to a question.

        Raises:
            Garbled: it cannot be read.
        """
        question = decode_question(data)
        if isinstance(question, OperationsQuestion):
            return await self._operations(question)
        if isinstance(question, ReleaseQuestion):
            return await self._release(question)
        return encode(ProbeAnswer(self._incarnation()))

    async def _release(self, question: ReleaseQuestion) -> bytes:
        wanted = unpack_slots(question.slots, self._slots).intersection(self._host.held())
        released = await self._host.release(wanted, at_once=False)
        if released:
            self._released(released, question.node)
        return encode(ReleaseAnswer(pack_slots(released)))

    async def _operations(self, question: OperationsQuestion) -> bytes:
        operations = question.operations
        if len(operations) == 1:
            return encode(
                OperationsAnswer(self._fitting([await self._operation(operations[0][1])]))
            )
        tasks = [asyncio.ensure_future(self._operation(item)) for _, item in operations]
        self._late.update(tasks)
        try:
            # One that takes its time must not hold up those that travel with it.
            _, late = await asyncio.wait(tasks, timeout=LATE_S)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for task in late:
            task.add_done_callback(self._late.discard)
        self._late.difference_update(set(tasks) - late)
        answers = [LATE if task in late else task.result() for task in tasks]
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

    async def _operation(self, operation: bytes) -> bytes | int:
        try:
            return await self._execute(operation)
        except Fenced:
            return MOVED
        except SkyringError as error:  # it cannot be read, so nothing was done either
            logger.warning("an operation of another node is not carried out: %s", error)
            return MOVED
        except Exception:  # a defect; whoever asked takes it for one without an answer
            logger.exception("an operation of another node failed")
            return LATE
