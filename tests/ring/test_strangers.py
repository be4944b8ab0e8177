"""Somebody who is no node of the ring writes where only nodes write."""

from __future__ import annotations

import asyncio

import pytest

from skyring.errors import RecordUnreadable, RingError
from skyring.ring.messages import WIRE_VERSION
from skyring.storage.entry import decode_entry
from tests.contract.recording import to
from tests.ring.rings import SLOTS, LocalRing, RingNode, ring_of

FAR_MS = 3_600_000
STRANGE = [b"hello", b"", b'{"a":1}', b"\x91\x01", b"\xff" * 64]


async def create_in_each_slot(ring: LocalRing, node: RingNode, name: str) -> list[str]:
    ids = [ring.id_in([slot], f"{name}-{slot}") for slot in range(SLOTS)]
    made = (node.timers.create(id=each, timeout=FAR_MS, callback=to()) for each in ids)
    return list(await asyncio.gather(*made))


async def listed(node: RingNode) -> list[str]:
    page = await node.timers.list(limit=1_000)
    assert page.cursor is None
    return sorted(timer["id"] for timer in page.timers)


def no_entries(ring: LocalRing) -> int:
    """Messages in the logs that no node has written."""
    count = 0
    for messages in ring.log._slots.values():
        for data in messages.values():
            try:
                decode_entry(data)
            except RecordUnreadable:
                count += 1
    return count


async def test_strange_messages_in_all_logs_lose_nothing_and_fail_no_request() -> None:
    async with ring_of("a", "b", "c") as ring:
        a, b, c = ring.nodes.values()
        ids = await create_in_each_slot(ring, a, "before")
        epochs = ring.epochs()
        for slot in range(SLOTS):
            ring.intrude(slot, STRANGE[slot % len(STRANGE)])
        ids += await create_in_each_slot(ring, b, "after")  # each of them meets one
        await ring.settled()
        after = ring.epochs()
        assert all(after[slot] > epochs[slot] for slot in range(SLOTS)), "claimed anew"
        assert await listed(c) == sorted(ids)
        assert no_entries(ring) == SLOTS
        for slot in range(SLOTS):
            ring.intrude(slot, b"again")
        ids += await create_in_each_slot(ring, c, "last")
        await ring.settled()
        assert not any(each.has_failed() for each in ring.nodes.values())
        # Others read the logs from where they are, a newcomer from the beginning.
        await ring.nodes.pop("a").node.stop()
        await ring.settled()
        await ring.start("d")
        assert await listed(ring.nodes["d"]) == sorted(ids)


async def test_a_strange_message_delays_a_delivery_and_does_not_repeat_or_lose_it() -> None:
    async with ring_of("a", "b") as ring:
        ids = []
        for slot in range(SLOTS):
            timer_id = ring.id_in([slot], f"soon-{slot}")
            ids.append(await ring.nodes["a"].timers.create(id=timer_id, timeout=300, callback=to()))
        for slot in range(SLOTS):
            ring.intrude(slot, b"hello")
        await ring.recorder.wait_for(*ids)

        async def nothing_is_left() -> bool:
            return await listed(ring.nodes["b"]) == []

        async with asyncio.timeout(20):
            while not await nothing_is_left():
                await asyncio.sleep(0.01)
        # What had been delivered when its slot was lost is delivered once more.
        assert set(ring.recorder.ids) == set(ids)
        assert all(ring.recorder.ids.count(timer_id) <= 2 for timer_id in ids)
        assert not any(each.has_failed() for each in ring.nodes.values())


async def test_an_entry_of_a_later_version_stops_who_reads_it() -> None:
    """What it says is not known, so nobody may go on as if it were not there."""
    ring = LocalRing()
    ring.intrude(0, b"\x93\x02\xa5claim\x07")
    node = ring.nodes["a"] = RingNode(ring, "a")
    try:
        await node.node.start()
        async with asyncio.timeout(10):
            with pytest.raises(RecordUnreadable, match="version 2"):
                await node.node.wait()
        assert node.node.not_ready() is not None
    finally:
        await ring.stop()


class OtherVersion:
    """A node of a program with another wire format, as far as it can be heard."""

    def __init__(self, ring: LocalRing) -> None:
        self._ring = ring
        self.beats = 0

    def announce(self) -> None:
        self.beats += 1
        message = bytes([WIRE_VERSION + 1]) + self.beats.to_bytes(8, "big")
        self._ring.network.kept["other"] = message
        for bus in self._ring.network.buses:
            assert bus._listener is not None
            bus._listener.heard(message)

    async def live(self) -> None:
        while True:
            self.announce()
            await asyncio.sleep(0.05)


async def test_no_node_joins_others_that_it_does_not_understand() -> None:
    async with ring_of("a") as ring:
        living = asyncio.create_task(OtherVersion(ring).live())
        late = RingNode(ring, "b")
        try:
            await late.node.start()
            with pytest.raises(RingError, match=f"version {WIRE_VERSION + 1} of the wire format"):
                await late.node.wait()
            assert not ring.nodes["a"].has_failed(), "who is there already goes on"
            assert len(ring.nodes["a"].held) == SLOTS
        finally:
            living.cancel()
            await late.node.stop()


async def test_nodes_of_another_version_that_are_gone_keep_nobody_out() -> None:
    ring = LocalRing()
    OtherVersion(ring).announce()
    await ring.start("a")
    try:
        assert len(ring.nodes["a"].held) == SLOTS
    finally:
        await ring.stop()
