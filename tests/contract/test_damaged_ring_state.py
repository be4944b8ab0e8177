"""Damaged files of a node in a ring: the log has it all, so everything is as the log says.

What a damaged state no longer has, or has again, must not be told to anybody, nor be written to the
log, from which the other nodes read it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import plyvel
import pytest

from skyring.errors import Fenced, StorageError, Unavailable
from skyring.settings import StorageSettings
from skyring.storage.base import Write
from skyring.storage.entry import Entry, decode_entry
from skyring.storage.log import MemoryLog
from skyring.storage.registry import make_storage
from skyring.storage.replica import APPLIED_KEY
from skyring.storage.replicated import ReplicatedStorage, ReplicationLimits

SLOTS = 8
SLOT, OTHER = 1, 2
END = b"\xff" * 40
COMMITS = 20
MORE_MAX = 3_000
WAIT_S_MAX = 30
PAUSE_S = 0.01
FILLING = 40
FILLER = b"x" * 1_000
"""With some of these, what stands behind them is in another block of LevelDB's log."""
LAST = b"of the other slot"
"""What comes last among all that is stored."""
RECORD, INDEX = b"t/updated", b"d/5-updated"


class Node:
    """One node's storage on a LevelDB of its own and the shared log."""

    def __init__(self, path: Path, log: MemoryLog, spare_bytes: int, **more: Any) -> None:
        # As a node in a ring has it: what is missing is read again, so nothing is synced.
        settings = StorageSettings(path=path, sync="never", **more)
        numbers = count(1)
        self.lost: list[int] = []
        self.state = make_storage(settings, SLOTS)
        self.storage = ReplicatedStorage(
            self.state,
            log,
            "a",
            lambda: b"%d-%d" % (id(self), next(numbers)),
            lambda: True,
            lambda: True,
            self.lost.append,
            ReplicationLimits(spare_bytes=spare_bytes),
        )

    async def content(self, slot: int = SLOT) -> dict[bytes, bytes]:
        """All that is there, whether it is listed or asked for."""
        pairs = dict(await self.storage.scan(slot, b"", END, 10_000))
        del pairs[APPLIED_KEY]
        for key, value in pairs.items():
            assert await self.storage.get(slot, key) == value
        return pairs


@asynccontextmanager
async def opened(
    path: Path, log: MemoryLog, *, spare_bytes: int = 1 << 30, **more: Any
) -> AsyncIterator[Node]:
    node = Node(path, log, spare_bytes, **more)
    await node.storage.open()
    await node.storage.verify()
    try:
        yield node
    finally:
        await node.storage.close()


class Ring:
    """A log, what a node has made of it, and what has to be in its slots."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = MemoryLog()
        self.truth: dict[int, dict[bytes, bytes]] = {SLOT: {}, OTHER: {}}

    async def commit(self, node: Node, *writes: Write, slot: int = SLOT) -> None:
        await node.storage.commit(slot, writes)
        for key, value in writes:
            if value is None:
                del self.truth[slot][key]
            else:
                self.truth[slot][key] = value

    async def fill(self, node: Node, name: bytes) -> None:
        for number in range(FILLING):
            await self.commit(node, (b"t/%s-%d" % (name, number), FILLER))

    async def entries(self) -> list[Entry]:
        found = [decode_entry(each.data) async for each in self.log.read({SLOT: 0})]
        return [*found, *[decode_entry(each.data) async for each in self.log.read({OTHER: 0})]]

    async def other_node_agrees(self) -> None:
        """One that begins with nothing but the log."""
        async with opened(self.path / "fresh", self.log) as fresh:
            await fresh.storage.acquire([SLOT, OTHER])
            for slot, expected in self.truth.items():
                assert await fresh.content(slot) == expected


@asynccontextmanager
async def unwritten(ring: Ring) -> AsyncIterator[None]:
    """Nothing but claims is written to the log, and it has kept what it had."""
    before = await ring.entries()
    yield
    after = await ring.entries()
    assert all(entry in after for entry in before)
    assert {entry.kind for entry in after if entry not in before} <= {"claim"}


@pytest.fixture
async def ring(tmp_path: Path) -> Ring:
    """A timer was cancelled, one updated, one made after that; then the node was killed."""
    ring = Ring(tmp_path)
    async with opened(tmp_path / "running", ring.log) as node:
        await node.storage.acquire([SLOT, OTHER])
        # Longer than a block of a table: slots do not share one.
        await ring.commit(node, (b"d/other", 5 * FILLER), (b"t/other", LAST), slot=OTHER)
        await ring.commit(node, (b"t/cancelled", b"version 0"), (b"d/7-cancelled", b""))
        await ring.commit(node, (RECORD, b"version 1"), (b"d/9-updated", b""))
        await ring.fill(node, b"before")
        await ring.commit(node, (b"t/cancelled", None), (b"d/7-cancelled", None))
        await ring.commit(node, (RECORD, b"version 2"), (b"d/9-updated", None), (INDEX, b""))
        await ring.commit(node, (b"t/late", b"version 3"), (b"d/3-late", b""))
        await ring.fill(node, b"z-after")
        shutil.copytree(tmp_path / "running", tmp_path / "killed")
    return ring


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


# LevelDB's own log


@pytest.mark.parametrize(
    ("part", "before"),
    [
        (b"t/cancelled", b"version 2"),
        (b"version 2", b"t/late"),
        (b"version 3", b"t/z-after-0"),
        (APPLIED_KEY, b"version 2"),
        (LAST, b"t/before-0"),
    ],
    ids=["cancel", "update", "create", "applied mark", "another slot"],
)
async def test_a_bit_of_the_log_of_leveldb(
    ring: Ring, caplog: pytest.LogCaptureFixture, part: bytes, before: bytes
) -> None:
    """LevelDB passes over the rest of a block, and goes on with the next one."""
    (file,) = (ring.path / "killed").glob("*.log")
    content = bytearray(file.read_bytes())
    content[content.rindex(part, 0, content.rindex(before))] ^= 1
    file.write_bytes(content)
    async with unwritten(ring), opened(ring.path / "killed", ring.log) as node:
        await node.storage.acquire([SLOT, OTHER])
        for slot, expected in ring.truth.items():
            assert await node.content(slot) == expected
        assert await node.storage.get(SLOT, b"t/cancelled") is None
        assert (node.lost, node.storage.damage.slots) == ([], set())
    assert any("read again from the log" in text for text in errors(caplog))
    await ring.other_node_agrees()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_a_log_of_leveldb_that_is_cut_off(ring: Ring, share: float) -> None:
    """What it has lost is what came last: from there the log of the slot is read."""
    (file,) = (ring.path / "killed").glob("*.log")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    async with unwritten(ring), opened(ring.path / "killed", ring.log) as node:
        await node.storage.acquire([SLOT, OTHER])
        for slot, expected in ring.truth.items():
            assert await node.content(slot) == expected


async def test_a_manifest_that_is_cut_off(tmp_path: Path) -> None:
    """LevelDB forgets tables then, and has what was written after them."""
    ring, path = Ring(tmp_path), tmp_path / "killed"
    settings: dict[str, Any] = {"write_buffer_bytes": 65_536}
    async with opened(path, ring.log, **settings) as node:
        await node.storage.acquire([SLOT, OTHER])
        for name in (b"one", b"two", b"three", b"four", b"five"):
            await ring.fill(node, name)
    (file,) = path.glob("MANIFEST-*")
    file.write_bytes(file.read_bytes()[:-1])
    async with unwritten(ring), opened(path, ring.log, **settings) as node:
        await node.storage.acquire([SLOT, OTHER])
        assert await node.content() == ring.truth[SLOT]


# Tables


PARTS = pytest.mark.parametrize(
    ("part", "which"),
    [
        (b"version 2", 0),
        (b"updated", -1),
        (b"5-updated", -1),
        (b"z-after-0", 0),
    ],
    ids=["record", "key of a record", "key of the index", "key that goes elsewhere"],
)


def into_table(path: Path) -> None:
    """Move all that is stored into one table file, in the clear, and nothing that is older."""
    with closing(plyvel.DB(str(path))) as database, database.iterator() as records:
        found = list(records)
    shutil.rmtree(path)
    with closing(plyvel.DB(str(path), create_if_missing=True, compression=None)) as database:
        for key, value in found:
            database.put(key, value)
        database.compact_range()


def flip(path: Path, part: bytes, which: int) -> None:
    """Turn over a bit of one of these bytes among what a table stores."""
    (table,) = path.glob("*.ldb")
    content = bytearray(table.read_bytes())
    at = content.rindex(part, 0, content.rindex(LAST) + len(LAST))
    content[at + range(len(part))[which]] ^= 4
    table.write_bytes(content)


@asynccontextmanager
async def held(
    ring: Ring, part: bytes, which: int, *, spare_bytes: int = 1 << 30
) -> AsyncIterator[Node]:
    """A node that holds slots of which a table is damaged, and has read nothing so far."""
    path = ring.path / "killed"
    into_table(path)
    flip(path, part, which)
    async with opened(path, ring.log, spare_bytes=spare_bytes) as node:
        await node.storage.acquire([SLOT, OTHER])
        yield node


async def get(node: Node) -> None:
    for key in (RECORD, INDEX, b"t/z-after-0"):
        await node.storage.get(SLOT, key)


async def scan(node: Node) -> None:
    await node.storage.scan(SLOT, b"", END, 10_000)


@PARTS
@pytest.mark.parametrize("read", [get, scan])
async def test_a_slot_is_let_go_when_damage_is_read_and_is_sound_when_it_is_held_again(
    ring: Ring, part: bytes, which: int, read: Callable[[Node], Awaitable[None]]
) -> None:
    async with unwritten(ring), held(ring, part, which) as node:
        assert set(node.storage.held()) == {SLOT, OTHER}
        with pytest.raises(Fenced, match="damaged"):
            await read(node)
        assert node.lost == [SLOT]
        assert set(node.storage.held()) == {OTHER}
        with pytest.raises(Fenced):
            await node.storage.commit(SLOT, [(b"t/new", b"")])
        await node.storage.acquire([SLOT])
        assert await node.content() == ring.truth[SLOT]
        assert await node.storage.get(SLOT, b"t/cancelled") is None
        assert await node.content(OTHER) == ring.truth[OTHER]
        assert (node.lost, node.storage.damage.slots) == ([SLOT], set())
    await ring.other_node_agrees()


@PARTS
async def test_what_was_read_again_stays_as_the_log_says(
    ring: Ring, part: bytes, which: int
) -> None:
    """Also after the next start, and when something was written meanwhile."""
    async with held(ring, part, which) as node:
        with pytest.raises(Fenced):
            await scan(node)
        await node.storage.acquire([SLOT])
        await ring.commit(node, (RECORD, None), (b"t/late", b"version 4"))
        assert await node.content() == ring.truth[SLOT]
    async with unwritten(ring), opened(ring.path / "killed", ring.log) as node:
        await node.storage.acquire([SLOT, OTHER])
        assert await node.content() == ring.truth[SLOT]
    await ring.other_node_agrees()


@pytest.mark.parametrize("which", [1, -1], ids=["begin", "end"])
@pytest.mark.parametrize("part", ["key", "value"])
async def test_a_damaged_mark_of_what_was_applied(ring: Ring, part: str, which: int) -> None:
    """Nothing can be believed of the slot then; it is read again at once."""
    mark = APPLIED_KEY if part == "key" else ring.log.identity.encode()
    async with unwritten(ring), held(ring, mark, which) as node:
        for slot, expected in ring.truth.items():
            assert await node.content(slot) == expected
        assert node.lost == []
    await ring.other_node_agrees()


async def test_a_table_in_which_nothing_is_found(ring: Ring) -> None:
    """Its own index is damaged, and it is in the way of whatever is listed: that is not held."""
    path = ring.path / "killed"
    into_table(path)
    (table,) = path.glob("*.ldb")
    content = bytearray(table.read_bytes())
    content[content.rindex(b"z-after")] ^= 4
    assert content.rindex(LAST) < content.rindex(b"after")
    table.write_bytes(content)
    async with opened(path, ring.log) as node:
        try:
            await node.storage.acquire([SLOT, OTHER])
        except StorageError as error:
            assert "damaged" in str(error)  # noqa: PT017  nothing is held, so nothing is wrong
        else:
            for slot, expected in ring.truth.items():
                assert await node.content(slot) == expected
    await ring.other_node_agrees()


async def sound_again(node: Node) -> dict[bytes, bytes]:
    """What a slot has when it is held again, which takes a while."""
    async with asyncio.timeout(WAIT_S_MAX):
        while True:
            try:
                await node.storage.acquire([SLOT, OTHER])
                return await node.content()
            except (Unavailable, Fenced):
                await asyncio.sleep(PAUSE_S)


async def test_a_block_that_leveldb_meets_when_it_merges_tables(tmp_path: Path) -> None:
    ring, path = Ring(tmp_path), tmp_path / "killed"
    settings = {"write_buffer_bytes": 65_536}
    async with opened(path, ring.log, **settings) as node:
        await node.storage.acquire([SLOT, OTHER])
        for name in (b"one", b"two", b"three", b"four", b"five"):
            await ring.fill(node, name)
    # LevelDB writes them one by one: the third may not be finished, and is thrown away then.
    table = sorted(path.glob("*.ldb"))[1]
    content = bytearray(table.read_bytes())
    content[content.index(FILLER[:400])] ^= 4
    table.write_bytes(content)
    async with opened(path, ring.log, **settings) as node:
        await node.storage.acquire([SLOT, OTHER])
        for number in range(MORE_MAX):
            if node.state.damage.opens:
                break
            with suppress(Unavailable, Fenced):
                await ring.commit(node, (b"t/more-%d" % number, FILLER))
        assert node.state.damage.opens == 1
        await sound_again(node)
        await ring.fill(node, b"after")
        found = await node.content()
    async with opened(tmp_path / "fresh", ring.log) as fresh:
        await fresh.storage.acquire([SLOT, OTHER])
        assert await fresh.content() == found
    assert ring.truth[SLOT].items() <= found.items(), "and perhaps what had no answer"


async def test_who_follows_a_slot_reads_it_again_as_well(ring: Ring) -> None:
    (file,) = (ring.path / "killed").glob("*.log")
    content = bytearray(file.read_bytes())
    content[content.rindex(b"version 2")] ^= 1
    file.write_bytes(content)
    async with opened(ring.path / "killed", ring.log) as node:
        await node.storage.follow([SLOT])
        assert dict(await node.state.scan(SLOT, b"t/c", b"t/d", 10)) == {}
        assert await node.state.get(SLOT, RECORD) == b"version 2"
        await node.storage.acquire([SLOT])
        assert await node.content() == ring.truth[SLOT]


@PARTS
async def test_no_snapshot_is_made_of_a_damaged_state(ring: Ring, part: bytes, which: int) -> None:
    """Or else the log, from which everything else is purged, would have lost it as well."""
    async with held(ring, part, which, spare_bytes=-1_000_000) as node:
        for _ in range(COMMITS):  # each of them is a reason to make the log shorter
            with ignored_fence():
                await ring.commit(node, (b"t/new", b"version 5"))
        await ring.other_node_agrees()
        with ignored_fence():  # the other one has claimed it
            await node.storage.commit(SLOT, [])
        await node.storage.acquire([SLOT])
        assert await node.content() == ring.truth[SLOT]


@contextmanager
def ignored_fence() -> Iterator[None]:
    try:
        yield
    except Fenced:
        return
