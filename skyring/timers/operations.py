"""The holder's side: operations that came from any node are carried out where their slot is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Sequence

from msgspec.structs import replace

from skyring.errors import (
    DeliveryInProgress,
    Fenced,
    NotFound,
    SkyringError,
    Unavailable,
    Uncertain,
)
from skyring.timers.pages import TimerPages
from skyring.timers.record import DEAD_PREFIX, DEAD_STOP, DUE_PREFIX, Record
from skyring.timers.schedule import DUE_STOP
from skyring.timers.service import Created, NewTimer, TimerService
from skyring.timers.wire import (
    Added,
    Answer,
    BadMessage,
    Cancel,
    Create,
    CreateMany,
    Done,
    Entry,
    Failed,
    Found,
    Get,
    PartRead,
    ReadPart,
    Results,
    RetryDeadLetter,
    Sent,
    Update,
    decode_new_record,
    decode_operation,
    encode_answer,
)

__all__ = ["TimerOperations"]

logger = logging.getLogger(__name__)

RANGES = {"pending": (DUE_PREFIX, DUE_STOP), "dead": (DEAD_PREFIX, DEAD_STOP)}
ADDED = encode_answer(Added(True))
BULKS_MAX = 16
"""Bulk creates that are carried out at once."""


class TimerOperations:
    """Carries out encoded operations on the timers of this node.

    Args:
        service: the timers.
        pages: lists and dead letters.
    """

    def __init__(self, service: TimerService, pages: TimerPages) -> None:
        self._service = service
        self._pages = pages
        self._clock = service.clock
        self._bulks = asyncio.Semaphore(BULKS_MAX)

    async def execute(self, operation: bytes) -> bytes:
        """Carry out an operation; its answer, which may be an error.

        Raises:
            Fenced: nothing was changed, because a slot of it is not held here.
            BadMessage: the operation cannot be read.
        """
        return await self._carry_out(decode_operation(operation))

    async def _carry_out(self, sent: Sent) -> bytes:
        try:
            answer = await self._answer(sent)
        except (Fenced, BadMessage):
            raise
        except SkyringError as error:
            answer = Failed.of(_of_both(error) if sent.repeated else error)
        return encode_answer(answer)

    def execute_many(
        self, operations: Sequence[bytes]
    ) -> Iterator[tuple[Sequence[int], Awaitable[Sequence[bytes | None]]]]:
        """Carry out operations that came together: timers that are new are stored together.

        Returns:
            Groups: the places of their operations, and the answers to come. None is the answer of
            one that was not carried out: a slot is not held here, or it cannot be read.
        """
        timers: list[NewTimer] = []
        places: list[int] = []
        for place, operation in enumerate(operations):
            try:
                sent = decode_operation(operation)
                wanted = sent.operation
                if type(wanted) is not Create or wanted.named or sent.repeated:
                    yield [place], self._one(sent)
                    continue
                timers.append(self._new(sent, wanted))
                places.append(place)
            except BadMessage as error:
                yield [place], self._refuse(error)
        if timers:
            yield places, self._add(timers)

    async def _one(self, sent: Sent) -> list[bytes | None]:
        try:
            return [await self._carry_out(sent)]
        except Fenced:
            return [None]
        except BadMessage as error:
            return await self._refuse(error)

    async def _refuse(self, error: BadMessage) -> list[bytes | None]:
        logger.warning("an operation of another node is not carried out: %s", error)
        return [None]

    async def _add(self, timers: Sequence[NewTimer]) -> list[bytes | None]:
        return [
            ADDED
            if isinstance(result, Created)
            else None
            if isinstance(result, Fenced)
            else encode_answer(Failed.of(result))
            for result in await self._service.add_many(timers)
        ]

    async def _answer(self, sent: Sent) -> Answer:
        wanted = sent.operation
        if isinstance(wanted, Create):
            created = await self._service.add(self._new(sent, wanted), repeated=sent.repeated)
            return Added(created.new)
        if isinstance(wanted, CreateMany):
            return await self._create_many(sent, wanted)
        if isinstance(wanted, Update):
            return await self._update(sent, wanted)
        if isinstance(wanted, Get):
            return Found(*await self._service.find(wanted.id))
        if isinstance(wanted, ReadPart):
            return await self._part(wanted)
        if isinstance(wanted, Cancel):
            done, removing = {"cancel"}, self._service.cancel(wanted.id)
        elif isinstance(wanted, RetryDeadLetter):
            done, removing = {"retry", "delivery"}, self._pages.retry_dead_letter(wanted.id)
        else:
            done, removing = {"delete"}, self._pages.delete_dead_letter(wanted.id)
        try:
            await removing
        except DeliveryInProgress as error:
            if sent.repeated:  # of one who does not know yet that it is removed, perhaps
                raise Uncertain(f"it is done, or it is too late: {error}") from error
            raise
        except NotFound as error:
            went_by = self._service.went_by(wanted.id) if sent.repeated else "nothing"
            if went_by is None:
                raise Uncertain(f"it is done, or it was too late: {error}") from error
            if went_by not in done:
                raise
        return Done()

    async def _update(self, sent: Sent, wanted: Update) -> Done:
        try:
            await self._service.replace(wanted.id, self._record(sent, wanted.record))
        except (NotFound, DeliveryInProgress) as error:
            if sent.repeated and self._service.went_by(wanted.id) in (None, "delivery"):
                raise Uncertain(f"it was delivered, as it was or as updated: {error}") from error
            raise
        return Done()

    async def _create_many(self, sent: Sent, wanted: CreateMany) -> Results:
        timers = [self._new(sent, entry) for entry in wanted.timers]
        async with self._bulks:
            results = await self._service.add_many(timers, repeated=sent.repeated)
        if results and all(isinstance(result, Fenced) for result in results):
            raise Fenced("the slot is not held here any more")
        return Results(
            [
                Added(result.new)
                if isinstance(result, Created)
                else Failed.of(_of_both(result) if sent.repeated else result)
                for result in results
            ]
        )

    async def _part(self, wanted: ReadPart) -> PartRead:
        first, last = RANGES[wanted.kind]
        if not first <= wanted.start <= wanted.stop <= last:
            raise BadMessage("these are no bounds of a list")
        if not all(slot < self._service.slots for slot in wanted.slots):
            raise BadMessage("there is no such slot")
        return PartRead(
            await self._pages.part(
                wanted.kind,
                wanted.slots,
                wanted.start,
                wanted.stop,
                wanted.limit,
                wanted.bytes_max,
            )
        )

    def _new(self, sent: Sent, entry: Create | Entry) -> NewTimer:
        return NewTimer(entry.id, self._record(sent, entry.record), entry.named)

    def _record(self, sent: Sent, value: bytes) -> Record:
        """A record whose relative time-out is counted on the clock of this node.

        The clocks of two nodes differ: by the other one's the timer might be early here.
        """
        record = decode_new_record(value)
        if record.timeout_ms is None:
            return record
        now_ms = self._clock.ceil_ms()
        due_ms = max(0, now_ms - sent.waited_ms + record.timeout_ms)
        return replace(record, created_ms=now_ms, due_ms=due_ms, next_ms=due_ms)


def _of_both(error: SkyringError) -> SkyringError:
    """What is to be told of an operation that was sent before, and has failed this time.

    That nothing was done this time says nothing of the first.
    """
    if isinstance(error, Unavailable) and not isinstance(error, Uncertain):
        return Uncertain(f"it may be done or not: {error}", error.retry_after_s)
    return error
