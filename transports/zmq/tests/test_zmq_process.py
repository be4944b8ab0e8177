"""The zmq transport in a real node, with receivers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from skyring.bench.process import ServerProcess
from skyring.ports import free_port
from skyring_zmq import Zmq
from zmq_peer import ZmqProcess

README = Path(__file__).parents[1] / "README.md"
TIMERS = 2_000
QUICK_RETRY = {"attempts": 1_000, "backoff_ms": 50, "max_ms": 500}
WAIT_S_MAX = 60
ENDS_WITH_THE_TEST = "from skyring.bench.process import exit_with_parent as end\nend()\n"


def blocks(language: str) -> list[str]:
    """Fenced blocks of the README."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    return [content for name, content in found if name == language]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    arguments = ("-t", "zmq", "--storage:backend", "memory")
    async with (
        ServerProcess(tmp_path, arguments=arguments) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as api,
    ):
        yield api
        assert "Traceback" not in server.log


async def test_nothing_is_lost_when_a_receiver_is_killed_with_sigkill(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    wanted = {b"timer %d" % number for number in range(TIMERS)}
    async with ZmqProcess("rep", tmp_path / "received") as peer:
        callback = {"transport": "zmq", "method": "request", "uri": peer.callback.uri}
        timers = [
            {"timeout": 1, "data": data.decode(), "callback": {**callback, "retry": QUICK_RETRY}}
            for data in wanted
        ]
        assert (await api.post("/timers", json=timers)).status_code == 200
        await peer.wait(lambda received: len(received) > TIMERS // 4)
        await peer.kill()
        await peer.start()
        received = await peer.wait(lambda received: wanted <= set(received))
        assert set(received) == wanted
        await _until_nothing_is_pending(api)
        assert (await api.get("/dead-letters")).json()["dead_letters"] == []


async def test_pushing_goes_on_when_a_receiver_is_killed_with_sigkill(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    """What was on its way may be lost; what is due while nobody is there is not."""
    async with ZmqProcess("pull", tmp_path / "received") as peer:
        callback = {"transport": "zmq", "method": "push", "uri": peer.callback.uri}

        async def create(name: str) -> set[bytes]:
            data = [f"{name} {number}" for number in range(TIMERS // 4)]
            timers = [
                {"timeout": 1, "data": each, "callback": {**callback, "retry": QUICK_RETRY}}
                for each in data
            ]
            assert (await api.post("/timers", json=timers)).status_code == 200
            return {each.encode() for each in data}

        before = await create("before")
        await peer.wait(lambda received: before <= set(received))
        await _until_nothing_is_pending(api)
        await peer.kill()
        await _until_a_delivery_fails(api, callback)
        meanwhile = await create("meanwhile")
        await peer.start()
        received = await peer.wait(lambda received: meanwhile <= set(received))
        assert len(received) == len(before | meanwhile)


async def test_the_example_of_the_readme(api: httpx.AsyncClient) -> None:
    port = str(free_port())
    (timer,) = re.findall(r"-d '(\{.*?\})'", blocks("sh")[1], re.S)
    (code,) = blocks("python")
    receiver = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", ENDS_WITH_THE_TEST + code.replace("7000", port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        content = json.loads(timer.replace("7000", port))
        content |= {"timeout": 1}
        content["callback"]["retry"] = QUICK_RETRY  # it may not be up yet
        assert (await api.post("/timer", json=content)).status_code == 201
        assert receiver.stdout is not None
        async with asyncio.timeout(WAIT_S_MAX):
            line = await asyncio.to_thread(receiver.stdout.readline)
        assert json.loads(line) == {"order": 17}
        await _until_nothing_is_pending(api)
    finally:
        receiver.kill()
        receiver.communicate()


def test_the_readme_has_every_option() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", README.read_text(encoding="utf-8"), re.M))
    for name, field in Zmq.Options.model_fields.items():
        assert rows[name] == ("none" if field.default is None else f"`{field.default}`")


async def _until_nothing_is_pending(api: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        while (await api.get("/timers", params={"limit": 1})).json()["timers"]:
            await asyncio.sleep(0.02)


async def _until_a_delivery_fails(api: httpx.AsyncClient, callback: dict[str, str]) -> None:
    """Until then a push may still be taken for the receiver that is gone."""
    once = {"timeout": 1, "data": "probe", "callback": {**callback, "retry": {"attempts": 1}}}
    async with asyncio.timeout(WAIT_S_MAX):
        while not (await api.get("/dead-letters")).json()["dead_letters"]:
            assert (await api.post("/timer", json=once)).status_code == 201
            await _until_nothing_is_pending(api)
