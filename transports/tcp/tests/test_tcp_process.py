"""The tcp transport in a real node, with receivers in processes of their own."""

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
from skyring_tcp import Tcp
from tcp_peer import TcpProcess

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
    arguments = ("-t", "tcp", "--storage:backend", "memory")
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
    async with TcpProcess(tmp_path / "received") as peer:
        callback = {"transport": "tcp", "method": "send", "uri": peer.callback.uri}
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
    for name, field in Tcp.Options.model_fields.items():
        assert rows[name] == ("none" if field.default is None else f"`{field.default}`")


async def _until_nothing_is_pending(api: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        while (await api.get("/timers", params={"limit": 1})).json()["timers"]:
            await asyncio.sleep(0.02)
