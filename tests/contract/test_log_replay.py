"""What remains of a log gives the whole state, at every moment and from wherever a replica is.

The truth is every entry that was ever appended, one after the other, but for snapshots: those must
never change anything. It is compared with what a replica makes of the log as it is just now.
"""

from __future__ import annotations

import asyncio
from collections import deque
from copy import deepcopy
from itertools import count
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyring.errors import SkyringError, StorageError, Unavailable
from skyring.storage.base import Write
from skyring.storage.catchup import CatchUp
from skyring.storage.entry import Entry, NoEntry, decode_entry, encode_entry
from skyring.storage.log import MemoryLog
from skyring.storage.memory import MemoryStorage
from skyring.storage.replica import APPLIED_KEY
from skyring.storage.replicated import ReplicatedStorage, ReplicationLimits

SLOTS = (0, 1)
SPARE_BYTES = 80
"""So little that a log of a dozen entries is made shorter."""
LIMITS = ReplicationLimits(
    doubt_ms=100, snapshot_keys_max=2, message_bytes_max=60, spare_bytes=SPARE_BYTES
)
END = b"\xff" * 40
MARK = b"mark"
"""A key with another value in each commit."""
TURNS_MAX = 2_000
COPIES_MAX = 6

Content: TypeAlias = dict[bytes, bytes]


class SlowLog(MemoryLog):
    """Takes its time, so that all else can come in between; and remembers what was purged."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: dict[int, dict[int, bytes]] = {slot: {} for slot in SLOTS}
        self.purges: deque[str] = deque()
        """What becomes of the next purges; when it is used up, they do what they should."""
        self.purged = 0

    async def append(self, slot: int, data: bytes, expected: int) -> int:
        await asyncio.sleep(0)
        sequence = await super().append(slot, data, expected)
        self.ever[slot][sequence] = data
        await asyncio.sleep(0)
        return sequence

    async def purge(self, slot: int, below: int) -> None:
        await asyncio.sleep(0)
        fate = self.purges.popleft() if self.purges else "whole"
        if fate == "refused":
            raise Unavailable("not now")
        if fate == "in part":
            below = (below + min(self._slots[slot], default=0)) // 2
        await super().purge(slot, below)
        self.purged += 1
        await asyncio.sleep(0)

    def intrude(self, slot: int, data: bytes) -> None:
        """Somebody publishes to the subject of a slot, without a fence."""
        self._sequence += 1
        self._slots.setdefault(slot, {})[self._sequence] = data
        self.ever[slot][self._sequence] = data

    def pass_sequences(self, number: int) -> None:
        """Other slots of the stream have used them."""
        self._sequence += number

    def as_it_is(self) -> MemoryLog:
        """A log that will never change."""
        still = MemoryLog()
        still._slots = {slot: dict(messages) for slot, messages in self._slots.items()}
        return still


def entries(messages: dict[int, bytes]) -> list[Entry]:
    found = []
    for data in messages.values():
        try:
            found.append(decode_entry(data))
        except NoEntry:
            continue
    return found


def truth(messages: dict[int, bytes]) -> Content:
    """What all entries come to, without any snapshot."""
    content: Content = {}
    for entry in entries(messages):
        for key, value in entry.writes if entry.kind != "snapshot" else ():
            if value is None:
                content.pop(key, None)
            else:
                content[key] = value
    return content


class Node:
    """A storage on a disk of its own."""

    def __init__(self, name: str, log: SlowLog, state: MemoryStorage) -> None:
        numbers = count(1)
        self.state = state
        self.storage = ReplicatedStorage(
            state,
            log,
            name,
            lambda: b"%s-%d-%d" % (name.encode(), id(self), next(numbers)),
            lambda: True,
            lambda: True,
            lambda slot: None,
            LIMITS,
        )

    async def open(self) -> Node:
        await self.storage.open()
        await self.storage.verify()
        return self

    async def kill(self) -> None:
        """It does nothing more, whatever it was about to do."""
        tasks = [slot.task for slot in self.storage._slots.values() if slot.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Play:
    """Nodes, their log, and copies of their disks from earlier days."""

    def __init__(self) -> None:
        self.log = SlowLog()
        self.nodes: dict[str, Node] = {}
        self.copies: deque[MemoryStorage] = deque(maxlen=COPIES_MAX)
        self.under_way: list[asyncio.Future[None]] = []
        self.acknowledged: list[tuple[int, bytes]] = []

    async def begin(self) -> None:
        for name in "abc":
            self.nodes[name] = await Node(name, self.log, MemoryStorage()).open()

    async def step(self, kind: str, name: str, slot: int, detail: Any) -> None:
        node = self.nodes[name]
        match kind:
            case "commit":
                self._commit(node, slot, detail)
            case "acquire" | "follow" | "release":
                work = getattr(node.storage, kind)([slot])
                self.under_way.append(asyncio.ensure_future(work))
            case "turns":
                for _ in range(detail):
                    await asyncio.sleep(0)
            case "kill":
                await node.kill()
                self.nodes[name] = await Node(name, self.log, deepcopy(node.state)).open()
            case "empty disk":
                await node.kill()
                self.nodes[name] = await Node(name, self.log, MemoryStorage()).open()
            case "old disk" if self.copies:
                await node.kill()
                old = deepcopy(self.copies[detail % len(self.copies)])
                self.nodes[name] = await Node(name, self.log, old).open()
            case "copy":
                self.copies.append(deepcopy(node.state))
            case "intrude":
                self.log.intrude(slot, detail)
            case "sequences":
                self.log.pass_sequences(detail)
            case "purges":
                self.log.purges.extend(detail)

    def _commit(self, node: Node, slot: int, writes: list[Write]) -> None:
        mark = b"%d" % len(self.under_way)
        # What is replaced is deleted before, as timers do it: the length of a log counts on it.
        deletes: list[Write] = [(key, None) for key, _ in [*writes, (MARK, mark)]]
        try:
            done = asyncio.ensure_future(
                node.storage.commit(slot, [*deletes, *writes, (MARK, mark)])
            )
        except SkyringError:
            return
        done.add_done_callback(
            lambda ended: (
                None
                if ended.cancelled() or ended.exception()
                else self.acknowledged.append((slot, mark))
            )
        )
        self.under_way.append(done)

    async def check(self) -> None:
        """Whoever reads the log as it is just now comes to the truth."""
        log = self.log.as_it_is()
        ever = {slot: dict(messages) for slot, messages in self.log.ever.items()}
        states = [MemoryStorage(), *self.copies, *(node.state for node in self.nodes.values())]
        for state in [deepcopy(each) for each in states]:
            await state.open()
            await state.acquire(SLOTS)
            replicas = await CatchUp(state, log).run(SLOTS)
            for slot, replica in replicas.items():
                pairs = dict(await state.scan(slot, b"", END, 10_000))
                pairs.pop(APPLIED_KEY, None)
                assert pairs == truth(ever[slot])
                assert replica.sequence == max(ever[slot], default=0)
                assert replica.epoch == max((e.epoch for e in entries(ever[slot])), default=0)

    async def end(self) -> None:
        for _ in range(TURNS_MAX):
            if all(each.done() for each in self.under_way):
                break
            await asyncio.sleep(0)
        for outcome in await asyncio.gather(*self.under_way, return_exceptions=True):
            assert outcome is None or isinstance(outcome, (SkyringError, asyncio.CancelledError))
        await self.check()
        for slot in SLOTS:
            written = {
                value
                for entry in entries(self.log.ever[slot])
                for key, value in entry.writes
                if key == MARK and entry.kind == "batch"
            }
            assert {mark for number, mark in self.acknowledged if number == slot} <= written
            epochs = [entry.epoch for entry in entries(self.log.ever[slot])]
            assert epochs == sorted(epochs)
        for node in self.nodes.values():
            assert not node.storage._failure.done()
            await node.kill()
            await node.storage.close()


KEYS = st.sampled_from([b"A", b"a", b"a\0", b"aa", b"b", b"c", b"\xff"])
WRITES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=9)), min_size=1, max_size=3)
STRANGE = st.sampled_from([b"", b"hello", b"\x92\x01\xa5claim", b"\xff" * 50]) | st.binary()
FATES = st.lists(st.sampled_from(["refused", "in part", "whole"]), max_size=3)


def a_step(kind: str, detail: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(kind), st.sampled_from("abc"), st.sampled_from(SLOTS), detail)


STEP = st.one_of(
    *[a_step("commit", WRITES)] * 6,
    *[a_step("turns", st.integers(1, 12))] * 3,
    *[a_step("acquire", st.none())] * 2,
    a_step("release", st.none()),
    a_step("follow", st.none()),
    a_step("copy", st.none()),
    a_step("kill", st.none()),
    a_step("empty disk", st.none()),
    a_step("old disk", st.integers(0, COPIES_MAX)),
    a_step("intrude", STRANGE),
    a_step("sequences", st.integers(1, 1_000)),
    a_step("purges", FATES),
)


async def play(steps: list[Any]) -> int:
    """How many purges there were."""
    played = Play()
    await played.begin()
    for step in steps:
        await played.step(*step)
        await played.check()
    await played.end()
    return played.log.purged


@pytest.fixture(scope="module", autouse=True)
def _no_waiting() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skyring.storage.replicated.PAUSE_S", 0)
        patch.setattr("skyring.storage.appending.PAUSE_S", 0)
        patch.setattr("skyring.storage.appending.CONFLICT_PAUSE_S", 0)
        yield


@given(st.lists(STEP, min_size=20, max_size=60))
@settings(max_examples=50, deadline=None)
def test_whoever_reads_the_log_comes_to_the_truth(steps: list[Any]) -> None:
    asyncio.run(play(steps))


@pytest.mark.parametrize("fates", [[], ["refused"], ["in part"], ["in part", "refused"] * 3])
def test_the_same_while_logs_are_made_shorter_all_the_time(fates: list[str]) -> None:
    """With a new holder now and then, old disks, strangers, and a look at each turn."""
    steps: list[Any] = [("purges", "a", 0, fates)]
    for number in range(120):
        name = "abc"[number // 40 % 3]
        key = [b"A", b"a", b"a\0", b"aa", b"b", b"c"][number % 6]
        value = None if number % 5 == 0 else b"%09d" % number
        if number % 20 == 0:
            steps += [("acquire", name, 0, None), ("turns", name, 0, 9), ("copy", name, 0, None)]
        if number % 50 == 30:
            steps += [("intrude", name, 0, b"hello"), ("turns", name, 0, 9)]
        if number % 30 == 29:
            steps += [("kill", name, 0, None), ("old disk", "b", 0, number)]
        steps += [("commit", name, 0, [(key, value)]), ("turns", name, 0, number % 4)]
        if number % 10 == 9:
            steps += [("turns", name, 0, 30), ("acquire", name, 0, None), ("turns", name, 0, 9)]
    assert asyncio.run(play(steps)) > 3


async def test_a_hole_in_a_log_is_told_and_not_looked_at_for_ever() -> None:
    """NATS has lost a message in the middle: nobody can come past it, from wherever he is."""
    log = SlowLog()
    for sequence, kind in enumerate(("claim", "batch", "batch", "batch", "batch"), 1):
        writes: list[Write] = [(b"%d" % sequence, b"")]
        entry = Entry(1, kind, 1, "a", b"%d" % sequence, sequence - 1, writes)  # type: ignore[arg-type]
        await log.append(0, encode_entry(entry), sequence - 1)
    ahead, behind = MemoryStorage(), MemoryStorage()
    for state in (ahead, behind):
        await state.open()
        await state.acquire([0])
    await CatchUp(ahead, log).run([0])
    del log._slots[0][3]
    with pytest.raises(StorageError, match="slot 0"):
        async with asyncio.timeout(20):
            await CatchUp(behind, log).run([0])
    replicas = await CatchUp(ahead, log).run([0])
    assert replicas[0].sequence == 5
