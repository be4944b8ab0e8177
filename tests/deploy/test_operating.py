"""The commands of docs/operating.md, run with real nodes and a real NATS server."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
import yaml

from skyring.cluster.nats_server import server_binary
from skyring.ports import free_port
from tests.acceptance.receiver import CallbackReceiver
from tests.deploy.units import read_unit
from tests.documents import blocks

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
NODES = ["node-1", "node-2", "node-3"]
FAR_MS = 3_600_000
WAIT_S = 60
LATE_MS_MAX = 5_000

PRELUDE = r"""
set -eu
skyring() { {python} -m skyring "$@"; }
port() { cat "$DIR/$1.port"; }
url() { echo "http://127.0.0.1:$(port "$1")"; }
data() { echo "$DIR/$1.data"; }
store_dir() { echo "$DIR/$1.data"; }
start() {
  case $1 in
    nats-*) exec {nats_server} -a 127.0.0.1 -p "$(port "$1")" -js -sd "$(store_dir "$1")" ;;
    *) exec {python} -m skyring run \
         --node "$1" -p "$(port "$1")" --storage:path "$(data "$1")" $OPTIONS ;;
  esac >>"$DIR/$1.log" 2>&1 </dev/null &
  echo $! >"$DIR/$1.pid"
}
stop() {
  kill -TERM "$(cat "$DIR/$1.pid")"
  while kill -0 "$(cat "$DIR/$1.pid")" 2>/dev/null; do sleep 0.05; done
}
"""


class Site:
    """Nodes, and perhaps a NATS server, as the page's commands know them."""

    def __init__(self, directory: Path, nodes: Sequence[str], servers: Sequence[str] = ()) -> None:
        self._directory = directory
        self.nodes = nodes
        for name in (*nodes, *servers):
            (directory / f"{name}.port").write_text(str(free_port()))
        nats = [f"127.0.0.1:{(directory / f'{name}.port').read_text()}" for name in servers]
        self._environment = os.environ | {
            "DIR": str(directory),
            "NODES": " ".join(nodes),
            "SERVERS": " ".join(servers),
            "OPTIONS": f"--nats {','.join(nats)}" if nats else "",
            "URL": self.url(nodes[0]),
            "DATA": str(directory / f"{nodes[0]}.data"),
            "no_proxy": "127.0.0.1",
            "PYTHONPATH": str(PAGE.parents[1]),
        }
        self._prelude = PRELUDE.replace("{python}", shlex.quote(sys.executable)).replace(
            "{nats_server}", shlex.quote(str(server_binary()))
        )

    def url(self, node: str) -> str:
        return f"http://127.0.0.1:{(self._directory / f'{node}.port').read_text()}"

    async def run(self, commands: str) -> None:
        """Run commands of the page; fails when one of them does."""
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", self._prelude + commands),
            cwd=self._directory,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(WAIT_S):
            out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()

    def processes(self) -> dict[str, str]:
        """The process number of each, by its name."""
        return {file.stem: file.read_text() for file in self._directory.glob("*.pid")}

    async def until_ready(self) -> None:
        async with asyncio.timeout(WAIT_S), httpx.AsyncClient(trust_env=False) as client:
            for node in self.nodes:
                while True:
                    try:
                        if (await client.get(f"{self.url(node)}/health/ready")).status_code == 200:
                            break
                    except httpx.HTTPError:
                        pass
                    await asyncio.sleep(0.05)

    def end(self) -> None:
        """Kill what still runs."""
        for file in self._directory.glob("*.pid"):
            try:
                os.kill(int(file.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


def commands_of(title: str) -> list[str]:
    """The shell blocks of a section."""
    found = blocks(PAGE, "sh", title)
    assert found, title
    return found


def timer(uri: str, timeout_ms: int = FAR_MS) -> dict[str, object]:
    callback = {"transport": "http", "method": "post", "uri": uri}
    return {"timeout": timeout_ms, "data": "x", "callback": callback}


async def create(client: httpx.AsyncClient, url: str, *ids: str) -> None:
    for each in ids:
        answer = await client.post(
            f"{url}/timer", json=timer("http://127.0.0.1:1/"), headers={"x-timer-id": each}
        )
        assert answer.status_code == 201, answer.text


async def pending(client: httpx.AsyncClient, url: str) -> set[str]:
    answer = await client.get(f"{url}/timers?limit=1000")
    assert answer.status_code == 200, answer.text
    return {each["id"] for each in answer.json()["timers"]}


async def test_a_ring_is_upgraded_without_a_gap(tmp_path: Path, client: httpx.AsyncClient) -> None:
    site = Site(tmp_path, NODES, ["nats-1"])
    upgrade, _ = commands_of("Upgrade a ring, one node after the other")
    async with CallbackReceiver() as receiver:
        try:
            await site.run("start nats-1; for node in $NODES; do start $node; done")
            await site.until_ready()
            before = site.processes()
            done: list[str] = []
            upgrading = asyncio.create_task(site.run(upgrade))
            while not upgrading.done() or len(done) < 200:
                done.append(await create_anywhere(client, site, receiver.uri, len(done)))
                await asyncio.sleep(0.02)
            await upgrading
            after = site.processes()
            assert all(before[node] != after[node] for node in NODES), "it ended too early"
            await receiver.wait(len(done))
        finally:
            site.end()
    late_ms = [each.arrived_ms - each.due_ms for each in receiver.received]
    assert min(late_ms) >= 0
    assert max(late_ms) <= LATE_MS_MAX
    assert sorted(each.id for each in receiver.received) == sorted(done), "each of them once"


async def create_anywhere(client: httpx.AsyncClient, site: Site, uri: str, number: int) -> str:
    """As nginx does: the next node is asked when one does not answer."""
    timer_id, said = f"timer-{number}", []
    for turn in range(len(site.nodes)):
        url = site.url(site.nodes[(number + turn) % len(site.nodes)])
        try:
            answer = await client.post(
                f"{url}/timer", json=timer(uri, 1_000), headers={"x-timer-id": timer_id}
            )
        except httpx.HTTPError as error:
            said.append(repr(error))
            continue
        if answer.status_code in (200, 201):
            return timer_id
        said.append(answer.text)
    raise AssertionError(f"no node took a timer: {said}")


async def test_the_files_of_a_node_that_stands_alone(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    site = Site(tmp_path, NODES[:1])
    _, backup, _ = commands_of("Back up")
    _, _, restore, _ = commands_of("Restore")
    # As systemd has it: the state directory is a link, and has to stay one.
    directory, private = tmp_path / "node-1.data", tmp_path / "private"
    private.mkdir()
    directory.symlink_to(private)
    try:
        await site.run("start node-1")
        await site.until_ready()
        await create(client, site.url("node-1"), "kept", "cancelled-later")
        await site.run(backup)
        await site.until_ready()
        assert (await client.delete(f"{site.url('node-1')}/timer/cancelled-later")).is_success
        await create(client, site.url("node-1"), "made-later")
        await site.run(restore)
        await site.until_ready()
        assert await pending(client, site.url("node-1")) == {"kept", "cancelled-later"}
        assert directory.is_symlink()
        assert any(private.iterdir())
    finally:
        site.end()


@pytest.mark.parametrize(
    ("title", "position", "unset"),
    [
        ("Back up", 1, "DATA"),
        ("Back up", 2, "SERVERS"),
        ("Restore", 2, "DATA"),
        ("Restore", 3, "NODES"),
        ("Restore", 3, "SERVERS"),
        ("Restore", 3, "data"),
        ("Restore", 3, "store_dir"),
    ],
)
async def test_what_was_not_set_stops_a_script(
    title: str, position: int, unset: str, tmp_path: Path
) -> None:
    """One that went on would save nothing, or leave what has to go."""
    words = {"NODES": "NODES=node-1", "SERVERS": "SERVERS=nats-1", "DATA": 'DATA="$PWD/data"'}
    words |= {name: f'{name}() {{ echo "$PWD/{name}"; }}' for name in ("data", "store_dir")}
    prelude = [word for name, word in words.items() if name != unset]
    for name in ("data", "store_dir"):
        (tmp_path / name).mkdir()
    # Whoever types the lines has no `set -e`.
    script = "\n".join(
        [f"unset {unset}; start() {{ :; }}; stop() {{ :; }}; PATH=/usr/bin:/bin", *prelude]
    )
    done = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"{script}\n{commands_of(title)[position]}\necho went on"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_S):
        out, _ = await done.communicate()
    assert done.returncode != 0
    assert out == b""


def test_the_commands_for_docker_name_what_there_is() -> None:
    """They need Docker to be run; what they name is held to the files that they are for."""
    _, script = commands_of("Upgrade a ring, one node after the other")
    root = PAGE.parents[1]
    compose = yaml.safe_load((root / "deploy/compose/docker-compose.yml").read_text())
    (listed,) = re.findall(r"for node in (.*); do", script)
    images = {
        name: service["image"] for name, service in compose["services"].items() if name in listed
    }
    assert listed.split() == [name for name in compose["services"] if name.startswith("node-")]
    assert len(set(images.values())) == 1, "one is built, and all have it"
    (built,) = re.findall(r"docker compose build (\S+)", script)
    assert "build" in compose["services"][built]
    (asked,) = re.findall(r"exec -T \"\$0\" (\w+) ready", script)
    assert (root / "deploy/docker" / asked).exists()
    for node in images:
        assert "ports" not in compose["services"][node], "they could be asked from outside"
    volumes = re.findall(r"compose_([\w-]+)", PAGE.read_text(encoding="utf-8"))
    assert volumes
    assert set(volumes) <= compose["volumes"].keys()


def test_the_directories_are_those_of_the_units() -> None:
    (row,) = re.findall(r"^\| systemd \| .*var.*$", PAGE.read_text(encoding="utf-8"), re.M)
    for name in ("skyring", "skyring@", "nats-server"):
        unit = read_unit(PAGE.parents[1] / "deploy" / "systemd" / f"{name}.service")
        state = unit.one("StateDirectory").replace("%i", "a")
        assert f"`/var/lib/{state}`" in row


def test_no_loop_waits_for_ever() -> None:
    text = "".join(blocks(PAGE, "sh"))
    assert text.count("until ") == len(re.findall(r"timeout \d+ sh -c 'until ", text)) == 2


async def test_an_export_and_its_import(tmp_path: Path, client: httpx.AsyncClient) -> None:
    site = Site(tmp_path, NODES[:1])
    backup, _, _ = commands_of("Back up")
    restore, dead_letters, _, _ = commands_of("Restore")
    names = [f"timer-{number}" for number in range(30)]
    try:
        await site.run("start node-1")
        await site.until_ready()
        await create(client, site.url("node-1"), *names)
        await site.run(backup)
        assert (tmp_path / "dead-letters.ndjson").read_text() == ""
        await site.run('stop node-1; rm -rf "$DATA"; start node-1')
        await site.until_ready()
        assert await pending(client, site.url("node-1")) == set()
        await site.run(restore)
        await site.run(dead_letters)
        assert await pending(client, site.url("node-1")) == set(names)
    finally:
        site.end()


async def test_the_files_of_a_ring(tmp_path: Path, client: httpx.AsyncClient) -> None:
    site = Site(tmp_path, NODES[:2], ["nats-1"])
    _, _, backup = commands_of("Back up")
    *_, restore = commands_of("Restore")
    names = [f"timer-{number}" for number in range(40)]
    try:
        await site.run("start nats-1; for node in $NODES; do start $node; done")
        await site.until_ready()
        await create(client, site.url("node-1"), *names)
        await site.run(backup)
        await site.until_ready()
        await create(client, site.url("node-2"), "made-later")
        began_s = time.monotonic()
        await site.run(restore)
        await site.until_ready()
        assert time.monotonic() - began_s < WAIT_S
        assert await pending(client, site.url("node-2")) == set(names)
        await create(client, site.url("node-1"), "made-after-all")
    finally:
        site.end()
