"""Three nodes with a third of the slots each answer as one node with all of them does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from skyring.clock import ManualClock
from skyring.errors import (
    Conflict,
    Fenced,
    InvalidRequest,
    NotFound,
    SkyringError,
    TooLarge,
    Unavailable,
    Uncertain,
)
from skyring.settings import DeliverySettings, RetrySettings
from skyring.storage.base import Write
from skyring.storage.memory import MemoryStorage
from skyring.testing import Recorder
from skyring.timers import routed, wire
from skyring.timers.facade import Timers
from skyring.timers.operations import TimerOperations
from skyring.timers.pages import Page, Pages, TimerPages
from skyring.timers.recent import RecentIds
from skyring.timers.record import (
    DUE_PREFIX,
    Hint,
    Record,
    dead_key,
    decode_record,
    due_key,
    encode_record,
    timer_key,
    writes_delete,
)
from skyring.timers.request import BulkEntry, TimerRequest
from skyring.timers.route import Routed
from skyring.timers.routed import RoutedPages, RoutedTimers
from skyring.timers.service import Created, TimerService
from skyring.timers.state import TimerState
from skyring.timers.wire import (
    BadMessage,
    Cancel,
    Create,
    CreateMany,
    Get,
    ReadPart,
    decode_operation,
    encode_operation,
)
from skyring.transports.base import Callback

SLOTS = 16
NODES = ("one", "two", "three")
PAGE_BYTES = 4_096
HOUR_MS = 3_600_000
TRIES_MAX = 50


class Storage(MemoryStorage):
    """Loses its slots after some commits, if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.commits_left: int | None = None

    def commit(self, slot: int, writes: Sequence[Write]) -> Any:
        if self.commits_left is not None:
            if not self.commits_left:
                raise Fenced("lost just now")
            self.commits_left -= 1
        return super().commit(slot, writes)


class Holder:
    """What a node has of the timers."""

    def __init__(self, clock: ManualClock, slots: int = SLOTS) -> None:
        self.clock = clock
        self.storage = Storage()
        gone = RecentIds(20.0, 1_000)
        self.state = TimerState(self.storage, clock, slots, 1_000, gone=gone)
        self.service = TimerService(
            self.state, {"recorder": Recorder()}, DeliverySettings(), RetrySettings()
        )
        self.pages = TimerPages(self.state, PAGE_BYTES)
        self.operations = TimerOperations(self.service, self.pages)

    async def hold(self, *slots: int) -> None:
        await self.storage.open()
        await self.storage.acquire(slots)
        self.state.serve(slots)

    async def bury(self, timer_id: str) -> None:
        """Make a timer a dead letter, as after its last attempt."""
        slot = self.state.slot(timer_id)
        value = await self.storage.get(slot, timer_key(timer_id))
        assert value is not None
        record = decode_record(value)
        dead = msgspec.structs.replace(record, attempts=3, last_error="no")
        await self.storage.commit(
            slot, [*writes_delete(timer_id, record), (dead_key(timer_id), encode_record(dead))]
        )


class Ring:
    """Nodes in one process, and who of them holds what."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.nodes = {name: Holder(clock) for name in NODES}
        self.holder: dict[int, str] = {slot: NODES[slot % 3] for slot in range(SLOTS)}
        self.sent = 0
        self.lost_answers: Iterator[bool] = iter(())
        """For each operation that is sent: does its answer get lost?"""
        self.on_send: Callable[[int], Awaitable[None]] | None = None
        """Called before each operation, with its number."""

    async def open(self) -> None:
        for name, node in self.nodes.items():
            await node.hold(*(slot for slot, at in self.holder.items() if at == name))

    async def move(self, slot: int, to: str | None) -> None:
        """Move a slot with all that is in it; to None leaves it without a holder."""
        old = self.nodes[self.holder.pop(slot)]
        kept = await old.storage.scan(slot, b"", b"\xff", 1 << 30)
        await old.storage.commit(slot, [(key, None) for key, _ in kept])
        await old.storage.release([slot])
        old.state.drop([slot])
        if to is not None:
            await self.give(slot, to, kept)

    async def give(self, slot: int, to: str, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        node = self.nodes[to]
        await node.storage.acquire([slot])
        await node.storage.commit(slot, list(pairs))
        node.state.serve([slot])
        self.holder[slot] = to

    def of(self, timer_id: str) -> Holder:
        """The node that holds a timer."""
        return self.nodes[self.holder[self.nodes["one"].state.slot(timer_id)]]

    def entry(self, name: str = "one", part_bytes_max: int = 1 << 20) -> Entry:
        return Entry(self, name, part_bytes_max)


class TestRoute:
    """The way of one node to the others, without a bus."""

    __test__ = False

    def __init__(self, ring: Ring, me: str) -> None:
        self._ring = ring
        self._me = me
        self.believed: dict[str, Sequence[int]] | None = None
        """What `holders` says, if not the truth."""
        self.thinks_here: set[int] = set()
        """Slots that it takes for its own although they are not."""
        self.repeats: list[bool] = []
        self.waited_ms = 0
        self.operation_bytes_max = 1 << 20

    def is_here(self, slot: int) -> bool:
        return slot in self.thinks_here or self._ring.holder.get(slot) == self._me

    async def run(self, slot: int, operation: Routed) -> bytes:
        repeated = False
        for _ in range(TRIES_MAX):
            encoded = operation.encode(self.waited_ms, repeated)
            holder = self._ring.holder.get(slot)
            if holder is not None:
                self.repeats.append(repeated)
                try:
                    answer = await self._send(holder, encoded)
                except Fenced:
                    continue
                if not next(self._ring.lost_answers, False):
                    return answer
                repeated = True
            await asyncio.sleep(0)
        raise Unavailable("no node holds it", 7)

    async def run_at(self, node: str, operation: Routed) -> bytes:
        try:
            return await self._send(node, operation.encode(0, False))
        except Fenced as error:
            raise Unavailable("moved") from error

    def holders(self) -> dict[str, Sequence[int]]:
        if self.believed is not None:
            return self.believed
        held: dict[str, list[int]] = {}
        for slot, name in self._ring.holder.items():
            held.setdefault(name, []).append(slot)
        return dict(held)

    async def _send(self, node: str, encoded: bytes) -> bytes:
        self._ring.sent += 1
        if self._ring.on_send is not None:
            await self._ring.on_send(self._ring.sent)
        if len(encoded) > self.operation_bytes_max:
            raise TooLarge("an operation does not fit into a message")
        answer = await self._ring.nodes[node].operations.execute(encoded)
        if len(answer) > self.operation_bytes_max:
            raise Unavailable("the answer does not fit into a message")
        return answer


class Entry:
    """A node as its users see it."""

    def __init__(self, ring: Ring, name: str, part_bytes_max: int) -> None:
        self.route = TestRoute(ring, name)
        here = ring.nodes[name]
        self.service = RoutedTimers(here.service, self.route)
        self.pages: Pages = RoutedPages(here.pages, self.route, part_bytes_max)


class Alone:
    """The same with one node."""

    def __init__(self, clock: ManualClock) -> None:
        self.node = Holder(clock)
        self.service = self.node.service
        self.pages: Pages = self.node.pages


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def ring(clock: ManualClock) -> Ring:
    made = Ring(clock)
    await made.open()
    return made


@pytest.fixture
async def alone(clock: ManualClock) -> Alone:
    made = Alone(clock)
    await made.node.hold(*range(SLOTS))
    return made


def request(timeout: int = 1_000, data: str = "null", **more: Any) -> TimerRequest:
    callback = Callback("recorder", "give", more.pop("uri", "here"))
    return TimerRequest(callback, timeout, data=msgspec.Raw(data.encode()), **more)


def entry(timer_id: str | None, timeout: int = 1_000, **more: Any) -> BulkEntry:
    asked = request(timeout, **more)
    return BulkEntry(
        asked.callback,
        asked.timeout,
        asked.at,
        asked.data,
        UNSET if timer_id is None else timer_id,
    )


def name_in(slot: int, name: str = "timer", slots: int = SLOTS) -> str:
    """An id of a slot."""
    state = TimerState(MemoryStorage(), ManualClock(), slots, 10)
    return next(
        timer_id for number in range(10_000) if state.slot(timer_id := f"{name}-{number}") == slot
    )


async def told(asked: Awaitable[Any]) -> Any:
    """What came of it, in a form that can be compared."""
    try:
        answer = await asked
    except SkyringError as error:
        return seen(error)
    if isinstance(answer, list):
        return [seen(each) for each in answer]
    return seen(answer)


def seen(answer: Any) -> Any:
    if isinstance(answer, SkyringError):
        field = getattr(answer, "field", None)
        return type(answer), str(answer), field, getattr(answer, "retry_after_s", None)
    if isinstance(answer, Page):
        return msgspec.json.encode(answer.timers), answer.cursor
    if isinstance(answer, dict):
        return msgspec.json.encode(answer)
    return answer


async def all_pages(
    pages: Pages, limit: int, dead: bool = False, **bounds: int
) -> list[tuple[list[str], str | None]]:
    """Ids and cursor of each page."""
    found: list[tuple[list[str], str | None]] = []
    cursor: str | None = None
    while not found or cursor is not None:
        page = await (
            pages.dead_letters(limit, cursor) if dead else pages.pending(limit, cursor, **bounds)
        )
        cursor = page.cursor
        found.append(([timer["id"] for timer in page.timers], cursor))
        assert len(found) < 1_000
    return found


# The same answers


@pytest.mark.parametrize("seed", range(4))
async def test_every_operation_is_answered_as_on_one_node(
    seed: int, ring: Ring, alone: Alone, clock: ManualClock
) -> None:
    chance = random.Random(seed)
    names = [f"timer-{number}" for number in range(25)]
    entries = [ring.entry(name, part_bytes_max=600) for name in NODES]
    answers: set[Any] = set()
    for _ in range(400):
        entry_node = chance.choice(entries)
        timer_id = chance.choice(names)
        step = chance.randrange(12)
        asked = request(chance.choice([1_000, 2_000]), chance.choice(['"a"', '{"b":1}', "7"]))
        clock.advance(chance.randrange(3))

        def both(ask: Callable[[Any], Awaitable[Any]]) -> list[Awaitable[Any]]:
            return [ask(entry_node), ask(alone)]  # noqa: B023 – awaited in the same round

        if step < 3:
            first, second = both(lambda at: at.service.create(asked, timer_id))  # noqa: B023
        elif step == 3:
            first, second = both(lambda at: at.service.update(timer_id, asked))  # noqa: B023
        elif step == 4:
            first, second = both(lambda at: at.service.cancel(timer_id))  # noqa: B023
        elif step == 5:
            first, second = both(lambda at: at.service.get(timer_id))  # noqa: B023
        elif step == 6:
            first, second = both(lambda at: at.pages.retry_dead_letter(timer_id))  # noqa: B023
        elif step == 7:
            first, second = both(lambda at: at.pages.delete_dead_letter(timer_id))  # noqa: B023
        elif step == 8:
            limit = chance.randrange(1, 12)
            first, second = both(lambda at: at.pages.pending(limit))  # noqa: B023
        elif step == 9:
            first, second = both(lambda at: at.pages.dead_letters(2))
        elif step == 10:
            bulk: list[BulkEntry | SkyringError] = [
                entry(name, uri=chance.choice(["here", "nowhere"]))
                for name in chance.choices(names, k=4)
            ]
            bulk.append(TooLarge("far too large"))
            first, second = both(lambda at: at.service.create_many(bulk))  # noqa: B023
        else:
            try:
                await alone.node.bury(timer_id)
                await ring.of(timer_id).bury(timer_id)
            except AssertionError:
                pass  # there is none
            continue
        answer = await told(first)
        assert answer == await told(second)
        if isinstance(answer, tuple):
            answers.add(answer[0])
    assert {InvalidRequest, NotFound, Conflict} <= answers
    for limit in (1, 3, 100):
        for dead in (False, True):
            assert await all_pages(entries[0].pages, limit, dead) == await all_pages(
                alone.pages, limit, dead
            )


async def test_ids_that_we_make(ring: Ring) -> None:
    node = ring.entry()
    made: list[Created] = []
    holders: set[str] = set()
    while holders != set(NODES):  # those of one moment go to one slot
        made.append(await node.service.create(request()))
        holders.add(ring.holder[ring.nodes["one"].state.slot(made[-1].id)])
        assert len(made) < 10_000
    assert all(created.new for created in made)
    for created in made[::20]:
        assert (await ring.entry("two").service.get(created.id))["state"] == "scheduled"


async def test_a_wrong_request_goes_nowhere(ring: Ring) -> None:
    node = ring.entry()
    for asked in (
        node.service.create(request(), "no good id"),
        node.service.create(request(0), "timer"),
        node.service.create(request(uri="nowhere")),
        node.service.update("timer", request(0)),
        node.pages.pending(0),
        node.pages.pending(1, "nonsense"),
        node.pages.dead_letters(1, "nonsense"),
    ):
        with pytest.raises(InvalidRequest):
            await asked
    assert ring.sent == 0


async def test_what_is_here_is_done_here(ring: Ring) -> None:
    node = ring.entry("one")
    timer_id = name_in(0)
    await node.service.create(request(), timer_id)
    await node.service.update(timer_id, request(2_000))
    await node.service.get(timer_id)
    await ring.nodes["one"].bury(timer_id)
    await node.pages.retry_dead_letter(timer_id)
    await node.service.cancel(timer_id)
    await node.service.create_many([entry(timer_id)])
    assert ring.sent == 0


async def test_a_timer_that_is_being_delivered_elsewhere(ring: Ring) -> None:
    timer_id = name_in(1)
    node = ring.entry("one")
    await node.service.create(request(), timer_id)
    holder = ring.of(timer_id)
    hint = await hint_of(holder, timer_id)
    assert holder.state.begin_delivery(hint)
    assert (await node.service.get(timer_id))["state"] == "delivering"
    assert [timer["state"] for timer in (await node.pages.pending(10)).timers] == ["delivering"]
    for asked in (node.service.cancel(timer_id), node.service.update(timer_id, request())):
        with pytest.raises(Conflict) as caught:
            await asked
        assert caught.value.code == "delivering"
    assert not (await node.service.create(request(), timer_id)).new
    holder.state.end_delivery(hint.id)


async def hint_of(holder: Holder, timer_id: str) -> Hint:
    value = await holder.storage.get(holder.state.slot(timer_id), timer_key(timer_id))
    assert value is not None
    record = decode_record(value)
    return Hint(record.next_ms, holder.state.slot(timer_id), timer_id, record.destination)


async def test_for_those_who_embed_a_node(ring: Ring) -> None:
    node = ring.entry()
    timers = Timers(node.service, node.pages)
    callback = {"transport": "recorder", "method": "give", "uri": "here"}
    for number in range(20):
        await timers.create(callback=callback, timeout=1_000, id=f"timer-{number}")
    assert len((await timers.list()).timers) == 20
    assert (await timers.dead_letters()).timers == []
    await timers.cancel("timer-3")
    with pytest.raises(NotFound, match="timer-3"):
        await timers.get("timer-3")


async def test_a_damaged_record_elsewhere_is_shown_as_one(ring: Ring) -> None:
    timer_id = name_in(1)
    node = ring.entry("one")
    await node.service.create(request(), timer_id)
    await ring.of(timer_id).storage.commit(1, [(timer_key(timer_id), b"\x09nonsense")])
    assert (await node.service.get(timer_id))["state"] == "unreadable"
    assert (await node.pages.pending(1)).timers[0]["state"] == "unreadable"
    with pytest.raises(SkyringError) as caught:
        await node.service.cancel(timer_id)
    assert caught.value.code == "unreadable"


# Time


async def test_a_relative_time_out_counts_on_the_clock_of_the_holder(ring: Ring) -> None:
    slow = ManualClock(ring.clock.now_ms() - HOUR_MS)
    here, there = name_in(0), name_in(1)
    ring.nodes["two"] = Holder(slow)
    await ring.open()
    node = ring.entry("one")
    node.route.waited_ms = 300
    for timer_id in (here, there):
        await node.service.create(request(1_000), timer_id)
    assert (await node.service.get(here))["due"] == ring.clock.now_ms() + 1_000
    shown = await node.service.get(there)
    assert shown["due"] == shown["next"] == slow.now_ms() + 700
    assert shown["created"] == slow.now_ms()
    await node.service.update(there, request(5_000))
    assert (await node.service.get(there))["due"] == slow.now_ms() + 4_700
    await node.service.create_many([entry(name_in(1, "bulk"), 9_000)])
    assert (await node.service.get(name_in(1, "bulk")))["due"] == slow.now_ms() + 8_700


async def test_a_moment_is_the_same_on_all_clocks(ring: Ring) -> None:
    ring.nodes["two"] = Holder(ManualClock(ring.clock.now_ms() - HOUR_MS))
    await ring.open()
    node = ring.entry("one")
    node.route.waited_ms = 300
    due_ms = ring.clock.now_ms() + 5_000
    asked = TimerRequest(Callback("recorder", "give", "here"), at=due_ms)
    await node.service.create(asked, name_in(1))
    assert (await node.service.get(name_in(1)))["due"] == due_ms


async def test_the_time_that_a_lost_slot_has_cost_counts_as_well(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node took the slot for its own, and learned that it was not when it had waited."""
    here = ring.nodes["one"].service

    async def add(*args: object, **more: object) -> Created:
        ring.clock.advance(40)
        raise Fenced("lost")

    monkeypatch.setattr(here, "add", add)
    node = ring.entry("one")
    node.route.thinks_here = {1}
    asked_ms = ring.clock.now_ms()
    await node.service.create(request(1_000), name_in(1))
    assert (await ring.entry("two").service.get(name_in(1)))["due"] == asked_ms + 1_000


# Slots that move


async def test_a_slot_that_has_just_moved(ring: Ring) -> None:
    node = ring.entry("one")
    node.route.thinks_here = set(range(SLOTS))
    timer_id = name_in(1)
    assert (await node.service.create(request(), timer_id)).new
    await node.service.update(timer_id, request(2_000))
    assert (await node.service.get(timer_id))["timeout"] == 2_000
    await ring.of(timer_id).bury(timer_id)
    await node.pages.retry_dead_letter(timer_id)
    await node.service.cancel(timer_id)
    with pytest.raises(NotFound):
        await node.service.get(timer_id)
    made = await node.service.create_many([entry(None) for _ in range(50)])
    assert all(isinstance(each, Created) and each.new for each in made)
    assert sum(len(ids) for ids, _ in await all_pages(node.pages, 100)) == 50


async def test_a_slot_that_moves_while_it_is_asked_for(ring: Ring) -> None:
    timer_id = name_in(1)
    node = ring.entry("one")

    async def move(number: int) -> None:
        if number % 2:
            await ring.move(1, NODES[(number // 2) % 3])

    ring.on_send = move
    for _ in range(4):
        await node.service.create(request(), timer_id)
        await node.service.cancel(timer_id)
    assert set(node.route.repeats) == {False}


@pytest.mark.parametrize("commits", range(6))
async def test_a_slot_that_moves_in_the_middle_of_a_bulk_create(
    commits: int, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are stored, the others are not; no timer is stored twice for it."""
    monkeypatch.setattr("skyring.timers.service.COMMIT_BYTES_MAX", 400)
    for name in ("one", "three"):
        node = ring.entry(name)
        names = [name_in(1, f"{name}-{number}") for number in range(4)]
        bulk = [entry(None) for _ in range(40)] + [entry(each) for each in names]
        ring.nodes["two"].storage.commits_left = commits

        async def move(number: int) -> None:
            storage = ring.nodes["two"].storage
            if storage.commits_left == 0 and any(at == "two" for at in ring.holder.values()):
                storage.commits_left = None
                for slot in [slot for slot, at in ring.holder.items() if at == "two"]:
                    await ring.move(slot, "three")

        ring.on_send = move
        made = await node.service.create_many(bulk)
        ring.nodes["two"].storage.commits_left = None
        ids = [each.id for each in made if isinstance(each, Created) and each.new]
        assert len(ids) == 44
        listed = [timer for page, _ in await all_pages(node.pages, 7) for timer in page]
        assert sorted(listed) == sorted(ids)
        for timer_id in ids:
            await node.service.cancel(timer_id)
        for slot in range(SLOTS):
            left = await ring.nodes[ring.holder[slot]].storage.scan(slot, b"", b"\xff", 10)
            assert left == []


async def test_a_slot_that_moves_for_ever(ring: Ring) -> None:
    node = ring.entry("one")
    ring.nodes["two"].storage.commits_left = 0
    (result,) = await node.service.create_many([entry(name_in(1))])
    assert isinstance(result, Unavailable)
    assert result.retry_after_s == 7
    with pytest.raises(Unavailable):
        await node.service.create(request(), name_in(1))


async def test_a_slot_without_a_holder(ring: Ring) -> None:
    node = ring.entry("one")
    await ring.move(1, None)
    made = await node.service.create_many([entry(name_in(slot)) for slot in range(3)])
    assert [type(each) for each in made] == [Created, Unavailable, Created]
    with pytest.raises(Unavailable):
        await node.service.get(name_in(1))


# Answers that get lost


@pytest.mark.parametrize("named", [False, True])
async def test_an_operation_that_is_sent_again_is_done_once(named: bool, ring: Ring) -> None:
    node = ring.entry("one")
    timer_id = name_in(1)
    ring.lost_answers = iter([True, False])
    if named:
        created = await node.service.create(request(), timer_id)
        assert created == Created(timer_id, True)
    else:
        while True:
            ring.lost_answers = iter([True, False])
            created = await node.service.create(request())
            assert created.new
            if node.route.repeats:
                break
    assert node.route.repeats == [False, True]
    listed = (await node.pages.pending(100)).timers
    assert len({timer["id"] for timer in listed}) == len(listed)


async def test_a_timer_that_was_dead_before_it_was_sent_again(ring: Ring) -> None:
    """We made its id, and whoever gets it for the first time is told that it is new."""
    node = ring.entry("one")
    encoded: list[bytes] = []
    execute = ring.nodes["two"].operations.execute

    async def keep(operation: bytes) -> bytes:
        encoded.append(operation)
        answer = await execute(operation)
        created = decode_operation(operation).operation
        if len(encoded) == 1 and isinstance(created, Create):
            await ring.nodes["two"].bury(created.id)
        return answer

    ring.nodes["two"].operations.execute = keep  # type: ignore[method-assign]
    while not encoded:
        ring.lost_answers = iter([True])
        created = await node.service.create(request())
    assert created.new
    assert (await node.service.get(created.id))["state"] == "dead"


async def test_what_is_removed_already_when_it_is_sent_again(ring: Ring) -> None:
    node = ring.entry("one")
    timer_id = name_in(1)
    await node.service.create(request(), timer_id)
    ring.lost_answers = iter([True, True])
    await node.service.update(timer_id, request(2_000))
    ring.lost_answers = iter([True, True])
    await node.service.cancel(timer_id)
    with pytest.raises(NotFound):
        await node.service.cancel(timer_id)
    ring.lost_answers = iter([True])
    with pytest.raises(NotFound):
        await node.service.update(timer_id, request())
    for again in (node.pages.retry_dead_letter, node.pages.delete_dead_letter):
        await node.service.create(request(), timer_id)
        await ring.of(timer_id).bury(timer_id)
        ring.lost_answers = iter([True])
        await again(timer_id)
        with pytest.raises(NotFound):
            await again(timer_id)
        try:
            await node.service.cancel(timer_id)
        except NotFound:
            assert again == node.pages.delete_dead_letter


class Busy(Storage):
    """Takes no writes after the first."""

    def commit(self, slot: int, writes: Sequence[Write]) -> Any:
        if self.commits_left == 0:
            raise Unavailable("busy")
        return super().commit(slot, writes)


async def test_a_refusal_of_what_is_sent_again_says_nothing_of_the_first_time(ring: Ring) -> None:
    node, timer_id = ring.entry("one"), name_in(1)
    holder = ring.of(timer_id)
    holder.state.storage.__class__ = Busy
    await node.service.create(request(), timer_id)
    holder.storage.commits_left = 0
    with pytest.raises(Unavailable) as once:
        await node.service.update(timer_id, request(2_000))
    assert not isinstance(once.value, Uncertain)
    holder.storage.commits_left = 1
    ring.lost_answers = iter([True])
    with pytest.raises(Uncertain):
        await node.service.update(timer_id, request(2_000))
    bulk = [entry(name_in(1, "other"))]
    holder.storage.commits_left = 0
    ring.lost_answers = iter([True])
    assert [type(each) for each in await node.service.create_many(bulk)] == [Uncertain]


async def test_an_update_that_is_sent_again_when_its_timer_was_delivered(ring: Ring) -> None:
    node, timer_id = ring.entry("one"), name_in(1)
    await node.service.create(request(), timer_id)
    ring.lost_answers = iter([True])
    holder = ring.of(timer_id)
    replace = holder.service.replace

    async def replace_and_deliver(timer_id: str, record: Record) -> None:
        await replace(timer_id, record)
        value = await holder.storage.get(1, timer_key(timer_id))
        assert value is not None
        await holder.storage.commit(1, writes_delete(timer_id, decode_record(value)))

    holder.service.replace = replace_and_deliver  # type: ignore[method-assign]
    with pytest.raises(Uncertain):
        await node.service.update(timer_id, request(2_000))


async def test_a_create_that_is_sent_again_when_its_timer_is_dead_or_updated(ring: Ring) -> None:
    node = ring.entry("one")
    for change in ("bury", "update"):
        timer_id = name_in(1, change)
        on_send = 0

        async def then(sent: int, timer_id: str = timer_id, change: str = change) -> None:
            nonlocal on_send
            on_send += 1
            if on_send == 2 and change == "bury":
                await ring.of(timer_id).bury(timer_id)
            elif on_send == 2:
                await ring.of(timer_id).service.update(timer_id, request(9_000))

        ring.on_send = then
        ring.lost_answers = iter([True])
        assert await node.service.create(request(), timer_id) == Created(timer_id, True)
        ring.on_send = None


async def test_a_bulk_create_that_is_sent_again(ring: Ring) -> None:
    node = ring.entry("one")
    ring.lost_answers = iter([True] * 20)
    bulk = [entry(None) for _ in range(40)] + [entry(name_in(slot)) for slot in range(SLOTS)]
    made = await node.service.create_many(bulk)
    assert all(isinstance(each, Created) for each in made)
    assert all(each.new for each in made[:40] if isinstance(each, Created))
    listed = [timer for page, _ in await all_pages(node.pages, 9) for timer in page]
    assert sorted(listed) == sorted(each.id for each in made if isinstance(each, Created))


async def test_what_does_not_fit_into_a_message_is_refused_alone(ring: Ring) -> None:
    node = ring.entry("one")
    node.route.operation_bytes_max = 4_000
    large, small = '"' + "x" * 4_000 + '"', '"' + "x" * 500 + '"'
    names = [name_in(1, f"bulk-{number}") for number in range(20)]
    bulk = [entry(name, data=large if name == names[3] else small) for name in names]
    made = await node.service.create_many(bulk)
    assert isinstance(made[3], TooLarge)
    assert all(isinstance(each, Created) for each in made[:3] + made[4:])
    found = await all_pages(node.pages, 100)
    assert sorted(timer for ids, _ in found for timer in ids) == sorted(names[:3] + names[4:])


async def test_what_does_not_fit_into_a_commit_is_refused_alone(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryStorage, "commit_bytes_max", 20_000)
    node = ring.entry("one")
    large, small = '"' + "x" * 12_000 + '"', '"' + "x" * 2_000 + '"'
    bulk = [entry(None, data=large if number == 30 else small) for number in range(60)]
    made = await node.service.create_many(bulk)
    assert isinstance(made.pop(30), TooLarge)
    assert all(isinstance(each, Created) for each in made)


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"\x01\xc0", b"\x01\x91\x01", b"\x02"])
async def test_an_answer_that_makes_no_sense(answer: bytes, ring: Ring) -> None:
    async def nonsense(operation: bytes) -> bytes:
        return answer

    node = ring.entry("one")
    ring.nodes["two"].operations.execute = nonsense  # type: ignore[method-assign]
    with pytest.raises(Uncertain):
        await node.service.create(request(), name_in(1))
    with pytest.raises(Uncertain):
        await node.service.get(name_in(1))
    with pytest.raises(Unavailable):
        await node.pages.pending(10)
    (result,) = await node.service.create_many([entry(name_in(1))])
    assert isinstance(result, Uncertain)


# Pages


async def fill(ring: Ring, alone: Alone, clock: ManualClock, count: int = 120) -> None:
    """The same timers in both, with records of many sizes."""
    chance = random.Random(7)
    for number in range(count):
        asked = request(chance.randrange(1, 50), f'"{"x" * chance.randrange(900)}"')
        timer_id = f"timer-{number}"
        await alone.service.create(asked, timer_id)
        await ring.entry().service.create(asked, timer_id)
        if number % 4 == 0:
            await alone.node.bury(timer_id)
            await ring.of(timer_id).bury(timer_id)
        clock.advance(chance.randrange(3))


@pytest.mark.parametrize("part_bytes_max", [1, 700, 3_000, 1 << 20])
async def test_pages_are_those_of_one_node(
    part_bytes_max: int,
    ring: Ring,
    alone: Alone,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await fill(ring, alone, clock)
    node = ring.entry("two", part_bytes_max)
    for entries_max in (1_000, 2):
        monkeypatch.setattr(routed, "PART_ENTRIES_MAX", entries_max)
        node = ring.entry("two", part_bytes_max)
        for limit in (1, 2, 7, 30, 1_000):
            for dead in (False, True):
                expected = await all_pages(alone.pages, limit, dead)
                assert await all_pages(node.pages, limit, dead) == expected
                assert sum(len(ids) for ids, _ in expected) == (30 if dead else 90)
    start_ms, end_ms = clock.now_ms() - 100, clock.now_ms() - 50
    for bounds in (
        {"due_after_ms": start_ms},
        {"due_before_ms": end_ms},
        {"due_after_ms": start_ms, "due_before_ms": end_ms},
        {"due_after_ms": end_ms, "due_before_ms": start_ms},
    ):
        expected = await all_pages(alone.pages, 5, False, **bounds)
        assert await all_pages(node.pages, 5, False, **bounds) == expected


async def test_a_page_may_be_continued_through_another_node(
    ring: Ring, alone: Alone, clock: ManualClock
) -> None:
    await fill(ring, alone, clock)
    cursor: str | None = None
    seen_ids: list[str] = []
    for turn in range(100):
        node: Any = [*(ring.entry(name) for name in NODES), alone][turn % 4]
        page = await node.pages.pending(4, cursor)
        seen_ids += [timer["id"] for timer in page.timers]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen_ids == [timer for ids, _ in await all_pages(alone.pages, 100) for timer in ids]


@pytest.mark.parametrize("seed", range(4))
async def test_no_slot_is_left_out_of_a_page_while_slots_move(
    seed: int, ring: Ring, alone: Alone, clock: ManualClock
) -> None:
    await fill(ring, alone, clock, 60)
    chance = random.Random(seed)

    async def move(number: int) -> None:
        for slot in chance.sample(sorted(ring.holder), 2):
            await ring.move(slot, chance.choice(NODES))

    ring.on_send = move
    node = ring.entry("one", 1_500)
    for limit in (3, 100):
        assert await all_pages(node.pages, limit) == await all_pages(alone.pages, limit)


async def test_an_old_view_of_the_holders(ring: Ring, alone: Alone, clock: ManualClock) -> None:
    await fill(ring, alone, clock, 60)
    node = ring.entry("one")
    views: list[dict[str, Sequence[int]]] = [
        {},
        {"one": range(SLOTS)},
        {"one": [0, 3], "two": [0, 1], "three": []},
    ]
    for believed in views:
        node.route.believed = believed
        assert await all_pages(node.pages, 7) == await all_pages(alone.pages, 7)


async def test_a_slot_without_a_holder_is_waited_for(
    ring: Ring, alone: Alone, clock: ManualClock
) -> None:
    await fill(ring, alone, clock, 60)
    node = ring.entry("one")
    kept = await ring.nodes["two"].storage.scan(1, b"", b"\xff", 1_000)
    await ring.move(1, None)
    with pytest.raises(Unavailable) as caught:
        await node.pages.pending(10)
    assert caught.value.retry_after_s == 7
    waiting = asyncio.create_task(all_pages(node.pages, 10))
    for _ in range(10):
        await asyncio.sleep(0)
    await ring.give(1, "three", kept)
    assert await waiting == await all_pages(alone.pages, 10)


async def test_timers_that_are_gone_when_a_page_is_read(ring: Ring) -> None:
    """The due index may name what is no more."""
    node = ring.entry("one")
    for slot in range(SLOTS):
        holder = ring.nodes[ring.holder[slot]]
        for number in range(5):
            await holder.storage.commit(slot, [(due_key(number, f"ghost-{slot}"), b"")])
    await node.service.create(request(), name_in(1))
    found = await all_pages(node.pages, 3)
    assert [ids for ids, _ in found if ids] == [[name_in(1)]]


async def test_operations_that_nobody_of_us_sends(ring: Ring) -> None:
    execute = ring.nodes["one"].operations.execute
    for wanted in (
        ReadPart([SLOTS], "pending", DUE_PREFIX, DUE_PREFIX, 1, 1),
        ReadPart([0], "pending", b"", b"\xff", 1, 1),
        ReadPart([0], "dead", DUE_PREFIX, b"x0", 1, 1),
    ):
        with pytest.raises(BadMessage):
            await execute(encode_operation(wanted, 0, False))
    for noise in (b"", b"\x01", b"nonsense"):
        with pytest.raises(BadMessage):
            await execute(noise)


async def test_an_operation_at_a_node_that_does_not_hold_its_slot(ring: Ring) -> None:
    record = encode_record(ring.nodes["one"].service.prepare(request()))
    execute = ring.nodes["one"].operations.execute
    for wanted in (
        Get(name_in(1)),
        Cancel(name_in(1)),
        CreateMany(
            [wire.Entry(name_in(1), record, True), wire.Entry(name_in(1, "x"), record, False)]
        ),
        ReadPart([0, 1], "pending", DUE_PREFIX, b"d0", 1, 1),
    ):
        with pytest.raises(Fenced):
            await execute(encode_operation(wanted, 0, False))
