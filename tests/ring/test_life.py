"""Nodes that come, go, die and return."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skyring.errors import NotFound, RingError, SkyringError, Unavailable
from skyring.ring.messages import OperationsQuestion, decode_question
from skyring.storage.entry import decode_entry
from skyring.testing.recording import Delivered, Gate, take
from skyring.transports import Outcome
from tests.contract.recording import to
from tests.ring.rings import SLOTS, CuttableLog, LocalRing, RingNode, eventually, ring_of

FAR_MS = 3_600_000
PATIENT_MS = 3_000
"""A lease that a busy machine does not let lapse: that would explain a second delivery."""


async def create(node: RingNode, count: int, timeout: int = FAR_MS) -> list[str]:
    return list(
        await asyncio.gather(
            *(node.timers.create(timeout=timeout, callback=to()) for _ in range(count))
        )
    )


async def listed(node: RingNode) -> list[str]:
    """The ids of all pending timers, page by page."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await node.timers.list(limit=37, cursor=cursor)
        ids += [timer["id"] for timer in page.timers]
        if page.cursor is None:
            return ids
        cursor = page.cursor


async def test_one_node_holds_everything() -> None:
    async with ring_of("a") as ring:
        assert len(ring.nodes["a"].held) == SLOTS
        (timer_id,) = await create(ring.nodes["a"], 1, timeout=20)
        await ring.recorder.wait_for(timer_id)


async def test_slots_are_shared_and_each_has_one_holder() -> None:
    async with ring_of("a", "b", "c") as ring:
        held = [each.held for each in ring.nodes.values()]
        assert sum(map(len, held)) == SLOTS
        assert frozenset().union(*held) == frozenset(range(SLOTS))
        assert all(held)


async def test_every_node_takes_every_request() -> None:
    async with ring_of("a", "b", "c") as ring:
        ids: list[str] = []
        for node in ring.nodes.values():
            ids += await create(node, 40)
        for node in ring.nodes.values():
            assert sorted(await listed(node)) == sorted(ids)
            for timer_id in ids:
                assert (await node.timers.get(timer_id))["id"] == timer_id
        a, b, c = ring.nodes.values()
        await a.timers.update(ids[50], timeout=FAR_MS, callback=to("elsewhere"))
        assert (await c.timers.get(ids[50]))["callback"].uri == "elsewhere"
        for index, timer_id in enumerate(ids):
            await (a, b, c)[index % 3].timers.cancel(timer_id)
        for node in (a, b, c):
            assert await listed(node) == []
            with pytest.raises(NotFound):
                await node.timers.cancel(ids[0])


async def test_timers_fire_wherever_they_were_created() -> None:
    async with ring_of("a", "b", "c") as ring:
        ids = [timer_id for node in ring.nodes.values() for timer_id in await create(node, 30, 50)]
        await ring.recorder.wait_for(*ids)
        assert sorted(ring.recorder.ids) == sorted(ids)


async def test_a_node_that_joins_is_given_slots_and_no_request_fails() -> None:
    async with ring_of("a", "b", lease_ms=PATIENT_MS) as ring:
        load = Load(ring, ["a", "b"])
        async with load:
            await load.some(200)
            await ring.start("c", lease_ms=PATIENT_MS)
            await load.some(200)
            assert ring.nodes["c"].held
        await load.all_delivered()


async def test_a_node_that_leaves_gives_its_slots_away_and_no_request_fails() -> None:
    async with ring_of("a", "b", "c", lease_ms=PATIENT_MS) as ring:
        load = Load(ring, ["a", "b"])
        async with load:
            await load.some(200)
            await ring.nodes.pop("c").node.stop()
            await ring.settled()
            await load.some(200)
        await load.all_delivered()


async def test_a_ring_of_one_that_leaves_keeps_its_timers() -> None:
    ring = LocalRing()
    await ring.start("a")
    ids = await create(ring.nodes["a"], 50)
    await ring.stop()
    ring.nodes.clear()
    await ring.start("b")
    try:
        assert sorted(await listed(ring.nodes["b"])) == sorted(ids)
    finally:
        await ring.stop()


async def test_when_all_leave_what_is_being_delivered_is_delivered_once() -> None:
    ring = LocalRing()
    gate = ring.recorder.script = Gate()
    await ring.start("a", "b", "c")
    nodes = list(ring.nodes.values())
    ids = await create(nodes[0], 50, timeout=1)
    await ring.recorder.wait_for(*ids)
    stopping = asyncio.ensure_future(ring.stop())
    # Nobody is there to take a slot any more, so each waits for its deliveries.
    await ring.until(lambda: all(node.node.ring()["state"] == "leaving" for node in nodes))
    gate.open()
    await stopping
    ring.nodes.clear()
    await ring.start("d")
    try:
        assert await listed(ring.nodes["d"]) == []
        assert sorted(ring.recorder.ids) == sorted(ids)
    finally:
        await ring.stop()


async def test_a_dead_nodes_timers_are_delivered_by_the_others() -> None:
    async with ring_of("a", "b", "c") as ring:
        ids = await create(ring.nodes["a"], 100, timeout=1_500)
        epochs = ring.epochs()
        dead = ring.nodes.pop("c")
        lost = dead.held
        dead.cut()
        await ring.settled()
        await ring.recorder.wait_for(*ids)
        after = ring.epochs()
        assert all(after[slot] > epochs[slot] for slot in lost)
        await dead.node.stop()


async def test_a_node_that_was_away_drops_its_slots_and_claims_anew() -> None:
    async with ring_of("a", "b", "c") as ring:
        away = ring.nodes["c"]
        before = away.held
        away.cut()
        await ring.until(lambda: {item["phase"] for item in others(ring)} == {"held"})
        with pytest.raises(SkyringError):
            await create(away, 1)
        away.mend()
        await ring.settled()
        assert away.held == before
        epochs_only_rise(ring)
        await create(away, 20)


def others(ring: LocalRing) -> list[dict[str, Any]]:
    """Each slot as a or b has it, the one that holds it if one does."""
    views = [ring.nodes[name].node.ring()["slots_detail"] for name in ("a", "b")]
    return [one if one["phase"] == "held" else other for one, other in zip(*views, strict=True)]


def epochs_only_rise(ring: LocalRing) -> None:
    """And nobody writes in the epoch of another."""
    for messages in ring.log._slots.values():
        epoch, writer = 0, ""
        for data in messages.values():
            entry = decode_entry(data)
            if entry.kind == "claim":
                assert entry.epoch > epoch
                epoch, writer = entry.epoch, entry.node
            elif epoch:
                assert (entry.epoch, entry.node) == (epoch, writer)


async def test_without_a_connection_reads_go_on_and_nothing_is_written_or_delivered() -> None:
    async with ring_of("a") as ring:
        node = ring.nodes["a"]
        ids = await create(node, 20)
        (soon,) = await create(node, 1, timeout=1_000)
        node.cut()
        await ring.until(lambda: node.node.ring()["lease_ms"] == 0)
        assert (await node.timers.get(ids[0]))["id"] == ids[0]
        assert len(await listed(node)) == 21
        with pytest.raises(Unavailable) as refusal:
            await create(node, 1)
        assert refusal.value.retry_after_s >= 1
        assert node.node.not_ready() is not None
        await eventually(lambda: is_overdue(node, soon))
        assert ring.recorder.ids == []
        node.mend()
        await ring.recorder.wait_for(soon)
        await ring.settled()
        await create(node, 1)


async def is_overdue(node: RingNode, timer_id: str) -> bool:
    timer = await node.timers.get(timer_id)
    return bool(node.node._state.clock.now_ms() > timer["due"] + 100)


async def test_a_second_node_of_the_same_name_is_refused_while_the_first_lives() -> None:
    async with ring_of("a", "b") as ring:
        second = RingNode(ring, "a")
        await second.node.start()
        with pytest.raises(RingError, match="--node"):
            await second.node.wait()
        await second.node.stop()
        await ring.settled()


async def test_garbled_messages_are_counted_and_harm_nobody() -> None:
    async with ring_of("a", "b") as ring:
        a = ring.nodes["a"]
        for data in (b"", b"\x01", b"\xff" * 100, b"\x01\x90"):
            a.bus._listener.heard(data)  # type: ignore[union-attr]
            a.bus._listener.asked(data, lambda answer: None)  # type: ignore[union-attr]
        await ring.until(lambda: a.node.ring()["garbled"] == 8)
        await create(a, 20)


async def test_a_slow_delivery_is_not_made_twice_by_a_graceful_move() -> None:
    async with ring_of("a") as ring:
        opened = asyncio.Event()

        async def slow(delivery: Delivered) -> Outcome:
            await opened.wait()
            return await take(delivery)

        ring.recorder.script = slow
        ids = await create(ring.nodes["a"], 40, timeout=1)
        await ring.recorder.wait_for(*ids)
        node = ring.nodes["b"] = RingNode(ring, "b")
        await node.node.start()
        await ring.until(lambda: len(node.node.ring()["members"]) == 2)
        opened.set()
        await ring.settled()
        await eventually(lambda: nothing_pending(node))
        assert sorted(ring.recorder.ids) == sorted(ids)


async def nothing_pending(node: RingNode) -> bool:
    return await listed(node) == []


async def test_who_leaves_answers_what_it_was_asked_before_it_says_farewell() -> None:
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        assert b.node._ring is not None
        answering = b.node._ring.member._answering
        answer, may_answer = answering.answer, asyncio.Event()
        heard = asyncio.Event()

        async def answer_slowly(question: bytes) -> bytes:
            answered = await answer(question)
            if isinstance(decode_question(question), OperationsQuestion):
                heard.set()
                await may_answer.wait()
            return answered

        answering.answer = answer_slowly  # type: ignore[assignment, method-assign]
        asked = asyncio.create_task(a.timers.cancel(ring.id_in(b.held)))
        await heard.wait()
        leaving = asyncio.create_task(b.node.leave())
        await ring.until(lambda: not b.bus._serves)
        assert not b.held
        assert a.sees()["b"] == "leaving"
        may_answer.set()
        with pytest.raises(NotFound):
            await asked
        await leaving
        assert a.sees()["b"] == "left"


async def test_a_name_is_free_when_its_node_has_left() -> None:
    async with ring_of("a", "b") as ring:
        old = ring.nodes["b"]
        await old.node.leave()  # it still serves, and ends its deliveries
        ring.nodes["b"] = RingNode(ring, "b")
        try:
            await ring.nodes["b"].node.start()
            await ring.settled()
            assert not old.has_failed()
        finally:
            await old.node.stop()


async def test_what_happens_is_told() -> None:
    async with ring_of("a", "b") as ring:
        (timer_id,) = await create(ring.nodes["a"], 1, timeout=20)
        await ring.recorder.wait_for(timer_id)
        wanted = {"create", "execute", "success", "claim", "join"}
        await ring.until(lambda: wanted <= {kind for kind, _ in ring.network.events})


class Load:
    """Creates timers all the time, some of which fire soon; fails with the first that fails."""

    def __init__(self, ring: LocalRing, entries: list[str]) -> None:
        self._ring = ring
        self._entries = entries
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.ids: list[str] = []

    async def __aenter__(self) -> Load:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopping = True
        assert self._task is not None
        await self._task

    async def some(self, count: int) -> None:
        """Until so many more were created."""
        wanted = len(self.ids) + count
        assert self._task is not None
        await self._ring.until(lambda: len(self.ids) >= wanted or self._task.done())  # type: ignore[union-attr]
        assert not self._task.done()

    async def all_delivered(self) -> None:
        await self._ring.recorder.wait_for(*self.ids)
        assert sorted(self._ring.recorder.ids) == sorted(self.ids)

    async def _run(self) -> None:
        turn = 0
        while not self._stopping:
            node = self._ring.nodes[self._entries[turn % len(self._entries)]]
            self.ids += await create(node, 5, timeout=1 + turn % 200)
            turn += 1


class CountingLog(CuttableLog):
    """Counts how often a node has come to it."""

    tries = 0

    async def open(self) -> None:
        self.tries += 1
        await super().open()


async def test_why_the_ring_cannot_be_joined_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ring_of("a") as ring:
        late = ring.nodes["b"] = RingNode(ring, "b")
        assert late.node._ring is not None
        log = late.node._ring.storage._log = CountingLog(ring.log)
        log.is_cut = True
        await late.node.start()
        await ring.until(lambda: log.tries > 3)
        log.is_cut = False
        await ring.settled()
    said = [record for record in caplog.records if "cannot be joined yet" in record.getMessage()]
    assert len(said) == 1, "it was tried again without a word"
