"""Storage behind a log: two nodes, one log, and everything that can go wrong between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyring.errors import (
    Fenced,
    RecordUnreadable,
    SkyringError,
    StorageError,
    TooLarge,
    Unavailable,
    Uncertain,
)
from skyring.storage.base import Storage, Write
from skyring.storage.entry import NoEntry, decode_entry
from skyring.storage.log import MemoryLog
from skyring.storage.memory import MemoryStorage
from skyring.storage.replica import APPLIED_KEY
from skyring.storage.replicated import ReplicatedStorage, ReplicationLimits
from tests.contract.faulty_log import Fault, FaultyLog

LIMITS = ReplicationLimits(doubt_ms=100, snapshot_keys_max=3)
END = b"\xff" * 40


class NodeStore:
    """One node's storage, on its own state and the shared log."""

    spare_bytes = LIMITS.spare_bytes

    def __init__(self, name: str, log: MemoryLog, state: Storage | None = None) -> None:
        numbers = count(1)
        self.log = FaultyLog(log)
        self.state = MemoryStorage() if state is None else state
        self.lost: list[int] = []
        self.lease = True
        self.storage = ReplicatedStorage(
            self.state,
            self.log,
            name,
            lambda: b"%s-%d-%d" % (name.encode(), id(self), next(numbers)),
            lambda: self.lease,
            lambda: self.lease,
            self.lost.append,
            LIMITS._replace(spare_bytes=self.spare_bytes),
        )

    def shorten(self) -> None:
        """From now on everything is a reason to make the log shorter."""
        self.storage._limits = self.storage._limits._replace(spare_bytes=-100_000)

    async def content(self, slot: int) -> dict[bytes, bytes]:
        pairs = await self.storage.scan(slot, b"", END, 10_000)
        return {key: value for key, value in pairs if key != APPLIED_KEY}


async def opened(name: str, log: MemoryLog, state: Storage | None = None) -> NodeStore:
    node = NodeStore(name, log, state)
    await node.storage.open()
    await node.storage.verify()
    return node


async def messages(log: MemoryLog, slot: int = 0) -> list[Any]:
    return [decode_entry(message.data) async for message in log.read({slot: 0})]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


async def test_what_is_committed_is_in_the_log_and_in_the_state(log: MemoryLog) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0, 1])
    await node.storage.commit(0, [(b"k", b"v"), (b"gone", b"x")])
    await node.storage.commit(0, [(b"gone", None)])
    assert await node.content(0) == {b"k": b"v"}
    assert await node.storage.get(0, b"k") == b"v"
    kinds = [(entry.kind, entry.epoch, entry.node) for entry in await messages(log)]
    assert kinds == [("claim", 1, "a"), ("batch", 1, "a"), ("batch", 1, "a")]
    assert node.storage.held() == {0, 1}
    await node.storage.close()


async def test_commits_that_come_together_share_a_message(log: MemoryLog) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    before = node.log.appends
    commits = [node.storage.commit(0, [(b"%d" % number, b"")]) for number in range(100)]
    await asyncio.gather(*commits)
    assert node.log.appends - before <= 2
    assert len(await node.content(0)) == 100
    await node.storage.close()


async def test_another_node_takes_over_and_the_former_holder_is_fenced(log: MemoryLog) -> None:
    a, b = await opened("a", log), await opened("b", log)
    await a.storage.acquire([0])
    await a.storage.commit(0, [(b"k", b"1")])
    await b.storage.follow([0])
    await a.storage.commit(0, [(b"k", b"2")])
    await b.storage.acquire([0])
    assert await b.content(0) == {b"k": b"2"}
    assert (b.storage.epoch(0), a.storage.epoch(0)) == (2, 1)
    with pytest.raises(Fenced):
        await a.storage.commit(0, [(b"k", b"stale")])
    assert a.lost == [0]
    with pytest.raises(Fenced):
        await a.storage.get(0, b"k")
    await a.storage.acquire([0])
    assert await a.content(0) == {b"k": b"2"}
    assert a.storage.epoch(0) == 3
    for node in (a, b):
        await node.storage.close()


async def test_without_the_lease_nothing_is_read_or_written(log: MemoryLog) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    node.lease = False
    for call in (
        lambda: node.storage.get(0, b"k"),
        lambda: node.storage.commit(0, [(b"k", b"v")]),
        lambda: node.storage.scan(0, b"", END, 1),
    ):
        with pytest.raises(Fenced):
            await call()
    node.storage.drop([0])
    assert (node.lost, node.storage.held()) == ([], set())
    node.lease = True
    with pytest.raises(Fenced):
        await node.storage.get(0, b"k")
    await node.storage.close()


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "late"])
async def test_an_append_without_an_answer_is_looked_up(log: MemoryLog, fault: Fault) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    node.log.faults.extend([fault] * 3)
    await node.storage.commit(0, [(b"k", b"v")])
    await node.storage.commit(0, [(b"l", b"w")])
    await node.log.close()
    assert await node.content(0) == {b"k": b"v", b"l": b"w"}
    written = [write for entry in await messages(log) for write in entry.writes]
    assert written == [(b"k", b"v"), (b"l", b"w")], "each of them once"
    await node.storage.close()


async def test_a_refused_append_is_told_and_harms_nothing(log: MemoryLog) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    node.log.faults.append("refused")
    with pytest.raises(Unavailable) as raised:
        await node.storage.commit(0, [(b"k", b"v")])
    assert not isinstance(raised.value, Uncertain)
    assert await node.content(0) == {}
    await node.storage.commit(0, [(b"k", b"w")])
    assert await node.content(0) == {b"k": b"w"}
    await node.storage.close()


async def test_nobody_is_told_a_guess_while_the_log_is_away(log: MemoryLog) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    node.log.faults.append("then away")
    first = node.storage.commit(0, [(b"k", b"v")])
    await asyncio.sleep(0)  # the first is on its way
    second = node.storage.commit(0, [(b"l", b"w")])
    with pytest.raises(Uncertain):
        await first
    with pytest.raises(Unavailable) as refused:
        await second
    assert not isinstance(refused.value, Uncertain)
    with pytest.raises(Unavailable, match="does not say"):
        await node.storage.get(0, b"k")
    with pytest.raises(Unavailable, match="does not say"):
        await node.storage.commit(0, [(b"m", b"x")])
    node.log.is_away = False
    async with asyncio.timeout(30):
        while True:
            try:
                found = await node.content(0)
                break
            except Unavailable:
                await asyncio.sleep(0.01)
    assert found == {b"k": b"v"}
    await node.storage.close()


async def test_who_was_told_of_a_doubt_does_not_read_what_was_before(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    node.log.faults.append("then away")
    with pytest.raises(Uncertain):
        await node.storage.commit(0, [(b"k", b"v")])
    commit, may_apply = node.state.commit, asyncio.Event()
    asked = 0

    def refuse(slot: int, writes: Sequence[Write]) -> Awaitable[None]:
        nonlocal asked
        asked += 1
        if may_apply.is_set():
            return commit(slot, writes)
        raise Unavailable("it is being opened again")

    monkeypatch.setattr(node.state, "commit", refuse)
    node.log.is_away = False
    async with asyncio.timeout(30):
        while not asked:  # now it is known to be in the log, and not in the state yet
            with pytest.raises(Unavailable, match="does not say"):
                await node.storage.get(0, b"k")
            await asyncio.sleep(0.001)
    with pytest.raises(Unavailable, match="does not say"):
        await node.storage.get(0, b"k")
    may_apply.set()
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                assert await node.storage.get(0, b"k") == b"v"
                break
            await asyncio.sleep(0.001)
    await node.storage.close()


async def test_a_node_that_was_away_while_the_log_was_made_shorter_begins_anew(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeStore, "spare_bytes", 500)
    a, b = await opened("a", log), await opened("b", log)
    await a.storage.acquire([0])
    await a.storage.commit(0, [(b"old", b"v"), (b"kept", b"v")])
    await b.storage.follow([0])
    await a.storage.commit(0, [(b"old", None)])
    for number in range(200):
        await a.storage.commit(0, [(b"short", b"%d" % number)])
        await a.storage.commit(0, [(b"short", None)])
    await a.storage.release([0])
    size = await log.size(0)
    assert size.first > 4, "it has been purged"
    await b.storage.acquire([0])
    assert await b.content(0) == {b"kept": b"v"}
    for node in (a, b):
        await node.storage.close()


async def test_the_log_stays_bounded(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeStore, "spare_bytes", 10_000)
    node = await opened("a", log)
    await node.storage.acquire([0])
    live = [(b"live-%d" % number, b"x" * 50) for number in range(100)]
    await node.storage.commit(0, live)
    longest = 0
    for number in range(2_000):
        await node.storage.commit(0, [(b"short-%d" % number, b"x" * 50)])
        await node.storage.commit(0, [(b"short-%d" % number, None)])
        size = (
            sum([len(message.data) async for message in log.read({0: 0})])
            if (number % 20 == 0)
            else 0
        )
        longest = max(longest, size)
    live_bytes = sum(len(key) + len(value) for key, value in live)
    assert longest < 4 * live_bytes + 20_000
    assert await node.content(0) == dict(live)
    await node.storage.close()
    other = await opened("b", log)
    await other.storage.acquire([0])
    assert await other.content(0) == dict(live), "what remains of the log is all there is"
    await other.storage.close()


async def test_a_snapshot_that_was_broken_off_is_begun_anew(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await opened("a", log), await opened("b", log)
    live = {b"live-%d" % number: b"x" * 50 for number in range(20)}
    await a.storage.acquire([0])
    await a.storage.commit(0, list(live.items()))
    a.shorten()
    await a.storage.commit(0, [(b"live-19", b"begins a snapshot")])
    await b.storage.acquire([0])
    await b.storage.commit(0, [(b"live-0", None)])
    await b.storage.release([0])
    with pytest.raises(Fenced):
        await a.storage.commit(0, [(b"live-2", None)])
    await a.storage.acquire([0])
    await a.storage.commit(0, [(b"live-1", None)])
    await a.storage.release([0])
    rest = {key: value for key, value in live.items() if key not in (b"live-0", b"live-1")}
    rest[b"live-19"] = b"begins a snapshot"
    fresh = await opened("c", log)
    await fresh.storage.acquire([0])
    assert await fresh.content(0) == rest
    for node in (a, b, fresh):
        await node.storage.close()


async def test_a_log_that_has_lost_its_end_is_refused(log: MemoryLog) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    await node.storage.commit(0, [(b"k", b"v")])
    await node.storage.close()
    again = await opened("a", MemoryLog(), node.state)
    with pytest.raises(StorageError, match="the log of slot 0 has lost what this node has applied"):
        await again.storage.acquire([0])
    await again.storage.close()


# Any order of everything

KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
WRITES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3)), min_size=1, max_size=3)
FAULTS = st.lists(
    st.sampled_from(["fine", "refused", "answer lost", "request lost", "late"]), max_size=4
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.sampled_from("ab"), WRITES),
        st.tuples(st.just("together"), st.sampled_from("ab"), st.lists(WRITES, max_size=4)),
        st.tuples(st.just("acquire"), st.sampled_from("ab")),
        st.tuples(st.just("follow"), st.sampled_from("ab")),
        st.tuples(st.just("release"), st.sampled_from("ab")),
        st.tuples(st.just("forget"), st.sampled_from("ab")),
        st.tuples(st.just("faults"), st.sampled_from("ab"), FAULTS),
    ),
    max_size=30,
)


class Model:
    """What the storage must hold: only an unknown outcome leaves two possibilities."""

    def __init__(self) -> None:
        self.possible: list[dict[bytes, bytes]] = [{}]

    def commit(self, writes: Sequence[Write], error: SkyringError | None) -> None:
        if error is not None and not isinstance(error, Uncertain):
            return
        after = [_applied(each, writes) for each in self.possible]
        self.possible = after if error is None else [*self.possible, *after]

    def seen(self, content: dict[bytes, bytes]) -> None:
        assert content in self.possible
        self.possible = [content]


def _applied(content: dict[bytes, bytes], writes: Sequence[Write]) -> dict[bytes, bytes]:
    after = dict(content)
    for key, value in writes:
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after


async def outcome(commit: Callable[[], Awaitable[None]]) -> SkyringError | None:
    try:
        await commit()
    except SkyringError as error:
        return error
    return None


async def play(steps: list[Any]) -> None:
    log, model = MemoryLog(), Model()
    nodes = {name: await opened(name, log) for name in "ab"}
    for kind, name, *details in steps:
        node = nodes[name]
        if kind in ("commit", "together"):
            batches = details if kind == "commit" else details[0]
            ends = await asyncio.gather(
                *(outcome(partial(node.storage.commit, 0, writes)) for writes in batches)
            )
            for writes, error in zip(batches, ends, strict=True):
                model.commit(writes, error)
        elif kind == "faults":
            node.log.faults.extend(details[0])
        elif kind == "forget":  # it starts again, with an empty disk
            await node.storage.close()
            nodes[name] = await opened(name, log)
        elif kind == "release":
            await node.storage.release([0])
        else:
            await outcome(partial(getattr(node.storage, kind), [0]))
        for each in nodes.values():
            if each.storage.held() and not each.log.faults:
                held = await outcome(partial(each.storage.commit, 0, []))
                if held is None:
                    model.seen(await each.content(0))
    for node in nodes.values():
        node.log.faults.clear()
        await node.log.close()
        await outcome(partial(node.storage.commit, 0, []))  # a former holder learns that it is one
    for last in nodes.values():
        await last.storage.follow([0])
        await last.storage.acquire([0])
        model.seen(await last.content(0))
    epochs = [entry.epoch for entry in await messages(log)]
    assert epochs == sorted(epochs)
    for node in nodes.values():
        await node.storage.close()


@given(STEPS, st.sampled_from([60, 100_000]))
@settings(max_examples=200, deadline=None)
def test_nothing_acknowledged_is_lost_whatever_happens(steps: list[Any], spare: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NodeStore, "spare_bytes", spare)
        patch.setattr("skyring.storage.replicated.PAUSE_S", 0.001)
        asyncio.run(play(steps))


async def test_a_slot_that_was_claimed_meanwhile_is_not_taken_away(log: MemoryLog) -> None:
    """Whoever decided to claim it did not know of the other's lease."""
    a, b = await opened("a", log), await opened("b", log)
    await a.storage.follow([0, 1])
    await b.storage.follow([0])
    await b.storage.acquire([0])
    with pytest.raises(Unavailable):
        await a.storage.acquire([0, 1])
    assert set(a.storage.held()) == {1}
    await b.storage.commit(0, [(b"k", b"v")])
    await a.storage.follow([0])
    await a.storage.acquire([0])
    assert await a.content(0) == {b"k": b"v"}


async def test_a_claim_whose_answer_is_lost_is_not_made_again_over_that_of_another(
    log: MemoryLog,
) -> None:
    """It waits for the answer, while the other claims, with every right, after it."""
    a, b = await opened("a", log), await opened("b", log)
    await a.storage.follow([0])
    a.log.faults.append("then away")
    claiming = asyncio.create_task(a.storage.acquire([0]))
    for _ in range(100):
        await asyncio.sleep(0)
    assert await log.last(0) is not None, "it is claimed, and nobody knows"
    await b.storage.follow([0])
    await b.storage.acquire([0])
    a.log.is_away = False
    with pytest.raises(Unavailable):
        await claiming
    assert not a.storage.held()
    await b.storage.commit(0, [(b"k", b"v")])


async def test_what_follows_a_commit_that_failed_is_not_applied_without_it(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyring.storage.catchup.MESSAGES_PER_TURN", 1)
    a, b = await opened("a", log), await opened("b", log)
    await a.storage.acquire([0])
    for number in range(5):
        await a.storage.commit(0, [(b"k%d" % number, b"v")])
    await a.storage.release([0])
    commit, calls = b.state.commit, 0

    def fail_in_the_middle(slot: int, writes: Sequence[Write]) -> Awaitable[None]:
        nonlocal calls
        calls += 1
        if calls != 3:
            return commit(slot, writes)
        loop = asyncio.get_running_loop()
        failing = loop.create_future()
        # As of a disk: the store is sound again before the log has been read to its end.
        loop.call_soon(failing.set_exception, Uncertain("the write failed"))
        return failing

    monkeypatch.setattr(b.state, "commit", fail_in_the_middle)
    with pytest.raises(Unavailable):
        await b.storage.follow([0])
    await b.storage.acquire([0])
    assert await b.content(0) == {b"k%d" % number: b"v" for number in range(5)}
    for node in (a, b):
        await node.storage.close()


async def test_two_who_catch_up_at_once_do_it_one_after_the_other(log: MemoryLog) -> None:
    """Or else the older entries, applied by the one behind, would undo the newer ones."""
    a = await opened("a", log)
    await a.storage.acquire([0])
    for number in range(50):
        await a.storage.commit(0, [(b"k", b"%d" % number)])
    b = await opened("b", log)
    await asyncio.gather(
        b.storage.follow([0]), b.storage.follow([0]), b.storage.acquire([0]), b.storage.follow([0])
    )
    await b.storage.commit(0, [(b"k", b"new")])
    assert await b.content(0) == {b"k": b"new"}
    assert b.storage.epoch(0) == 2
    for node in (a, b):
        await node.storage.close()


# A claim, and the lease


@pytest.mark.parametrize("lease", ["began anew", "is over"])
async def test_a_claim_that_is_acknowledged_after_the_lease_is_not_held(
    log: MemoryLog, lease: str
) -> None:
    """The node was frozen while the answer was on its way, and another one has claimed since."""
    a, b = await opened("a", log), await opened("b", log)
    append, appended, answer = a.log.append, asyncio.Event(), asyncio.Event()

    async def append_slowly(slot: int, data: bytes, expected: int) -> int:
        sequence = await append(slot, data, expected)
        appended.set()
        await answer.wait()
        return sequence

    a.log.append = append_slowly  # type: ignore[method-assign]
    claiming = asyncio.create_task(a.storage.acquire([5]))
    await appended.wait()
    await b.storage.acquire([5])
    await b.storage.commit(5, [(b"k", b"of b")])
    if lease == "began anew":
        a.storage.drop([])  # it held nothing when the lease lapsed
    else:
        a.lease = False
    answer.set()
    with pytest.raises(Unavailable, match="lease"):
        await claiming
    a.lease = True
    assert set(a.storage.held()) == set()
    with pytest.raises(Fenced):
        await a.storage.get(5, b"k")
    assert await b.content(5) == {b"k": b"of b"}
    await a.storage.acquire([5])
    assert await a.content(5) == {b"k": b"of b"}
    assert [entry.epoch for entry in await messages(log, 5)] == [1, 2, 2, 3]
    for node in (a, b):
        await node.storage.close()


# Strangers in the log

STRANGE = [b"", b"hello", b'{"a":1}', b"\x01", b"\x91\x01", b"\x92\x01\xa5claim", b"\xff" * 100]


def intrude(log: MemoryLog, slot: int, data: bytes) -> None:
    """Somebody publishes to the subject of a slot, without a fence."""
    log._sequence += 1
    log._slots.setdefault(slot, {})[log._sequence] = data


@pytest.mark.parametrize("data", STRANGE)
async def test_who_reads_a_log_passes_over_what_is_no_entry(log: MemoryLog, data: bytes) -> None:
    intrude(log, 0, data)
    a, b = await opened("a", log), await opened("b", log)
    await a.storage.acquire([0])
    await a.storage.commit(0, [(b"k", b"1")])
    await a.storage.release([0])
    intrude(log, 0, data)
    await b.storage.follow([0])
    intrude(log, 0, data)
    await b.storage.follow([0])
    await b.storage.acquire([0])
    await b.storage.commit(0, [(b"l", b"2")])
    await a.storage.acquire([0])
    fresh = await opened("c", log)
    await fresh.storage.follow([0])
    assert await a.content(0) == {b"k": b"1", b"l": b"2"}
    await a.storage.release([0])
    again = await opened("a", log, a.state)
    await again.storage.acquire([0])
    await fresh.storage.follow([0])
    await fresh.storage.acquire([0])
    assert await fresh.content(0) == {b"k": b"1", b"l": b"2"}
    assert fresh.storage.epoch(0) == 4 + 1
    for node in (a, b, fresh, again):
        await node.storage.close()


@pytest.mark.parametrize("data", STRANGE)
async def test_a_holder_that_meets_a_stranger_is_fenced_and_claims_anew(
    log: MemoryLog, data: bytes
) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    await node.storage.commit(0, [(b"k", b"1")])
    intrude(log, 0, data)
    with pytest.raises(Fenced):
        await node.storage.commit(0, [(b"k", b"2")])
    assert node.lost == [0]
    await node.storage.acquire([0])
    assert await node.content(0) == {b"k": b"1"}
    await node.storage.commit(0, [(b"k", b"3")])
    assert node.storage.epoch(0) == 2
    assert not node.storage._failure.done()
    await node.storage.close()


async def test_a_stranger_between_an_append_and_its_answer_leaves_it_uncertain(
    log: MemoryLog,
) -> None:
    node = await opened("a", log)
    await node.storage.acquire([0])
    append = node.log.append

    async def append_and_intrude(slot: int, data: bytes, expected: int) -> int:
        await append(slot, data, expected)
        intrude(log, slot, b"hello")
        raise Uncertain("no answer")

    node.log.append = append_and_intrude  # type: ignore[method-assign]
    with pytest.raises(Uncertain):
        await node.storage.commit(0, [(b"k", b"1")])
    node.log.append = append  # type: ignore[method-assign]
    await node.storage.acquire([0])
    assert await node.content(0) == {b"k": b"1"}
    await node.storage.close()


@pytest.mark.parametrize(
    "data", [b"\x93\x02\xa5claim\x01", b"\x97\x09\xa3new\x01\xa1a\xc0\xc0\xc0"]
)
async def test_an_entry_of_another_version_is_refused(log: MemoryLog, data: bytes) -> None:
    intrude(log, 0, data)
    with pytest.raises(RecordUnreadable, match=r"version [29]") as refused:
        decode_entry(data)
    assert not isinstance(refused.value, NoEntry)
    node = await opened("a", log)
    for _ in range(2):
        with pytest.raises(RecordUnreadable, match="version"):
            await node.storage.acquire([0])
    assert set(node.storage.held()) == set()
    await node.storage.close()


@given(st.binary(max_size=60))
def test_whatever_stands_in_a_log_can_be_told(data: bytes) -> None:
    with suppress(RecordUnreadable):  # NoEntry is one
        decode_entry(data)


# What is broken off


async def test_a_wipe_that_is_broken_off_can_be_gone_on_with(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyring.storage.catchup.KEYS_PER_SCAN", 2)
    a = await opened("a", log)
    await a.storage.acquire([0])
    await a.storage.commit(0, [(b"%c/%d" % key, b"old") for key in product(b"adtz", range(3))])
    states = []
    for _ in range(12):
        b = await opened("b", log)
        await b.storage.follow([0])
        states.append(b.state)
    await a.storage.commit(0, [(b"%c/%d" % key, None) for key in product(b"adtz", range(3))])
    await a.storage.commit(0, [(b"t/new", b"v")])
    a.shorten()
    await a.storage.commit(0, [(b"u/new", b"v")])
    await a.storage.release([0])
    while (await log.size(0)).first < 3:  # the snapshot was not finished
        await a.storage.acquire([0])
        await a.storage.commit(0, [])
    monkeypatch.undo()
    monkeypatch.setattr("skyring.storage.catchup.KEYS_PER_SCAN", 2)
    expected = {b"t/new": b"v", b"u/new": b"v"}
    broken_off = 0
    for number, state in enumerate(states):
        b = await opened("b", log, state)
        fail_once(monkeypatch, state, after=number)
        try:
            await b.storage.follow([0])
        except Unavailable:
            broken_off += 1
        else:
            break
        after_crash = await opened("b", log, state)
        await after_crash.storage.acquire([0])
        assert await after_crash.content(0) == expected, f"broken off at commit {number}"
        await after_crash.storage.close()
    assert broken_off >= 7, "six with keys, and the last one of all"


def fail_once(monkeypatch: pytest.MonkeyPatch, state: Storage, after: int) -> None:
    """Let the state store fail once, after some commits."""
    commit, left = state.commit, after

    def fail(slot: int, writes: Sequence[Write]) -> Awaitable[None]:
        nonlocal left
        left -= 1
        if left == -1:
            raise Unavailable("the disk has hiccups")
        return commit(slot, writes)

    monkeypatch.setattr(state, "commit", fail)


async def test_a_snapshot_waits_for_a_state_store_that_is_away(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyring.storage.replicated.PAUSE_S", 0.001)
    monkeypatch.setattr(NodeStore, "spare_bytes", 500)
    node = await opened("a", log)
    await node.storage.acquire([0])
    scan, refused, may_go_on = node.state.scan, 0, asyncio.Event()

    async def hiccup(slot: int, start: bytes, stop: bytes, limit: int) -> Any:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise Unavailable("it is being opened again")
        may_go_on.set()
        return await scan(slot, start, stop, limit)

    monkeypatch.setattr(node.state, "scan", hiccup)
    for number in range(100):
        await node.storage.commit(0, [(b"short", b"%d" % number)])
        await node.storage.commit(0, [(b"short", None)])
    async with asyncio.timeout(10):
        await may_go_on.wait()
    assert refused == 3
    assert not node.storage._failure.done()
    await node.storage.commit(0, [(b"k", b"last")])
    assert node.lost == []
    assert await node.content(0) == {b"k": b"last"}
    await node.storage.release([0])
    assert (await log.size(0)).first > 1, "it was made shorter in the end"
    await node.storage.close()


async def test_a_snapshot_that_does_not_fit_is_given_up_until_the_next_claim(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeStore, "spare_bytes", -100_000)
    node = await opened("a", log)
    append, snapshots = node.log.append, 0

    async def append_small(slot: int, data: bytes, expected: int) -> int:
        nonlocal snapshots
        if decode_entry(data).kind == "snapshot":
            snapshots += 1
            raise TooLarge("the server has a smaller limit now")
        return await append(slot, data, expected)

    node.log.append = append_small  # type: ignore[method-assign]
    await node.storage.acquire([0])
    for number in range(20):
        await node.storage.commit(0, [(b"k", b"%d" % number)])
    assert snapshots == 1
    assert not node.storage._failure.done()
    await node.storage.release([0])
    assert (node.lost, await (await opened_reader(log)).content(0)) == ([], {b"k": b"19"})
    await node.storage.acquire([0])
    await node.storage.commit(0, [(b"k", b"20")])
    await node.storage.release([0])
    assert snapshots == 2
    await node.storage.close()


async def opened_reader(log: MemoryLog) -> NodeStore:
    node = await opened("reader", log)
    await node.storage.acquire([0])
    return node
