"""The log contract, over the implementation in memory and over JetStream on a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from skyring.errors import Fenced
from skyring.storage.entry import decode_entry
from skyring.storage.jetstream import JetStreamLog
from skyring.storage.log import Log, LogConflict, MemoryLog, SlotLog
from skyring.storage.memory import MemoryStorage
from skyring.storage.replica import APPLIED_KEY
from skyring.storage.replicated import ReplicatedStorage, ReplicationLimits
from skyring.testing.nats_server import NatsServer
from tests.contract.nats_links import linked

SLOTS = 256
END = b"\xff" * 40
rings = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"), sync="default")
    try:
        asyncio.run(server.start())
        yield server
    finally:
        server.kill()


@pytest.fixture(params=["memory", "jetstream"])
async def logs(
    request: pytest.FixtureRequest, server: NatsServer
) -> AsyncIterator[tuple[Log, Log]]:
    """The same log, as two nodes have it."""
    if request.param == "memory":
        log = MemoryLog()
        yield log, log
        return
    ring = f"ring-{next(rings)}"
    async with linked(server.url) as one, linked(server.url) as other:
        made = tuple(JetStreamLog(link, ring, SLOTS, 1, 10_000) for link in (one, other))
        await asyncio.gather(*(log.open() for log in made))
        yield made[0], made[1]


@pytest.fixture
def log(logs: tuple[Log, Log]) -> Log:
    return logs[0]


async def filled(log: Log, slot: int, *texts: bytes) -> list[int]:
    """Append these; their sequences."""
    last = await log.last(slot)
    sequences = [0 if last is None else last.sequence]
    for text in texts:
        sequences.append(await log.append(slot, text, sequences[-1]))
    return sequences[1:]


async def content(log: Log, after: dict[int, int]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    async for message in log.read(after):
        found.setdefault(message.slot, []).append(message.data)
    return found


# Appending


async def test_sequences_rise_within_a_slot(log: Log) -> None:
    sequences = await filled(log, 3, b"a", b"", b"\x00\xff\r\n")
    assert sequences == sorted(set(sequences))
    assert sequences[0] > 0
    assert await log.last(4) is None
    last = await log.last(3)
    assert last == (3, sequences[-1], b"\x00\xff\r\n")
    assert await content(log, {3: 0, 4: 0}) == {3: [b"a", b"", b"\x00\xff\r\n"]}


async def test_only_one_of_two_writers_can_append(logs: tuple[Log, Log]) -> None:
    a, b = logs
    first = await a.append(0, b"a1", 0)
    for wrong in (0, first + 1, 10**12):
        with pytest.raises(LogConflict):
            await b.append(0, b"wrong", wrong)
    second = await b.append(0, b"b1", first)
    with pytest.raises(LogConflict):
        await a.append(0, b"a2", first)
    assert await a.append(0, b"a2", second) > second
    assert await content(b, {0: 0}) == {0: [b"a1", b"b1", b"a2"]}


async def test_of_appends_at_once_one_is_taken(logs: tuple[Log, Log]) -> None:
    ends = await asyncio.gather(
        *(logs[number % 2].append(0, b"%d" % number, 0) for number in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(end, int) for end in ends) == 1
    assert sum(isinstance(end, LogConflict) for end in ends) == 19
    assert [len(texts) for texts in (await content(logs[0], {0: 0})).values()] == [1]


async def test_slots_do_not_hinder_each_other(log: Log) -> None:
    await asyncio.gather(*(filled(log, slot, b"%d" % slot, b"x") for slot in range(SLOTS)))
    found = await content(log, dict.fromkeys(range(SLOTS), 0))
    assert found == {slot: [b"%d" % slot, b"x"] for slot in range(SLOTS)}


# Reading


async def test_reading_begins_behind_a_sequence(log: Log) -> None:
    for slot in (0, 1):
        await filled(log, slot, b"0", b"1", b"2")
    at = await filled(log, 0, b"3", b"4")
    last = await log.last(1)
    assert last is not None
    assert await content(log, {0: at[0], 1: 0}) == {0: [b"4"], 1: [b"0", b"1", b"2"]}
    assert await content(log, {0: at[1], 1: last.sequence}) == {}
    assert await content(log, {0: at[1] + 10**6, 1: 0}) == {1: [b"0", b"1", b"2"]}
    assert await content(log, {}) == {}
    assert await content(log, {7: 0, 8: 10}) == {}


@pytest.mark.parametrize("wanted", [3, 100], ids=["few slots", "many slots"])
async def test_a_long_log_comes_whole_and_in_order(log: Log, wanted: int) -> None:
    texts = [b"%d" % number for number in range(60)]
    await asyncio.gather(*(filled(log, slot, *texts) for slot in range(120)))
    found = await content(log, dict.fromkeys(range(10, 10 + wanted), 0))
    assert found == dict.fromkeys(range(10, 10 + wanted), texts)


async def test_large_messages_are_read(log: Log) -> None:
    texts = [bytes([number]) * 700_000 for number in range(20)]
    await filled(log, 0, *texts)
    assert await content(log, {0: 0, 1: 0}) == {0: texts}


async def test_reading_ends_although_others_go_on_writing(logs: tuple[Log, Log]) -> None:
    a, b = logs
    stop, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def go_on(slot: int) -> None:
        last = await b.append(slot, b"", 0)
        begun.release()
        while not stop.is_set():
            last = await b.append(slot, b"", last)
            await asyncio.sleep(0)

    before = await filled(a, 99, b"old")
    writers = [asyncio.create_task(go_on(slot)) for slot in range(12)]
    try:
        for _ in writers:
            await begun.acquire()
        for _ in range(3):
            found = [message async for message in a.read(dict.fromkeys(range(100), 0))]
            assert before[0] in [message.sequence for message in found]
            for slot in range(12):
                sequences = [each.sequence for each in found if each.slot == slot]
                assert sequences
                assert sequences == sorted(set(sequences))
    finally:
        stop.set()
        await asyncio.gather(*writers)


async def test_a_reading_may_be_left_off(log: Log) -> None:
    await filled(log, 0, b"0", b"1", b"2")
    reading = log.read({0: 0})
    assert (await anext(reading)).data == b"0"
    await reading.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert await content(log, {0: 0}) == {0: [b"0", b"1", b"2"]}


# Purging


async def test_what_is_purged_is_gone_and_the_rest_goes_on(logs: tuple[Log, Log]) -> None:
    log, other = logs
    await filled(log, 1, b"other")
    sequences = await filled(log, 0, b"0", b"1", b"2", b"3")
    assert await log.size(0) == SlotLog(4, sequences[0], sequences[3])
    await log.purge(0, 0)
    await log.purge(0, 1)
    await log.purge(0, sequences[0])
    assert (await log.size(0)).messages == 4
    await log.purge(0, sequences[2])
    assert await other.size(0) == SlotLog(2, sequences[2], sequences[3])
    assert await content(other, {0: 0, 1: 0}) == {0: [b"2", b"3"], 1: [b"other"]}
    assert await content(other, {0: sequences[0]}) == {0: [b"2", b"3"]}
    last = await other.append(0, b"4", sequences[3])
    assert last > sequences[3]
    await log.purge(0, last)
    assert await log.size(0) == SlotLog(1, last, last)


async def test_a_slot_that_was_purged_to_its_end_can_be_begun_anew(log: Log) -> None:
    (sequence,) = await filled(log, 0, b"0")
    await log.purge(0, sequence + 1)
    assert await log.last(0) is None
    assert await log.size(0) == SlotLog(0, 0, 0)
    assert await content(log, {0: 0}) == {}
    assert await log.append(0, b"1", 0) > sequence


# The same log


async def test_it_stays_the_same(logs: tuple[Log, Log]) -> None:
    a, b = logs
    assert a.identity
    assert a.identity == b.identity
    for log in logs:
        await log.check()
        await log.close()
        await log.close()


# With the storage that stands on it


class Node:
    spare_bytes = 256 << 10

    def __init__(self, name: str, log: Log) -> None:
        numbers = count(1)
        self.lost: list[int] = []
        self.storage = ReplicatedStorage(
            MemoryStorage(),
            log,
            name,
            lambda: b"%s-%d" % (name.encode(), next(numbers)),
            lambda: True,
            lambda: True,
            self.lost.append,
            ReplicationLimits(snapshot_keys_max=3, spare_bytes=self.spare_bytes),
        )

    async def open(self) -> None:
        await self.storage.open()
        await self.storage.verify()

    async def content(self, slot: int) -> dict[bytes, bytes]:
        pairs = await self.storage.scan(slot, b"", END, 10_000)
        return {key: value for key, value in pairs if key != APPLIED_KEY}


async def test_two_nodes_take_a_slot_from_each_other(logs: tuple[Log, Log]) -> None:
    a, b = Node("a", logs[0]), Node("b", logs[1])
    for node in (a, b):
        await node.open()
    await a.storage.acquire(range(8))
    await asyncio.gather(
        *(a.storage.commit(slot, [(b"%d" % n, b"a")]) for slot in range(8) for n in range(50))
    )
    await b.storage.acquire(range(4))
    for slot in range(4):
        assert await b.content(slot) == {b"%d" % n: b"a" for n in range(50)}
        with pytest.raises(Fenced):
            await a.storage.commit(slot, [(b"stale", b"a")])
        await b.storage.commit(slot, [(b"0", b"b"), (b"1", None)])
    assert sorted(a.lost) == [0, 1, 2, 3]
    await a.storage.commit(7, [(b"0", None)])
    await a.storage.acquire(range(4))
    assert b"stale" not in await a.content(0)
    assert (await a.content(0))[b"0"] == b"b"
    assert (a.storage.epoch(0), a.storage.epoch(7)) == (3, 1)
    for node in (a, b):
        await node.storage.close()


async def test_a_log_is_made_shorter(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Node, "spare_bytes", 2_000)
    a, b = Node("a", logs[0]), Node("b", logs[1])
    for node in (a, b):
        await node.open()
    await a.storage.acquire([0])
    live = {b"live-%d" % n: b"x" * 30 for n in range(20)}
    await a.storage.commit(0, list(live.items()))
    for number in range(300):
        await a.storage.commit(0, [(b"short-%d" % number, b"x" * 30)])
        await a.storage.commit(0, [(b"short-%d" % number, None)])
    await a.storage.release([0])
    size = await logs[1].size(0)
    assert 0 < size.messages < 200
    kinds = [decode_entry(message.data).kind async for message in logs[1].read({0: 0})]
    assert len(kinds) == size.messages
    await b.storage.acquire([0])
    assert await b.content(0) == live
    for node in (a, b):
        await node.storage.close()
