"""``skyring cluster``: real nodes and a real nats-server under one supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from skyring.bench.client import status_or_none
from skyring.ports import free_port
from skyring.testing import pause_process
from tests.acceptance.receiver import CallbackReceiver
from tests.acceptance.test_cli import skyring
from tests.acceptance.test_docs import console

TIMEOUT_S = 60
QUICK = (
    *("--ring:heartbeat-ms", "100", "--ring:suspect-ms", "400"),
    *("--ring:dead-ms", "800", "--ring:lease-ms", "1000"),
)
"""A ring that takes over soon."""


class Cluster:
    """The supervisor, what it says, and what runs under it."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.lines: list[str] = []
        self.urls: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        self.all_pids: set[int] = set()

    async def until(self, text: str) -> str:
        """The next line that has this in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            while raw := await self.process.stdout.readline():
                line = raw.decode().rstrip("\n")
                self._note(line)
                if text in line:
                    return line
        raise AssertionError(f"{text!r} was not said: {self.lines}")

    def _note(self, line: str) -> None:
        self.lines.append(line)
        if started := re.search(r"^cluster *\| ([\w-]+) is process (\d+)$", line):
            self.pids[started[1]] = int(started[2])
            self.all_pids.add(int(started[2]))
        if url := re.search(r"^([\w-]+) +((?:http|nats)://\S+)", line):
            self.urls[url[1]] = url[2]

    async def ready(self) -> None:
        await self.until("ready after")

    async def ended(self) -> int:
        """The exit code; all output has been read."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            for line in (await self.process.stdout.read()).decode().splitlines():
                self._note(line)
            return await self.process.wait()

    async def all_gone(self) -> None:
        """Wait until nothing of it runs any more."""
        async with asyncio.timeout(TIMEOUT_S):
            while any(runs(pid) for pid in self.all_pids):
                await asyncio.sleep(0.01)


def documented(command: str) -> list[str]:
    """The lines of docs/cli.md with this command."""
    return [shown for shown, _ in console() if shown.split()[1] == command]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state not in "ZX"


@asynccontextmanager
async def cluster(
    directory: Path, *arguments: str, port: int = 0, nats_port: int = 0
) -> AsyncIterator[Cluster]:
    command = (sys.executable, "-m", "skyring", "cluster", "--data", str(directory))
    process = await asyncio.create_subprocess_exec(
        *(*command, "--port", str(port), "--nats-port", str(nats_port), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    made = Cluster(process, directory)
    try:
        yield made
    finally:
        if process.returncode is None:
            process.kill()  # and all that it has started ends with it
            await process.wait()
        await made.all_gone()


async def status(url: str, path: str) -> int | None:
    host, _, port = url.removeprefix("http://").partition(":")
    return await status_or_none(host, int(port), path, timeout_s=5)


async def test_it_starts_and_stops_in_order(tmp_path: Path) -> None:
    directory = tmp_path / "a b" / "ring"
    async with cluster(directory, "--nodes", "2", "--", "--log:format", "json") as ring:
        await ring.ready()
        assert ring.urls.keys() == ring.pids.keys() == {"nats", "node-1", "node-2"}
        for node in ("node-1", "node-2"):
            assert await status(ring.urls[node], "/health/ready") == 200
            assert (directory / node).is_dir()
        assert f"curl -i {ring.urls['node-1']}/timer -d" in await ring.until("curl")
        assert f"kill -9 {ring.pids['node-2']}" in await ring.until("kill")

        other = await skyring("cluster", "--data", str(directory), "--port", "0")
        assert other.code == 1
        assert other.err == (
            f"skyring: another cluster runs in {directory}: process {ring.process.pid}\n"
        )

        ring.process.send_signal(signal.SIGTERM)
        assert await ring.ended() == 0
        assert not any(runs(pid) for pid in ring.all_pids)
    order = [line for line in ring.lines if "stopped" in line or "Server Exiting" in line]
    assert [line.split()[0] for line in order] in (
        ["node-1", "node-2", "nats"],
        ["node-2", "node-1", "nats"],
    )
    assert all(re.match(r"(cluster|nats|node-\d) +\| ", line) for line in ring.lines[5:])
    for name, said in (
        ("nats", b"Server is ready"),
        ("node-1", b'"level": "info"'),
        ("node-2", b"stopped"),
    ):
        assert said in (directory / "logs" / f"{name}.log").read_bytes()


async def test_ports_that_were_asked_for_and_a_second_start(tmp_path: Path) -> None:
    first = next(port for port in iter(free_port, None) if all(map(is_free, (port, port + 1))))
    nats_port = free_port(avoid=(first, first + 1))
    for _ in range(2):
        async with cluster(
            tmp_path, "--nodes", "2", "--sync", "interval", port=first, nats_port=nats_port
        ) as ring:
            await ring.ready()
            assert ring.urls == {
                "nats": f"nats://127.0.0.1:{nats_port}",
                "node-1": f"http://127.0.0.1:{first}",
                "node-2": f"http://127.0.0.1:{first + 1}",
            }
            taken = await skyring("cluster", "--data", str(tmp_path / "x"), "-p", str(first - 1))
            assert taken.code == 1
            assert f"node-2 cannot listen on 127.0.0.1:{first}: address already" in taken.err
            ring.process.send_signal(signal.SIGINT)
            assert await ring.ended() == 0
        assert "every two minutes" in "\n".join(ring.lines)


def is_free(port: int) -> bool:
    with socket.socket() as candidate:
        return candidate.connect_ex(("127.0.0.1", port)) != 0


async def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--nodes", "1") as ring:
        await ring.ready()
        assert all(runs(pid) for pid in ring.all_pids)
        ring.process.kill()
        await ring.process.wait()
        await ring.all_gone()
    async with cluster(tmp_path, "--nodes", "1") as again:
        await again.ready()


async def test_what_dies_is_told_and_started_again(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--nodes", "2") as ring:
        await ring.ready()
        for name in ("node-2", "nats"):
            os.kill(ring.pids[name], signal.SIGKILL)
            assert (await ring.until(f"{name} has ended")).endswith(
                f"{name} has ended, killed by SIGKILL; it is started again"
            )
            await ring.until(f"{name} is process")
        async with asyncio.timeout(TIMEOUT_S):
            while await status(ring.urls["node-2"], "/health/ready") != 200:
                await asyncio.sleep(0.02)
        assert len(ring.all_pids) == 5
        ring.process.send_signal(signal.SIGTERM)
        assert await ring.ended() == 0


async def test_what_dies_stays_dead_if_that_is_wanted(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--nodes", "2", "--no-restart") as ring:
        await ring.ready()
        for name, rest in (("node-1", "not started again"), ("node-2", "not started again")):
            os.kill(ring.pids[name], signal.SIGTERM)
            assert rest in await ring.until(f"{name} has ended, exit code 0")
        await ring.until("no node is left; stopping")
        assert await ring.ended() == 1


async def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--nodes", "1") as ring:
        await ring.ready()
        await pause_process(ring.pids["node-1"])  # so that it does not end when it is told to
        ring.process.send_signal(signal.SIGINT)
        await ring.until("stopping, the nodes first")
        ring.process.send_signal(signal.SIGINT)
        assert await ring.ended() == 1
        await ring.all_gone()
    assert "all is killed" in ring.lines[-1]


async def test_three_servers_of_nats(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--nats-servers", "3", "--nodes", "1") as ring:
        await ring.ready()
        assert ring.urls.keys() == {"nats-1", "nats-2", "nats-3", "node-1"}
        ring.process.send_signal(signal.SIGTERM)
        assert await ring.ended() == 0
    other = await skyring("cluster", "--data", str(tmp_path), "--port", "0", "--nats-port", "0")
    assert other.code == 2
    assert "was made with --nats-servers 3" in other.err


async def test_nodes_that_cannot_start(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--", "-t", "no-such-transport") as ring:
        assert await ring.ended() == 1
    told = "\n".join(ring.lines)
    assert re.search(r"node-\d +\| skyring: .*no-such-transport", told)
    assert re.search(r"node-\d has ended, exit code 2; it would end again", told)
    assert re.search(r"node-\d cannot be started; stopping", told)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--nodes", "33"], 2, "--nodes"),
        (["--nodes", "0"], 2, "--nodes"),
        (["--nats-servers", "2"], 2, "take 1 or 3"),
        (["--sync", "never"], 2, "--sync"),
        (["--ring", "a.b"], 2, "ring.name: "),
        (["--port", "65535"], 2, "there are no 3 ports from there on"),
        (["--port", "4221", "--nats-port", "4222"], 2, "both come to 4222"),
        (["--log:level", "debug"], 2, "--log:level"),
        (["node"], 2, "node"),
        (["--", "--log:levl", "debug"], 2, "--log-levl"),
        (["--", "--log:level", "loud"], 2, "log.level: "),
        (["--", "--port", "3000"], 2, "--port is not for the nodes of a cluster"),
        (["--", "--ring:replicas", "3"], 2, "--ring:replicas is not for the nodes"),
        (["--", "--host", "::1"], 2, "IPv4"),
        (["--data", "file"], 1, "cannot use file"),
    ],
)
async def test_what_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = await skyring("cluster", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


@pytest.mark.parametrize("command", documented("cluster"))
async def test_the_commands_of_the_cli_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ours, _, theirs = command.removeprefix("skyring cluster").partition(" -- ")
    words = ours.split()
    data = words[words.index("--data") + 1] if "--data" in words else "cluster"
    words = [word for word in words if word not in ("--data", data, "--port", "3000")]
    async with cluster(Path(data), *words, "--", *theirs.split()) as ring:
        await ring.ready()
        ring.process.send_signal(signal.SIGTERM)
        assert await ring.ended() == 0


async def test_help_for_the_options_of_the_nodes() -> None:
    done = await skyring("cluster", "--", "--help")
    assert done.code == 0
    assert "--ring:lease-ms" in done.out


async def test_output_that_nobody_reads_any_more(tmp_path: Path) -> None:
    async with cluster(tmp_path, "--nodes", "1") as ring:
        await ring.ready()
        reader = ring.process.stdout
        assert reader is not None
        reader._transport.close()  # type: ignore[attr-defined]  # as head does
        os.kill(ring.pids["node-1"], signal.SIGKILL)  # which it wants to tell
        async with asyncio.timeout(TIMEOUT_S):
            assert await ring.process.wait() == 1
        await ring.all_gone()


# As a ring


async def ring_of(url: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url) as api:
        answer = await api.get("/ring")
        assert answer.status_code == 200
        found = answer.json()
        assert isinstance(found, dict)
        return found


async def test_a_timer_is_fired_though_its_node_is_killed(
    tmp_path: Path, receiver: CallbackReceiver
) -> None:
    async with cluster(tmp_path, "--nodes", "3", "--", *QUICK) as ring:
        await ring.ready()
        await all_held(ring)
        async with httpx.AsyncClient(base_url=ring.urls["node-1"], timeout=30) as api:
            for number in range(60):
                answer = await api.post(
                    "/timer",
                    json={"timeout": 3_000, "callback": receiver.callback()},
                    headers={"x-timer-id": f"timer-{number}"},
                )
                assert answer.status_code == 201
        os.kill(ring.pids["node-2"], signal.SIGKILL)
        await ring.until("node-2 has ended")
        async with asyncio.timeout(TIMEOUT_S):
            while len({seen.id for seen in receiver.received}) < 60:
                await receiver.wait(len(receiver.received) + 1)  # some may come twice
        await ring.until("node-2 is process")
        await all_held(ring)
        for command in documented("ring"):
            if "--watch" not in command:
                drawn = await skyring(*command.split()[1:], url=ring.urls["node-3"])
                assert drawn.code == 0
                assert re.search(r"node-2 +alive", drawn.out)
        shown = await skyring("ring", "--json", url=ring.urls["node-2"])
        assert json.loads(shown.out)["log"]["sync"] == "always"
        ring.process.send_signal(signal.SIGTERM)
        assert await ring.ended() == 0
        assert not any(runs(pid) for pid in ring.all_pids)


async def all_held(ring: Cluster) -> None:
    """Wait until every node holds its share of the slots."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            found = await ring_of(ring.urls["node-1"])
            members = [member for member in found["members"] if member["state"] == "alive"]
            if len(members) == 3 and all(m["slots_held"] == m["slots_placed"] for m in members):
                assert found["unheld"] == []
                return
            await asyncio.sleep(0.05)
