"""What a node answers when another asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from skyring.errors import Fenced, SkyringError
from skyring.ring.host import SlotHost
from skyring.ring.messages import (
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
            answers = [await self._operation(operations[0][1])]
        else:
            answers = await asyncio.gather(*(self._operation(item) for _, item in operations))
        return encode(OperationsAnswer(self._fitting(answers)))

    def _fitting(self, answers: Sequence[bytes | None]) -> list[bytes | bool | None]:
        """As many answers as one message can carry."""
        fitting: list[bytes | bool | None] = []
        room = bytes_max = self._bytes_max() - FRAME_BYTES * (len(answers) + 1)
        for answer in answers:
            size = 0 if answer is None else len(answer)
            if size <= room:
                room -= size
                fitting.append(answer)
            else:
                fitting.append(size <= bytes_max)
        return fitting

    async def _operation(self, operation: bytes) -> bytes | None:
        try:
            return await self._execute(operation)
        except Fenced:
            return None
        except SkyringError as error:  # it cannot be read, so nothing was done either
            logger.warning("an operation of another node is not carried out: %s", error)
            return None
