"""A ring of real processes on three servers with the files of ``deploy/nats``."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyring.bench.process import ServerProcess
from tests.acceptance.receiver import CallbackReceiver
from tests.deploy.shipped import ShippedNats, ShippedRing, write_settings

pytestmark = pytest.mark.timeout(240)

WAIT_S_MAX = 60
POLL_S = 0.05
TIMERS = 60
LATER_MS = 6_000
"""Long enough for a node to be killed before."""


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[ShippedNats]:
    made = ShippedNats(tmp_path / "nats")
    await made.start()
    yield made
    made.kill()


async def eventually(reached: Callable[[], Awaitable[bool]]) -> None:
    """For what another process comes to."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not await reached():
            await asyncio.sleep(POLL_S)


async def create(
    ring: ShippedRing, receiver: CallbackReceiver, tag: str, timeout_ms: int
) -> dict[str, float]:
    """Timers through all nodes that run, and when each may be delivered at the earliest."""
    due_ms = {}
    nodes = ring.running()
    async with httpx.AsyncClient(timeout=WAIT_S_MAX, trust_env=False) as client:
        for number in range(TIMERS):
            timer_id = f"{tag}-{number}"
            url = f"{nodes[number % len(nodes)].server.url}/timer"
            body = {"timeout": timeout_ms, "data": tag, "callback": receiver.callback()}
            due_ms[timer_id] = time.time() * 1000 + timeout_ms

            async def is_taken(
                url: str = url, body: dict[str, Any] = body, timer_id: str = timer_id
            ) -> bool:
                answer = await client.post(url, json=body, headers={"x-timer-id": timer_id})
                # 503 while NATS elects a leader; then 200 if it had been done all the same.
                assert answer.status_code in (201, 200, 503), answer.text
                return answer.status_code != 503

            await eventually(is_taken)
    return due_ms


async def test_timers_outlive_a_node_and_a_server(nats: ShippedNats, tmp_path: Path) -> None:
    async with CallbackReceiver() as receiver, ShippedRing(tmp_path / "ring", nats, 3) as ring:
        due_ms = await create(ring, receiver, "soon", 1)
        due_ms |= await create(ring, receiver, "later", LATER_MS)
        assert await ring.kill("n3") == -9
        await ring.taken_over("n3")
        await receiver.wait(2 * TIMERS, WAIT_S_MAX)

        nats.servers[0].kill()
        due_ms |= await create(ring, receiver, "two-servers", 1)
        await ring.restart("n3")
        await nats.servers[0].start()
        await ring.whole()
        due_ms |= await create(ring, receiver, "whole-again", 1)
        await receiver.wait(4 * TIMERS, WAIT_S_MAX)

        first = {callback.id: callback for callback in reversed(receiver.received)}
        assert first.keys() == due_ms.keys()
        assert all(first[each].arrived_ms >= due_ms[each] for each in due_ms), "one came early"
        for name in ("n1", "n2", "n3"):
            assert await ring.stop(name) == 0
        assert ring.defects() == []
    assert nats.refusals("node") == []


# Nodes that are not let in


def node(directory: Path, nats: ShippedNats, *arguments: str) -> ServerProcess:
    """A node that may never be ready."""
    return ServerProcess(
        directory,
        arguments=(
            *("--nats", ",".join(nats.urls), "--ring:replicas", "3", "--node", "a"),
            *("--log:level", "info", *arguments),
        ),
    )


async def not_ready(server: ServerProcess, reason: str) -> None:
    """Wait until it says that it is not ready for this reason."""

    async def is_so() -> bool:
        try:
            answer = await client.get(f"{server.url}/health/ready")
        except httpx.TransportError:
            return False
        assert answer.status_code == 503
        return reason in answer.text

    async with httpx.AsyncClient(timeout=WAIT_S_MAX, trust_env=False) as client:
        await eventually(is_so)


async def test_a_node_with_a_wrong_password_goes_on_trying(
    nats: ShippedNats, tmp_path: Path
) -> None:
    file = write_settings(tmp_path / "a", nats, "node", "wrong")
    server = node(tmp_path / "a", nats, "--config", str(file))
    server.launch()
    try:
        await not_ready(server, "the server does not accept the credentials")

        async def was_refused_again() -> bool:
            return all(len(each.log_lines("authentication error")) > 2 for each in nats.servers)

        await eventually(was_refused_again)
        for url in nats.urls:
            text = f"{url}: the server does not accept the credentials"
            assert server.log.count(text) == 1, "not at each try"

        # Its password becomes the right one.
        for each in nats.servers:
            passwords = each.directory / "passwords.conf"
            text = passwords.read_text().replace(nats.passwords["node"], "wrong")
            passwords.write_text(text)
            each.reload()
        await server.wait_ready()
        assert await server.stop() == 0
    finally:
        await server.kill()
    assert "Traceback" not in server.log


async def test_a_node_with_the_user_of_another_role_says_what_it_may_not(
    nats: ShippedNats, tmp_path: Path
) -> None:
    file = write_settings(tmp_path / "a", nats, "observer")
    server = node(tmp_path / "a", nats, "--config", str(file))
    server.launch()
    try:
        await not_ready(server, "the ring cannot be joined yet: NATS: the server does not permit")
        assert await server.stop() == 0
    finally:
        await server.kill()
    said = re.findall("cannot be joined yet: (.*)", server.log)
    assert len(said) == len(set(said)), "not at each try"
    assert any("Permissions Violation" in reason for reason in said)
    assert nats.refusals("observer")


async def test_a_node_in_an_account_without_jetstream_ends(
    nats: ShippedNats, tmp_path: Path
) -> None:
    file = write_settings(tmp_path / "a", nats, "system")
    server = node(tmp_path / "a", nats, "--config", str(file))
    server.launch()
    assert await server.ended(WAIT_S_MAX) == 1
    assert re.search("CRITICAL .* NATS has no JetStream here", server.log)


async def test_a_node_without_a_certificate_to_trust_says_so(
    nats: ShippedNats, tmp_path: Path
) -> None:
    server = node(tmp_path / "a", nats)
    server.launch()
    try:
        await not_ready(server, "certificate verify failed")
        assert await server.stop() == 0
    finally:
        await server.kill()
    assert "certificate verify failed" in server.log


async def test_a_node_with_half_of_its_credentials_ends_at_once(
    nats: ShippedNats, tmp_path: Path
) -> None:
    server = node(tmp_path / "a", nats, "--nats:user", "node")
    server.launch()
    assert await server.ended(WAIT_S_MAX) == 2
    assert "nats: user and password go together" in server.log
