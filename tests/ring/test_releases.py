"""What a node says when it is asked to release slots: it does not act for them any more."""

from __future__ import annotations

import asyncio

from skyring.ring.messages import ReleaseQuestion, decode_release_answer, encode
from skyring.ring.slots import pack_slots, unpack_slots
from tests.ring.rings import SLOTS, RingNode, ring_of

ASK_MS = 5_000
ALL = frozenset(range(SLOTS))


async def released(asker: RingNode, node: str, slots: frozenset[int]) -> frozenset[int]:
    question = encode(ReleaseQuestion(asker.name, pack_slots(slots)))
    answer = await asker.bus.ask(node, question, ASK_MS)
    return frozenset(unpack_slots(decode_release_answer(answer).slots, SLOTS))


async def test_what_a_node_holds_is_released_and_for_the_rest_it_does_not_act() -> None:
    async with ring_of("a", "b") as ring:
        a, b = ring.nodes.values()
        held = a.held
        assert held < ALL
        assert await released(b, "a", ALL - held) == ALL - held
        assert a.held == held, "nothing was asked of these"
        assert await released(b, "a", ALL) == ALL
        await ring.settled()
        assert ring.nobody_shares()


async def test_a_slot_that_is_being_claimed_is_not_said_to_be_free() -> None:
    async with ring_of("a") as ring:
        a = ring.nodes["a"]
        claiming = ring.nodes["b"] = RingNode(ring, "b")
        append, may_answer = claiming.log.append, asyncio.Event()

        async def append_slowly(slot: int, data: bytes, expected: int) -> int:
            sequence = await append(slot, data, expected)
            slots.add(slot)
            await may_answer.wait()
            return sequence

        slots: set[int] = set()
        claiming.log.append = append_slowly  # type: ignore[method-assign]
        await claiming.node.start()
        await ring.until(lambda: bool(slots))
        under_way = frozenset(slots)
        free = await released(a, "b", ALL)
        assert not free & under_way, "its claims stand in the log, and it does not know yet"
        claiming.log.append = append  # type: ignore[method-assign]
        may_answer.set()
        await ring.settled()
        assert ring.nobody_shares()
