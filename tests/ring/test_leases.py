"""No slot has two nodes that would write to it, whatever is slow, cut off, frozen or dead."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from skyring.clock import ManualClock
from skyring.errors import Unavailable
from skyring.ring.membership import Gossip, Timing
from skyring.ring.memory_bus import MemoryBus, MemoryNetwork
from skyring.ring.messages import decode_gossip, encode
from skyring.ring.observer import Observer
from skyring.ring.ownership import Holder
from skyring.ring.slots import pack_slots
from skyring.storage.entry import decode_entry
from tests.contract.recording import to
from tests.ring.rings import SLOTS, LocalRing, RingNode, ring_of

LONG_LEASE: dict[str, Any] = {"suspect_ms": 100, "dead_ms": 200, "lease_ms": 1_200}
"""The dead are found long before their leases are over."""


class Ticks:
    """Counts the looks of a node at what time has brought."""

    def __init__(self, node: RingNode) -> None:
        assert node.node._ring is not None
        observer = node.node._ring.member.observer
        self.count = 0
        tick = observer.tick

        def counted() -> None:
            self.count += 1
            tick()

        observer.tick = counted  # type: ignore[method-assign]


class Claims:
    """Who has claimed which slot, and with which epoch, since the ring was begun."""

    def __init__(self, ring: LocalRing) -> None:
        self._ring = ring

    def of(self, node: str) -> list[tuple[int, int]]:
        """Slots and epochs."""
        entries = [
            (slot, decode_entry(data))
            for slot, messages in self._ring.log._slots.items()
            for data in messages.values()
        ]
        return [
            (slot, entry.epoch)
            for slot, entry in entries
            if entry.kind == "claim" and entry.node == node
        ]


async def test_after_a_reconnection_no_slot_is_taken_before_it_is_known_who_is_there() -> None:
    async with ring_of("a", "b", "c") as ring:
        a, b, c = ring.nodes.values()
        before, claims = c.held, Claims(ring)
        c.cut()
        await ring.until(lambda: before <= a.held | b.held)
        claimed = claims.of("c")
        check, may_check = c.log.check, asyncio.Event()

        async def check_slowly() -> None:
            await may_check.wait()
            await check()

        c.log.check = check_slowly  # type: ignore[method-assign]
        ring.network.is_cut = lambda source, target: target == "c" and source in ("a", "b")
        c.mend()
        await ring.until(lambda: c.lease_ms > 0)
        ticks = Ticks(c)
        await ring.until(lambda: ticks.count >= 10)
        assert claims.of("c") == claimed, "it has heard nobody, and read nothing"
        assert c.may_write == frozenset()
        ring.network.is_cut = lambda source, target: False
        may_check.set()

        def is_back() -> bool:
            assert ring.nobody_shares()
            return c.held == before

        await ring.until(is_back)
        await ring.settled()


@pytest.mark.parametrize("is_announced", [True, False])
async def test_the_slots_of_the_dead_are_taken_when_its_lease_is_over_and_not_before(
    is_announced: bool,
) -> None:
    """Also when nobody has heard what it claimed."""
    async with ring_of("a", "b", **LONG_LEASE) as ring:
        a, b = ring.nodes.values()
        dead = RingNode(ring, "c", **LONG_LEASE)
        if not is_announced:
            hide_slots(dead)
        await dead.node.start()
        try:
            await ring.until(lambda: not dead.node.not_ready())
            lost = dead.held
            assert lost
            if is_announced:
                await ring.until(lambda: knows(a, "c", lost) and knows(b, "c", lost))
            else:
                assert not knows(a, "c", lost)
            dead.cut()
            seen_dead_ms = 0

            def is_taken() -> bool:
                nonlocal seen_dead_ms
                if a.sees()["c"] == b.sees()["c"] == "dead":
                    seen_dead_ms = max(seen_dead_ms, dead.lease_ms)
                taken = lost & (a.may_write | b.may_write)
                assert not taken or not dead.lease_ms
                return taken == lost

            await ring.until(is_taken)
            assert seen_dead_ms > 200, "it was known to be dead long before"
        finally:
            await dead.node.stop()


def knows(node: RingNode, holder: str, slots: frozenset[int]) -> bool:
    """Does it know who holds these slots?"""
    view = node.node.ring()["slots_detail"]
    return all(view[slot]["holder"] == holder for slot in slots)


def hide_slots(node: RingNode) -> None:
    """Its announcements do not say yet what it holds."""
    announce = node.bus.announce

    async def announce_less(announcement: bytes, timeout_ms: int) -> None:
        gossip = msgspec.structs.replace(decode_gossip(announcement), held=b"")
        await announce(encode(gossip), timeout_ms)

    node.bus.announce = announce_less  # type: ignore[method-assign]


def made_observer(clock: ManualClock) -> Observer:
    def spawn(work: Any) -> bool:
        work.close()
        return True

    return Observer(
        "me",
        8,
        Timing(100, 200, 300),
        1_000,
        MemoryBus(MemoryNetwork()),
        clock,
        spawn,
        lambda kind, fields: None,
        lambda: None,
        lambda name: None,
    )


def pass_away(clock: ManualClock, observer: Observer) -> None:
    """Whoever is heard of no more is dead then."""
    for _ in range(4):
        clock.advance(100)
        observer.tick()


def test_the_slots_of_the_dead_keep_their_holder_until_its_lease_is_over() -> None:
    clock = ManualClock()
    observer = made_observer(clock)
    observer.hear(Gossip("other", 1, "alive", held=pack_slots([2, 5])))
    assert observer.holders() == {slot: [Holder("other", 1_050, True)] for slot in (2, 5)}
    pass_away(clock, observer)
    assert observer.membership.owners() == []
    assert observer.table.holder(2) is None
    assert observer.holders() == {slot: [Holder("other", 1_050, False)] for slot in (2, 5)}
    observer.hear(Gossip("third", 1, "alive", held=pack_slots([5])))
    third = Holder("third", 1_450, True)
    assert observer.holders()[5] == [Holder("other", 1_050, False), third], "both may act"
    observer.hear(Gossip("other", 1, "left"))
    assert observer.holders() == {5: [third]}


def test_a_node_whose_claim_stands_in_a_log_may_act_on_it_before_it_says_so() -> None:
    clock = ManualClock()
    observer = made_observer(clock)
    observer.hear(Gossip("other", 1, "alive"))
    observer.claimed(2, "other")
    observer.claimed(3, "me")
    observer.claimed(4, "stranger")
    assert observer.claimants() == {2: Holder("other", 2_100, True)}
    clock.advance(2_099)
    assert observer.claimants().keys() == {2}
    clock.advance(1)
    assert observer.claimants() == {}, "it has said so by now, or holds it no more"
    assert not observer.was_claimed([2])


def test_a_claim_of_a_node_that_was_taken_for_dead_counts_when_it_is_heard_of() -> None:
    clock = ManualClock()
    observer = made_observer(clock)
    observer.hear(Gossip("other", 1, "alive"))
    pass_away(clock, observer)
    observer.claimed(2, "other")
    assert observer.claimants() == {2: Holder("other", 1_050, False)}, "its lease ends with that"
    assert observer.was_claimed([1, 2])
    assert not observer.was_claimed([1])
    observer.hear(Gossip("other", 1, "alive", beat=9))
    assert observer.claimants() == {2: Holder("other", 400 + 2_100, True)}
    observer.hear(Gossip("other", 1, "left", beat=10))
    assert observer.claimants() == {}


async def test_a_claim_that_was_under_way_while_the_node_was_frozen_is_not_held() -> None:
    async with ring_of("a") as ring:
        a = ring.nodes["a"]
        frozen = ring.nodes["b"] = RingNode(ring, "b")
        append, appended, may_answer = frozen.log.append, 0, asyncio.Event()

        async def append_slowly(slot: int, data: bytes, expected: int) -> int:
            nonlocal appended
            sequence = await append(slot, data, expected)
            appended += 1
            await may_answer.wait()
            return sequence

        frozen.log.append = append_slowly  # type: ignore[method-assign]
        await frozen.node.start()
        await ring.until(lambda: appended > 0)
        lease_ms = frozen.lease_ms
        frozen.clock.frozen_s += 60
        assert lease_ms > 0 == frozen.lease_ms
        await ring.until(lambda: frozen.lease_ms > 0)
        claimed = dict(Claims(ring).of("b"))
        assert len(claimed) == appended
        assert frozen.may_write == frozenset()
        frozen.log.append = append  # type: ignore[method-assign]
        may_answer.set()
        await ring.settled()
        assert frozen.held
        now = dict(Claims(ring).of("b"))
        assert all(now[slot] > epoch for slot, epoch in claimed.items()), "claimed anew"
        assert ring.nobody_shares()
        assert a.held.isdisjoint(frozen.held)


async def test_a_node_that_takes_the_name_of_one_that_was_cut_off_waits_for_its_lease() -> None:
    async with ring_of("a", "b", "c", lease_ms=900) as ring:
        old = ring.nodes["c"]
        lost = old.held
        ids = [ring.id_in([slot], f"of-{slot}") for slot in lost]
        for timer_id in ids:
            await ring.nodes["a"].timers.create(id=timer_id, timeout=3_600_000, callback=to())
        old.cut()
        new = ring.nodes["c"] = RingNode(ring, "c", lease_ms=900)
        try:
            await new.node.start()

            def has_joined() -> bool:
                if old.lease_ms:
                    assert new.node.ring()["state"] is None
                    others = frozenset().union(*(each.may_write for each in ring.nodes.values()))
                    assert not others & lost
                return bool(new.node.ring()["state"] == "alive")

            await ring.until(has_joined)
            await ring.settled()
            assert new.held == lost
            for timer_id in ids:
                await new.timers.cancel(timer_id)
        finally:
            await old.node.stop()


async def test_a_node_that_had_left_need_not_wait_for_its_own_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="skyring.ring.presence")
    async with ring_of("a", "b") as ring:
        await ring.nodes.pop("b").node.stop()
        await ring.settled()
        await ring.start("b")
        assert "waiting" not in caplog.text
        killed = ring.nodes.pop("b")
        killed.cut()
        try:
            await ring.start("b")
        finally:
            await killed.node.stop()
        assert "waiting for the lease of the last b" in caplog.text


async def test_the_dead_stay_dead_when_their_announcements_are_read_again() -> None:
    async with ring_of("a", "b", "c") as ring:
        dead = ring.nodes.pop("c")
        dead.cut()
        try:
            a, b = ring.nodes.values()
            await ring.until(lambda: a.sees()["c"] == b.sees()["c"] == "dead")
            await ring.settled()
            read, is_read = a.bus.announcements, asyncio.Event()

            async def announcements() -> list[bytes]:
                found = await read()
                asyncio.get_running_loop().call_soon(is_read.set)
                return found

            a.bus.announcements = announcements  # type: ignore[method-assign]
            a.bus.disconnect()
            a.bus.connect()
            await is_read.wait()
            ticks = Ticks(a)
            await ring.until(lambda: ticks.count >= 2)
            assert a.sees()["c"] == "dead"
            assert all(item["owner"] != "c" for item in a.node.ring()["slots_detail"])
            assert all(item["holder"] != "c" for item in a.node.ring()["slots_detail"])
            dead.mend()
            ring.nodes["c"] = dead
            await ring.settled()
        finally:
            await dead.node.stop()


async def test_heartbeats_that_are_quicker_than_the_looks_do_not_hide_the_dead() -> None:
    quick = {"heartbeat_ms": 20, "suspect_ms": 300, "dead_ms": 600, "lease_ms": 700}
    async with ring_of("a", "b", **quick) as ring:
        dead = ring.nodes.pop("b")
        try:
            loop = asyncio.get_running_loop()
            cut_s = loop.time()
            dead.cut()
            await ring.until(lambda: ring.nodes["a"].sees()["b"] == "dead")
            assert 0.5 < loop.time() - cut_s < 2, "five times as long when each look forgives"
        finally:
            await dead.node.stop()


async def test_a_node_that_leaves_while_it_joins_has_left() -> None:
    async with ring_of("a") as ring:
        a, leaving = ring.nodes["a"], RingNode(ring, "b")
        announce, may_announce, said = leaving.bus.announce, asyncio.Event(), 0

        async def announce_slowly(announcement: bytes, timeout_ms: int) -> None:
            nonlocal said
            said += 1
            if said == 1:
                await may_announce.wait()
            await announce(announcement, timeout_ms)

        leaving.bus.announce = announce_slowly  # type: ignore[method-assign]
        try:
            await leaving.node.start()
            await ring.until(lambda: said == 1)
            await leaving.node.leave()
            assert leaving.node.ring()["state"] == "left"
            ticks = Ticks(leaving)
            may_announce.set()
            await ring.until(lambda: ticks.count >= 5)
            assert leaving.node.ring()["state"] == "left"
            assert leaving.node.not_ready() is not None
            assert leaving.held == frozenset()
            assert a.sees()["b"] == "left"
            assert len(a.held) == SLOTS
            await ring.settled()
        finally:
            await leaving.node.stop()


async def test_a_node_that_no_slot_is_placed_on_becomes_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.ring.rings.SLOTS", 1)
    async with ring_of("a", "b") as ring:
        assert sorted(len(each.held) for each in ring.nodes.values()) == [0, 1]
        await ring.until(lambda: all(not each.node.not_ready() for each in ring.nodes.values()))
        for node in ring.nodes.values():
            await node.timers.create(timeout=3_600_000, callback=to())
            assert len((await node.timers.list()).timers) > 0


async def test_a_node_that_cannot_read_who_is_there_does_not_join() -> None:
    async with ring_of("a") as ring:
        node = ring.nodes["b"] = RingNode(ring, "b")
        read, tries, may_read = node.bus.announcements, 0, False

        async def announcements() -> list[bytes]:
            nonlocal tries
            tries += 1
            if not may_read:
                raise Unavailable("temporarily unavailable")
            return await read()

        node.bus.announcements = announcements  # type: ignore[method-assign]
        await node.node.start()
        await ring.until(lambda: tries >= 2)
        assert node.node.ring()["state"] is None
        assert "temporarily" in str(node.node.not_ready())
        may_read = True
        await ring.settled()


async def test_a_node_whose_lease_has_lapsed_denies_no_timer() -> None:
    """It can still be read while it has no connection, but others may have more by now."""
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        timer_id = ring.id_in(a.held)
        before = a.held
        a.cut()
        await ring.until(lambda: before <= b.held)
        await b.timers.create(id=timer_id, timeout=3_600_000, callback=to("x"))
        for change in (
            a.timers.cancel(timer_id),
            a.timers.update(timer_id, timeout=1, callback=to("x")),
            a.timers.create(id=timer_id, timeout=1, callback=to("y")),
        ):
            with pytest.raises(Unavailable):
                await change
        await b.timers.cancel(timer_id)


async def test_who_is_not_heard_by_one_alone_keeps_its_slots() -> None:
    """Its lease is renewed by the server, where its announcements are kept for all."""
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        before, claims = a.held, Claims(ring)
        claimed = claims.of("b")
        ring.network.is_cut = lambda source, target: (source, target) == ("a", "b")
        await ring.until(lambda: b.sees()["a"] == "dead")
        looks = Ticks(b)
        await ring.until(lambda: looks.count > 200)
        assert a.held == before
        assert claims.of("b") == claimed
        assert ring.nobody_shares()
        ring.network.is_cut = lambda source, target: False
        await ring.settled()


def test_what_a_node_lets_go_of_as_it_leaves_is_known() -> None:
    observer = made_observer(ManualClock())
    assert observer.hear(Gossip("other", 1, "alive", held=pack_slots([2, 3, 5]))) == set()
    released = Gossip("other", 1, "alive", held=pack_slots([2, 3]), beat=1)
    assert observer.hear(released) == set(), "another node may be claiming it"
    leaving = Gossip("other", 1, "leaving", held=pack_slots([2]), beat=2)
    assert observer.hear(leaving) == {3}
    assert observer.hear(Gossip("other", 2, "alive", held=pack_slots([2]))) == set()
    assert observer.hear(Gossip("other", 1, "left", beat=3)) == set(), "that is long ago"
    assert observer.hear(Gossip("other", 2, "left", beat=1)) == {2}
