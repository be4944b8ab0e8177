"""How the nodes of a ring stand, in numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from skyring.timers.record import timer_slot
from tests.contract.recording import to
from tests.contract.scraping import scraped
from tests.ring.rings import SLOTS, LocalRing, eventually, ring_of

FAR_MS = 3_600_000
HELD, WITHOUT = "skyring_ring_slots_held", "skyring_ring_slots_without_holder"
LEASE, CONNECTED = "skyring_ring_lease_seconds", "skyring_ring_connected"
DELIVERED = "skyring_deliveries_total{outcome=delivered}"


def members(state: str) -> str:
    return f"skyring_ring_members{{state={state}}}"


def at_least(name: str, number: int) -> Callable[[dict[str, float]], bool]:
    return lambda metrics: metrics[name] >= number


async def becomes(
    ring: LocalRing, name: str, reached: Callable[[dict[str, float]], bool]
) -> dict[str, float]:
    """What a node shows when it is so; fails if it never is."""
    shown: dict[str, float] = {}

    async def is_so() -> bool:
        shown.update(await scraped(ring.nodes[name].node))
        return reached(shown)

    await eventually(is_so)
    return shown


async def test_a_ring_at_rest() -> None:
    async with ring_of("a", "b", "c") as ring:
        shown = {name: await scraped(each.node) for name, each in ring.nodes.items()}
        for name, metrics in shown.items():
            assert metrics[HELD] == len(ring.nodes[name].held) > 0
            assert metrics[WITHOUT] == 0
            assert 0 < metrics[LEASE] <= 0.5
            assert metrics[CONNECTED] == 1
            assert metrics[members("alive")] == 3
            rest = ("joining", "suspect", "dead", "leaving", "left")
            assert {state: metrics[members(state)] for state in rest} == dict.fromkeys(rest, 0)
        assert sum(metrics[HELD] for metrics in shown.values()) == SLOTS
        for name in ring.nodes:
            await becomes(ring, name, lambda metrics: metrics["skyring_ready"] == 1)


async def test_a_change_is_counted_where_it_is_made() -> None:
    async with ring_of("a", "b", "c") as ring:
        through = ring.nodes["a"].timers
        ids = await asyncio.gather(
            *(through.create(timeout=FAR_MS, callback=to(), id=f"id-{n}") for n in range(60))
        )
        await asyncio.gather(*(through.cancel(timer_id) for timer_id in ids[:20]))
        await through.update(ids[20], timeout=FAR_MS, callback=to())
        again = await through.create(timeout=FAR_MS, callback=to(), id=ids[30])
        assert again == ids[30]  # it was there: nothing has changed
        for each in ring.nodes.values():
            shown = await scraped(each.node)
            for kind, changed in (("create", ids), ("cancel", ids[:20]), ("update", ids[20:21])):
                here = sum(timer_slot(timer_id, SLOTS) in each.held for timer_id in changed)
                assert shown[f"skyring_operations_total{{operation={kind}}}"] == here


async def test_each_delivery_is_counted_by_the_node_that_made_it() -> None:
    async with ring_of("a", "b", "c") as ring:
        through = ring.nodes["a"].timers
        made = [through.create(timeout=1, callback=to(), id=f"id-{n}") for n in range(30)]
        ids = await asyncio.gather(*made)
        for name, each in ring.nodes.items():
            here = sum(timer_slot(timer_id, SLOTS) in each.held for timer_id in ids)
            shown = await becomes(ring, name, at_least(DELIVERED, here))
            assert shown[DELIVERED] == here
            assert shown["skyring_delivery_lateness_seconds_count"] == here


async def test_a_node_that_is_cut_off_and_those_that_take_over() -> None:
    async with ring_of("a", "b", "c") as ring:
        lost = ring.nodes["c"]
        lost.cut()
        shown = await becomes(ring, "c", lambda metrics: metrics[LEASE] == 0)
        assert shown[CONNECTED] == 0
        assert shown["skyring_ready"] == 0
        shown = await becomes(ring, "a", lambda metrics: metrics[members("dead")] == 1)
        assert shown[members("alive")] == 2
        shown = await becomes(
            ring, "a", lambda metrics: metrics[WITHOUT] == 0 and metrics[members("dead")] == 1
        )
        held = [len(ring.nodes[name].held) for name in "ab"]
        assert sum(held) == SLOTS
        lost.mend()
        await ring.settled()
        shown = await becomes(ring, "c", lambda metrics: metrics["skyring_ready"] == 1)
        assert shown[CONNECTED] == 1
        assert shown[HELD] == len(lost.held) > 0
        assert shown[members("alive")] == 3


async def test_slots_of_a_node_that_died_have_no_holder_until_they_are_taken() -> None:
    async with ring_of("a", "b", dead_ms=400, lease_ms=5_000) as ring:
        # The lease of the dead is waited out, so there is time to look.
        ring.nodes["b"].cut()
        shown = await becomes(ring, "a", lambda metrics: metrics[members("dead")] == 1)
        assert shown[WITHOUT] == len(ring.nodes["b"].held) > 0
        assert shown[HELD] + shown[WITHOUT] == SLOTS


async def test_a_node_that_has_left() -> None:
    async with ring_of("a", "b") as ring:
        await ring.nodes["b"].node.stop()
        shown = await becomes(ring, "a", lambda metrics: metrics[members("left")] == 1)
        assert shown[members("alive")] == 1
        shown = await becomes(ring, "a", lambda metrics: metrics[HELD] == SLOTS)
        assert shown[WITHOUT] == 0
