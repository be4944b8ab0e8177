"""nginx with the configuration of deploy/compose, in front of real nodes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from grp import getgrgid
from pathlib import Path
from pwd import getpwuid

import httpx
import pytest

from skyring.bench.client import status_or_none
from skyring.bench.process import ServerProcess
from skyring.bench.ring_processes import RingProcesses
from skyring.cluster.leash import leashed
from skyring.ports import free_port
from tests.acceptance.receiver import CallbackReceiver
from tests.contract.raw_receiver import Exchange, RawReceiver, always, answer
from tests.deploy.shipped import DEPLOY, HOST, eventually
from tests.deploy.test_operating import timer

CONF = DEPLOY / "compose" / "nginx.conf"
TIMERS = 400
PER_S = 80
WAIT_S_MAX = 60
POLL_S = 0.01
UNAVAILABLE = answer(503)


def nginx_binary() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found is not None, "tools/install-servers installs nginx"
    return found


def conf(directory: Path, port: int, upstreams: Sequence[int]) -> Path:
    """The shipped file; other are only addresses, and where it writes."""
    directory.mkdir()
    text = CONF.read_text(encoding="utf-8")
    nodes = re.findall(r"^ +server node-\d:3000 (.*);\n", text, re.M)
    assert len(nodes) == 5
    assert len(set(nodes)) == 1
    servers = "".join(f"    server {HOST}:{each} {nodes[0]};\n" for each in upstreams)
    text, found = re.subn(r"(?:^ +server node-\d:3000 .*;\n)+", servers, text, flags=re.M)
    assert found == 1
    assert "listen 8080 " in text
    text = text.replace("listen 8080 ", f"listen {HOST}:{port} ")
    text = text.replace("/tmp/", f"{directory}/").replace("/dev/stderr", str(directory / "errors"))
    for kind in ("fastcgi", "uwsgi", "scgi"):  # compiled in, and made in a directory of the system
        text = text.replace("http {\n", f"http {{\n  {kind}_temp_path {directory}/{kind};\n", 1)
    file = directory / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    return file


@asynccontextmanager
async def nginx(directory: Path, *upstreams: int) -> AsyncIterator[str]:
    """nginx that shares requests among these ports; its URL."""
    port = free_port()
    file = conf(directory, port, upstreams)
    errors = directory / "errors"
    command = [nginx_binary(), "-e", str(errors), "-c", str(file)]
    # As root its workers would be another user, to whom directories of tests are closed.
    command += ["-g", f"daemon off; user {getpwuid(os.getuid()).pw_name} {_group()};"]
    process = await asyncio.create_subprocess_exec(*leashed(command))
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while await status_or_none(HOST, port, "/", timeout_s=5) is None:
                assert process.returncode is None, errors.read_text()
                await asyncio.sleep(POLL_S)
        yield f"http://{HOST}:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _group() -> str:
    return getgrgid(os.getgid()).gr_name


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=TIMERS)
    async with httpx.AsyncClient(timeout=WAIT_S_MAX, limits=limits) as made:
        yield made


async def create(client: httpx.AsyncClient, url: str, callback: str, timeout_ms: int) -> str:
    """As `curl` does, without an id of its own; the id that the timer has got."""
    answered = await client.post(f"{url}/timer", json=timer(callback, timeout_ms))
    assert answered.status_code in (200, 201), answered.text
    return answered.headers["location"].rpartition("/")[2]


async def test_nodes_are_killed_and_no_create_fails(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    creates: list[asyncio.Task[str]] = []

    async def create_many(url: str, callback: str) -> None:
        for _ in range(TIMERS):
            creates.append(asyncio.create_task(create(client, url, callback, 3_000)))
            await asyncio.sleep(1 / PER_S)

    async with (
        CallbackReceiver() as receiver,
        RingProcesses(tmp_path / "ring", nodes=3) as ring,
        nginx(tmp_path / "nginx", *(node.server.port for node in ring.running())) as url,
    ):
        creating = asyncio.create_task(create_many(url, receiver.uri))
        for name in ("n1", "n2"):
            await asyncio.sleep(TIMERS / PER_S / 5)
            await ring.kill(name)
            await ring.restart(name)
            await ring.whole()
        await creating
        ids = set(await asyncio.gather(*creates))
        await eventually(lambda: ids <= {each.id for each in receiver.received})
        assert not ring.defects()
    assert len(ids) == TIMERS
    assert all(each.arrived_ms >= each.due_ms for each in receiver.received)


async def test_a_create_that_is_asked_of_two_nodes_is_one_timer(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    """One that dies while it answers is stood for by one that always does."""

    async def die(exchange: Exchange) -> None:
        exchange.writer.close()

    async with (
        CallbackReceiver() as receiver,
        RawReceiver(die) as dying,
        ServerProcess(tmp_path / "node") as node,
        nginx(tmp_path / "nginx", dying.port, node.port) as url,
    ):
        before = len(dying.exchanges)
        ids = [await create(client, url, receiver.uri, 1) for _ in range(20)]
        await receiver.wait(len(ids))
    asked = [exchange.header("X-Timer-Id") for exchange in dying.exchanges[before:]]
    assert asked, "it was asked"
    assert {value for values in asked for value in values} <= set(ids)
    assert sorted(each.id for each in receiver.received) == sorted(ids)


async def test_a_node_that_says_503_is_stood_in_for(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with (
        CallbackReceiver() as receiver,
        RawReceiver(always(UNAVAILABLE)) as busy,
        ServerProcess(tmp_path / "node") as node,
        nginx(tmp_path / "nginx", busy.port, node.port) as url,
    ):
        given = {"x-timer-id": "my-own"}
        body = timer(receiver.uri, 600_000)
        for _ in range(4):
            answered = await client.post(f"{url}/timer", json=body, headers=given)
            assert answered.status_code in (200, 201), answered.text
            assert answered.headers["location"].endswith("/timer/my-own")
            assert (await client.get(f"{url}/timer/my-own")).status_code == 200
        assert (await client.delete(f"{url}/timer/my-own")).is_success
        assert busy.exchanges, "it was asked"


async def test_without_any_node_it_says_so(tmp_path: Path, client: httpx.AsyncClient) -> None:
    async with nginx(tmp_path / "nginx", free_port(), free_port()) as url:
        assert (await client.get(f"{url}/health/ready")).status_code == 502
