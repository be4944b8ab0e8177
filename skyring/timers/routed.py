"""Timers of a whole ring: what is asked is done here, or by the node that holds the slot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from random import getrandbits
from typing import Any, TypeVar

from msgspec.structs import replace

from skyring.clock import Clock
from skyring.errors import Fenced, SkyringError, Unavailable, Uncertain
from skyring.timers.pages import Pages, TimerPages
from skyring.timers.parts import Part, PartKind
from skyring.timers.record import encode_record, view
from skyring.timers.request import BulkEntry, TimerRequest
from skyring.timers.route import Route
from skyring.timers.service import ENTRIES_PER_TURN, Created, NewTimer, TimerService
from skyring.timers.together import Together
from skyring.timers.wire import (
    Added,
    BadMessage,
    Cancel,
    Create,
    CreateMany,
    DeleteDeadLetter,
    Done,
    Entry,
    Failed,
    Found,
    Get,
    Operation,
    PartRead,
    ReadPart,
    Results,
    RetryDeadLetter,
    Update,
    decode_answer,
    encode_operation,
)

__all__ = ["RoutedPages", "RoutedTimers"]

MARK_BITS = 32
OPERATION_BYTES_MAX = 128 << 10
"""Ids and records in one message of a bulk create, unless a single one is larger."""
FRAME_BYTES = 32  # more than what a message adds to an id and a record
PART_BYTES_MAX = 256 << 10
"""Records in one answer when timers are listed, unless a single one is larger."""
PART_ENTRIES_MAX = 1_000
"""Their number."""
TRIES_MAX = 5
"""Times that a bulk create is sent anew because its slot has moved away in the middle of it."""

Expected = TypeVar("Expected")


class _Asked:
    """An operation on its way.

    Args:
        operation: what is to be done.
        clock: of this node.
        since_s: when the user asked for it, on the monotonic clock; None is now.
    """

    def __init__(self, operation: Operation, clock: Clock, since_s: float | None = None) -> None:
        self._operation = operation
        self._waited_ms = 0
        if since_s is not None:
            self._waited_ms = int((clock.monotonic_s() - since_s) * 1000)

    def encode(self, waited_ms: int, repeated: bool) -> bytes:
        return encode_operation(self._operation, self._waited_ms + waited_ms, repeated)


def _read(data: bytes, expected: type[Expected]) -> Expected:
    """The answer to an operation; raises the error that it is."""
    try:
        answer = decode_answer(data)
    except BadMessage as error:
        raise Uncertain(f"the answer of the node that holds it makes no sense: {error}") from error
    if isinstance(answer, Failed):
        raise answer.error()
    if not isinstance(answer, expected):
        raise Uncertain("the node that holds it has answered something else")
    return answer


class _Batch:
    """Timers of one slot that travel in one message, by their place among all."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.entries: dict[int, Entry] = {}
        self.bytes = 0


class _Changes:
    """Changes that are made here or by another node."""

    def __init__(self, route: Route, clock: Clock) -> None:
        self._route = route
        self._clock = clock

    async def _change(
        self,
        slot: int,
        here: Callable[[], Awaitable[None]],
        there: Operation,
        since_s: float | None = None,
    ) -> None:
        if self._route.is_here(slot):
            try:
                await here()
            except Fenced:
                pass  # it has just moved
            else:
                return
        _read(await self._route.run(slot, _Asked(there, self._clock, since_s)), Done)


class RoutedTimers(_Changes):
    """The operations of `TimerService` on all timers of the ring. Errors are the same.

    Args:
        here: timers of the slots that this node holds.
        route: the way to the others.
        random_bits: makes a number of so many random bits.
    """

    def __init__(
        self, here: TimerService, route: Route, random_bits: Callable[[int], int] = getrandbits
    ) -> None:
        super().__init__(route, here.clock)
        self._random_bits = random_bits
        self._here = here
        self._together = Together(here.slots)

    async def create(self, request: TimerRequest, timer_id: str | None = None) -> Created:
        """Store a timer; see `TimerService.create`."""
        since_s = self._clock.monotonic_s()
        timer = self._here.wanted(request, timer_id)
        if timer.named:
            timer = self._marked(timer)
        else:
            timer = NewTimer(self._together.place(timer.id, since_s), timer.record, False)
        slot = self._here.slot(timer.id)
        if self._route.is_here(slot):
            try:
                return await self._here.add(timer)
            except Fenced:
                pass
        operation = Create(timer.id, encode_record(timer.record), timer.named)
        asked = _Asked(operation, self._clock, since_s)
        return Created(timer.id, _read(await self._route.run(slot, asked), Added).new)

    async def update(self, timer_id: str, request: TimerRequest) -> None:
        """Replace a pending timer; see `TimerService.update`."""
        since_s = self._clock.monotonic_s()
        record = self._here.prepare(request)
        await self._change(
            self._here.slot(timer_id),
            partial(self._here.replace, timer_id, record),
            Update(timer_id, encode_record(record)),
            since_s,
        )

    async def cancel(self, timer_id: str) -> None:
        """Remove a pending timer; see `TimerService.cancel`."""
        slot = self._here.slot(timer_id)
        await self._change(slot, partial(self._here.cancel, timer_id), Cancel(timer_id))

    async def get(self, timer_id: str) -> dict[str, Any]:
        """A timer as the API shows it; see `TimerService.get`."""
        slot = self._here.slot(timer_id)
        if self._route.is_here(slot):
            try:
                return await self._here.get(timer_id)
            except Fenced:
                pass
        asked = _Asked(Get(timer_id), self._clock)
        found = _read(await self._route.run(slot, asked), Found)
        return view(timer_id, found.value, found.state)

    async def create_many(
        self, entries: Sequence[BulkEntry | SkyringError]
    ) -> list[Created | SkyringError]:
        """Store many timers; see `TimerService.create_many`."""
        since_s = self._clock.monotonic_s()
        prepared = await self._here.prepare_many(entries)
        timers = [self._marked(entry) for entry in prepared if isinstance(entry, NewTimer)]
        results = iter(await self._add_many(timers, since_s))
        return [next(results) if isinstance(entry, NewTimer) else entry for entry in prepared]

    def _marked(self, timer: NewTimer) -> NewTimer:
        """An id of the user's own can be used again: a mark tells this request from others."""
        if not timer.named:
            return timer
        return timer._replace(record=replace(timer.record, mark=self._random_bits(MARK_BITS)))

    async def _add_many(
        self, timers: Sequence[NewTimer], since_s: float
    ) -> list[Created | SkyringError]:
        results: list[Created | SkyringError] = [Fenced("not stored yet")] * len(timers)
        here: list[int] = []
        there: list[int] = []
        for index, timer in enumerate(timers):
            is_here = self._route.is_here(self._here.slot(timer.id))
            (here if is_here else there).append(index)

        async def add_here() -> None:
            outcomes = await self._here.add_many([timers[index] for index in here])
            for index, outcome in zip(here, outcomes, strict=True):
                results[index] = outcome

        batches = await self._batches(timers, there)
        await asyncio.gather(
            add_here(), *(self._add_there(batch, results, since_s) for batch in batches)
        )
        moved = [index for index in here if isinstance(results[index], Fenced)]
        if moved:
            batches = await self._batches(timers, moved)
            await asyncio.gather(*(self._add_there(batch, results, since_s) for batch in batches))
        return results

    async def _batches(self, timers: Sequence[NewTimer], chosen: Sequence[int]) -> list[_Batch]:
        """Some of the timers as they travel: by slot, and not too many bytes in one message.

        One that is too large for a message travels alone, and is refused alone.
        """
        bytes_max = min(OPERATION_BYTES_MAX, self._route.operation_bytes_max - FRAME_BYTES)
        batches: list[_Batch] = []
        filling: dict[int, _Batch] = {}
        for count, index in enumerate(chosen):
            if count % ENTRIES_PER_TURN == ENTRIES_PER_TURN - 1:
                await asyncio.sleep(0)
            timer = timers[index]
            entry = Entry(timer.id, encode_record(timer.record), timer.named)
            slot = self._here.slot(timer.id)
            batch = filling.get(slot)
            size = len(entry.record) + len(entry.id) + FRAME_BYTES
            if batch is None or batch.bytes + size > bytes_max:
                batch = filling[slot] = _Batch(slot)
                batches.append(batch)
            batch.entries[index] = entry
            batch.bytes += size
        return batches

    async def _add_there(
        self, batch: _Batch, results: list[Created | SkyringError], since_s: float
    ) -> None:
        left = batch.entries
        for _ in range(TRIES_MAX):
            asked = _Asked(CreateMany(list(left.values())), self._clock, since_s)
            try:
                answer = _read(await self._route.run(batch.slot, asked), Results)
                if len(answer.results) != len(left):
                    raise Uncertain("the node that holds them has answered something else")
            except SkyringError as error:
                for index in left:
                    results[index] = error
                return
            for (index, entry), result in zip(left.items(), answer.results, strict=True):
                if isinstance(result, Added):
                    results[index] = Created(entry.id, result.new)
                else:
                    results[index] = result.error()
            # Some were stored before the slot moved away, the others were not.
            left = {i: entry for i, entry in left.items() if isinstance(results[i], Fenced)}
            if not left:
                return
        for index in left:
            results[index] = Unavailable("its slot moves again and again")


class RoutedPages(Pages, _Changes):
    """The lists of `TimerPages` over all timers of the ring, and all its dead letters.

    Args:
        here: what this node holds.
        route: the way to the others.
        part_bytes_max: records in one answer of a node; the longer a page, the more answers.
    """

    def __init__(
        self, here: TimerPages, route: Route, part_bytes_max: int = PART_BYTES_MAX
    ) -> None:
        Pages.__init__(self, here.page_bytes_max, part_bytes_max, PART_ENTRIES_MAX)
        _Changes.__init__(self, route, here.clock)
        self._here = here

    async def retry_dead_letter(self, timer_id: str) -> None:
        here = partial(self._here.retry_dead_letter, timer_id)
        await self._change(self._here.slot(timer_id), here, RetryDeadLetter(timer_id))

    async def delete_dead_letter(self, timer_id: str) -> None:
        here = partial(self._here.delete_dead_letter, timer_id)
        await self._change(self._here.slot(timer_id), here, DeleteDeadLetter(timer_id))

    async def _parts(
        self, kind: PartKind, start: bytes, stop: bytes, limit: int, bytes_max: int
    ) -> Sequence[Part]:
        """Each holder is asked once for all its slots; what is missing then, slot by slot.

        The latter waits for a new holder where there is none, so that no slot is left out.
        """

        bytes_max = min(bytes_max, self._route.operation_bytes_max // 2)

        def asking(slots: Sequence[int], share: int = 1) -> _Asked:
            wanted = ReadPart(list(slots), kind, start, stop, limit, bytes_max // share)
            return _Asked(wanted, self._clock)

        missing = set(range(self._here.slots))
        by_node: list[tuple[str, list[int]]] = []
        for node, slots in self._route.holders().items():
            chosen = sorted(missing.intersection(slots))
            missing.difference_update(chosen)
            if chosen:
                by_node.append((node, chosen))
        parts: list[Part] = []
        answers = await _all(self._route.run_at(node, asking(slots)) for node, slots in by_node)
        for (_, slots), answer in zip(by_node, answers, strict=True):
            if isinstance(answer, bytes):
                parts.append(_part(answer, start))
            elif isinstance(answer, (Unavailable, Fenced)):
                missing.update(slots)
            else:
                raise answer
        alone = sorted(missing)
        for answer in await _all(
            self._route.run(slot, asking([slot], len(alone))) for slot in alone
        ):
            if not isinstance(answer, bytes):
                raise answer
            parts.append(_part(answer, start))
        return parts


async def _all(asked: Iterable[Awaitable[bytes]]) -> list[bytes | BaseException]:
    """All answers and errors, in order; none is left behind when another fails."""
    return await asyncio.gather(*asked, return_exceptions=True)


def _part(answer: bytes, start: bytes) -> Part:
    part = _read(answer, PartRead).part
    if part.end is not None and part.end <= start:
        raise Unavailable("a node has answered something else than was asked")
    return part
